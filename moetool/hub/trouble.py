"""What the Hub, the network and the disk can answer, as sentences of the error tree. Pure."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping

from moetool.errors import DiskFull, GatedRepo, HubError, MoetoolError, NotFound, VerificationFailed
from moetool.names import show_name

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_UNREACHABLE = {"ConnectError", "ConnectTimeout", "ProxyError"}
_REPO_IN_PATH = re.compile(r"(?:/api/models)?/([^/]+/[^/]+)/(?:resolve|revision)/")
_SENT_AWAY = {"TooManyRedirects", "UnsupportedProtocol"}
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
_OFFLINE_HINT = "Models that were pulled before work without the Hub: moetool list"


class Trouble(HubError):
    """It may go away by itself: the same request can be made again.

    `wait_s` is what the server asks to wait (None: it does not say). `is_unreachable`: nobody answers at all.
    """

    def __init__(
        self, message: str, hint: str = "", wait_s: float | None = None, is_unreachable: bool = False
    ) -> None:
        super().__init__(message, hint)
        self.wait_s = wait_s
        self.is_unreachable = is_unreachable


class FileChanged(VerificationFailed):
    """What the Hub sends is not the file that it listed, in size or by the hash that it states."""


def offline_error(subject: str) -> HubError:
    return HubError(f"{subject} cannot be asked for: HF_HUB_OFFLINE is set.", _OFFLINE_HINT)


def status_error(
    status: int, headers: Mapping[str, str], subject: str, place: str, page: str, has_token: bool
) -> MoetoolError:
    """The error that an HTTP status stands for. `subject` is what was asked for, `place` the Hub's host,
    `page` where people read about the repo."""
    code = headers.get("x-error-code", "")
    if code == "GatedRepo":
        return _gated(subject, page, has_token)
    if code == "RevisionNotFound":
        return NotFound(
            f"{subject} is not there: the repo has no such revision.", "Leave out --revision for main."
        )
    if code == "RepoNotFound" or (status == 401 and not has_token):
        private = "" if has_token else f"; for a private one, {_LOG_IN}"
        return NotFound(f"{subject} is not on {place}, or not for you.", f"Check the spelling{private}.")
    if status == 401:
        return GatedRepo(
            f"{place} does not accept the token.", "Log in again with `hf auth login`, or unset HF_TOKEN."
        )
    if status == 403:
        return GatedRepo(
            f"{place} refuses {subject} to this account.", "The token may lack the permission to read it."
        )
    if status in {404, 410}:
        return NotFound(f"{subject} is not on {place}.")
    if status in {408, 429} or status >= 500:
        return _server_trouble(status, headers, place)
    return HubError(f"{place} refuses the request for {subject} (HTTP {status}).")


def _gated(subject: str, page: str, has_token: bool) -> GatedRepo:
    if has_token:
        message = f"{subject} is gated, and this account has not been let in."
        return GatedRepo(message, f"Accept the terms at {page}; some authors answer by hand.")
    message = f"{subject} is gated: its terms must be accepted first."
    return GatedRepo(message, f"Accept them at {page}, then {_LOG_IN}.")


def page_of(path: str, place: str) -> str:
    """The page of the repo that a path on the Hub is about: "huggingface.co/org/repo"."""
    found = _REPO_IN_PATH.match(path)
    return f"{place}/{found[1]}" if found else place


def _server_trouble(status: int, headers: Mapping[str, str], place: str) -> Trouble:
    wait_s = parse_retry_after(headers.get("retry-after", ""))
    if status == 429:
        asks = f" and asks to wait {wait_s:.0f} s" if wait_s is not None else ""
        return Trouble(
            f"{place} gets too many requests from here (HTTP 429){asks}.", "Try again later.", wait_s
        )
    return Trouble(f"{place} has trouble of its own (HTTP {status}).", "Try again later.", wait_s)


def parse_retry_after(value: str) -> float | None:
    """Seconds; None without them (the form with a date is not used by the Hub)."""
    return float(value) if value.isascii() and value.isdigit() and len(value) < 9 else None


def network_error(kind: str, subject: str, place: str, timeout_s: float) -> HubError:
    """`kind` is the name of the HTTP library's exception."""
    hint = f"Check the network, and HF_ENDPOINT. {_OFFLINE_HINT}"
    if kind in _SENT_AWAY:
        return HubError(f"{place} sends the request for {subject} in circles, or astray.", hint)
    if kind in _UNREACHABLE:
        return Trouble(f"{place} cannot be reached.", hint, is_unreachable=True)
    if "Timeout" in kind:
        message = f"{place} was silent for {timeout_s:g} s while {subject} was read."
        return Trouble(message, hint, is_unreachable=True)
    return Trouble(f"The connection to {place} broke while {subject} was read.", hint)


def disk_error(error: OSError, subject: str) -> MoetoolError:
    if error.errno in _DISK_FULL:
        return DiskFull(
            f"The disk is full, or a limit is reached: {subject} cannot be written.",
            "Free some space; what has arrived is kept.",
        )
    where = f" {show_name(str(error.filename))}" if error.filename else ""
    return MoetoolError(
        f"{subject} cannot be stored{where and ' at'}{where}: {error.strerror or 'unknown reason'}."
    )
