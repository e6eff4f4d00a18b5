"""Xet: files that the Hub keeps in chunks, asked for through hf_xet where the Hub says that it has them so.

hf_xet gives the bytes in order and from any place on, so they go through the same partial file and the same
hash as those of plain HTTP, and what one of the two began the other can continue.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from moetool.errors import HubError, NotFound
from moetool.hub.client import Hub, open_url
from moetool.hub.trouble import Trouble

_HASH = re.compile(r"[0-9a-f]{64}")
_PUBLIC_HUB = "https://huggingface.co"
# By itself hf_xet buffers up to 1.5 GB, waits five minutes for a silent server, tries for six, and reports
# each transfer.
_SETTINGS: dict[str, object] = {
    "reconstruction.download_buffer_size": 64 << 20,
    "reconstruction.download_buffer_perfile_size": 16 << 20,
    "reconstruction.download_buffer_limit": 96 << 20,
    "reconstruction.min_prefetch_buffer": 64 << 20,
    "client.ac_max_download_concurrency": 16,
    "client.retry_max_attempts": 2,
    "client.retry_base_delay": "500ms",
    "client.retry_max_duration": "20s",
    "telemetry.enabled": False,
}


@dataclass(frozen=True)
class XetFile:
    """A file as Xet knows it, and a pass to read it; `refresh_url` on the Hub gives a new pass."""

    digest: str
    endpoint: str
    refresh_url: str
    expires_unix_s: int
    token: str = field(repr=False)


def find_xet(hub: Hub, response: Any) -> XetFile | None:
    """What the Hub's answer about a file says of it as Xet content; None where plain HTTP must do."""
    digest = response.headers.get("x-xet-hash", "")
    link = response.links.get("xet-auth", {}).get("url", "")
    refresh_url = link or response.headers.get("x-xet-refresh-route", "")
    if refresh_url.startswith(_PUBLIC_HUB + "/"):
        refresh_url = hub.endpoint + refresh_url.removeprefix(_PUBLIC_HUB)
    # The account's token goes there: only to the Hub itself.
    if not _HASH.fullmatch(digest) or _origin(refresh_url) != _origin(hub.endpoint):
        return None
    # An older hf_xet lacks what is used here.
    with suppress(HubError, NotFound, ImportError, AttributeError, TypeError, KeyError, ValueError):
        _session(hub.timeout_s)
        with open_url(hub, refresh_url, "the way to Xet") as answer:
            endpoint = answer.headers["x-xet-cas-url"]
            expires_unix_s = int(answer.headers["x-xet-token-expiration"])
            token = answer.headers["x-xet-access-token"]
        # hf_xet would read local files as well ("local://").
        if urlsplit(endpoint).scheme in {"https", urlsplit(hub.endpoint).scheme}:
            return XetFile(digest, endpoint, refresh_url, expires_unix_s, token)
    return None


def read_xet(hub: Hub, file: XetFile, start: int, size_bytes: int) -> Iterator[bytes]:
    """The file's bytes from `start` on, in order; Trouble when they cannot be had."""
    from hf_xet import XetFileInfo

    with _trouble():
        group = _session(hub.timeout_s).new_download_stream_group(
            endpoint=file.endpoint,
            token=file.token,
            token_expiry_unix_secs=file.expires_unix_s,
            token_refresh_url=file.refresh_url,
            token_refresh_headers={"authorization": f"Bearer {hub.token}"} if hub.token else {},
        )
        stream = group.download_stream(XetFileInfo(file.digest, size_bytes), start=start)
    try:
        while True:
            with _trouble():
                piece = next(stream, b"")
            if not piece:
                return
            yield piece
    finally:
        stream.cancel()


@cache
def _session(timeout_s: float) -> Any:
    from hf_xet import XetConfig, XetSession

    patience = {"client.connect_timeout": f"{timeout_s:g}s", "client.read_timeout": f"{timeout_s:g}s"}
    return XetSession(XetConfig().with_config({**_SETTINGS, **patience}))


@contextmanager
def _trouble() -> Iterator[None]:
    """hf_xet's errors, whose texts may hold signed addresses."""
    try:
        yield
    except (OSError, RuntimeError, ValueError):
        raise Trouble("Xet cannot give the file.", "Try again with HF_HUB_DISABLE_XET=1.") from None


def _origin(url: str) -> tuple[str, str]:
    return urlsplit(url).scheme, urlsplit(url).netloc
