"""Requests to the Hub: where it is, who asks, what to do when it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from time import sleep
from typing import Any, TypeVar
from urllib.parse import urlsplit

from moetool import __version__
from moetool.errors import HubError, MoetoolError
from moetool.hub.trouble import Trouble, disk_error, network_error, offline_error, page_of, status_error
from moetool.store import read_cache_dir

T = TypeVar("T")


@dataclass(frozen=True)
class Retry:
    """How often a request is repeated without any progress, and how long to wait in between.

    The wait doubles from `first_wait_s`. A server that asks for more than `longest_wait_s` is not waited for.
    """

    attempts: int = 6
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0

    def wait_s(self, trouble: Trouble, failures: int) -> float | None:
        """Seconds to wait after so many failures in a row; None: give up."""
        wait_s = trouble.wait_s if trouble.wait_s is not None else self.first_wait_s * 2.0 ** (failures - 1)
        return None if failures >= self.attempts or wait_s > self.longest_wait_s else wait_s


@dataclass(frozen=True)
class Hub:
    """A Hub, the account that asks, and the cache folder that files go into. `uses_xet`: files that it also
    keeps in Xet's chunks are asked for there first."""

    endpoint: str
    cache_dir: Path
    token: str | None = field(default=None, repr=False)
    offline: bool = False
    timeout_s: float = 10.0
    retry: Retry = Retry()
    n_parallel: int = 3
    uses_xet: bool = False

    @property
    def place(self) -> str:
        """The host, for sentences; never with a user or a password."""
        return urlsplit(self.endpoint).hostname or "the Hub"


def read_hub() -> Hub:
    """The Hub that this machine is set up for, as huggingface_hub reads it: HF_ENDPOINT, HF_HOME,
    HF_HUB_CACHE, HF_TOKEN or `hf auth login`, HF_HUB_OFFLINE, HF_HUB_DISABLE_XET."""
    no_address = HubError(
        "HF_ENDPOINT is not the address of a Hub.", "For example: HF_ENDPOINT=https://huggingface.co"
    )
    try:
        from huggingface_hub import constants, get_token
    except ValueError:  # it takes the address apart while it is imported
        raise no_address from None
    endpoint = constants.ENDPOINT.rstrip("/")
    offline = bool(constants.HF_HUB_OFFLINE)
    if not _is_address(endpoint):
        raise no_address
    implicit = not (offline or constants.HF_HUB_DISABLE_IMPLICIT_TOKEN)
    token = get_token() if implicit else None
    if token and not (token.isascii() and token.isprintable()):
        raise HubError("The token has letters that no token has.", "Log in again, or set HF_TOKEN anew.")
    timeout_s = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    uses_xet = not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None
    return Hub(endpoint, read_cache_dir(), token, offline, timeout_s, uses_xet=uses_xet)


def _is_address(endpoint: str) -> bool:
    """Whether requests can be sent there at all."""
    try:
        parts = urlsplit(endpoint)
        has_place = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    clean = endpoint.isprintable() and " " not in endpoint
    return parts.scheme in {"http", "https"} and has_place and clean


@contextmanager
def open_url(
    hub: Hub, url: str, subject: str, span: str = "", bare: bool = False, head: bool = False
) -> Iterator[Any]:
    """A response of huggingface_hub's own session, its body not yet read. Redirects are followed; the token
    stays with the Hub's host. `span` is a Range ("bytes=0-99"); `bare` sends no token; `head` asks for the
    headers only, those of a redirect too.

    Everything that goes wrong, also while the body is read, leaves as a MoetoolError.
    """
    if hub.offline:
        raise offline_error(subject)
    with door(hub, subject):
        from huggingface_hub import get_session

        # Not build_hf_headers: it may ask the Hub which program is calling, once a day, before anything else.
        headers = {"user-agent": f"moetool/{__version__}", "accept-encoding": "identity"}
        if hub.token and not bare:
            headers["authorization"] = f"Bearer {hub.token}"
        if span:
            headers["range"] = span
        method = "HEAD" if head else "GET"
        stream = get_session().stream(
            method, url, headers=headers, timeout=hub.timeout_s, follow_redirects=not head
        )
        with stream as response:
            if response.status_code >= (400 if head else 300):
                has_token = bool(hub.token)
                place, page = hub.place, page_of(url.removeprefix(hub.endpoint), hub.place)
                raise status_error(response.status_code, response.headers, subject, place, page, has_token)
            yield response


@contextmanager
def door(hub: Hub, subject: str) -> Iterator[None]:
    """Where foreign errors end. `subject` is what was being done, for the sentence."""
    try:
        yield
    except MoetoolError:
        raise
    # Not "from error": its text may have a signed address in it.
    except _http_errors() as error:
        raise network_error(type(error).__name__, subject, hub.place, hub.timeout_s) from None
    except _offline_error():
        raise offline_error(subject) from None
    except OSError as error:
        raise disk_error(error, subject) from None


def _http_errors() -> tuple[type[Exception], ...]:
    """The base errors of the HTTP library that huggingface_hub uses, which depends on its version."""
    from huggingface_hub.errors import HfHubHTTPError

    base: type[Exception] = next(c for c in HfHubHTTPError.__mro__ if c.__name__ == "HTTPError")
    return (base,)


def _offline_error() -> type[Exception]:
    from huggingface_hub.errors import OfflineModeIsEnabled

    return OfflineModeIsEnabled


def retried(hub: Hub, ask: Callable[[], T]) -> T:
    """Ask again while the server has trouble. A server that cannot be reached is not asked again: what is
    small and needed now should fail now."""
    failures = 0
    while True:
        try:
            return ask()
        except Trouble as trouble:
            failures += 1
            wait_s = hub.retry.wait_s(trouble, failures)
            if wait_s is None or trouble.is_unreachable:
                raise
            sleep(wait_s)


def read_limited(response: Any, limit_bytes: int, subject: str) -> bytes:
    """The body of a response; HubError as soon as it is longer than `limit_bytes`."""
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > limit_bytes:
            raise HubError(f"The Hub's answer about {subject} is longer than {limit_bytes >> 20} MiB.")
    return bytes(body)
