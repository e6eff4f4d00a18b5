"""A file on the Hub as a stream to read and seek in, of which only what is read is fetched."""

from __future__ import annotations

import io
import re
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

from moetool.errors import HeaderError, HubError
from moetool.hub.client import Hub, open_url, retried
from moetool.hub.trouble import FileChanged
from moetool.names import ModelFile

_FIRST_BYTES, _LARGEST_BYTES = 64 << 10, 4 << 20
# What is read front to back is kept for reading again: headers, of which the largest published take 16 MB.
MAX_KEPT_BYTES = 64 << 20

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


def file_url(hub: Hub, repo: str, commit: str, path: str) -> str:
    return f"{hub.endpoint}/{repo}/resolve/{commit}/{quote(path)}"


def open_remote(
    hub: Hub, repo: str, commit: str, file: ModelFile, first_bytes: int = _FIRST_BYTES
) -> HttpRangeFile:
    """The file's bytes at that commit, to be read from its header on; nothing is fetched yet."""
    return HttpRangeFile(hub, file_url(hub, repo, commit, file.path), file, first_bytes)


class HttpRangeFile(io.RawIOBase, BinaryIO):
    """Read-only and seekable, over HTTP ranges. The beginning is fetched in growing steps (`first_bytes` and
    up, never less than what is asked for) and kept; a read far behind it is fetched alone.

    `fetched_bytes` and `n_requests` count what it cost.
    """

    def __init__(self, hub: Hub, url: str, file: ModelFile, first_bytes: int = _FIRST_BYTES) -> None:
        super().__init__()
        self._hub, self._file = hub, file
        self._origin, self._url, self._bare = url, url, False
        self._kept = bytearray()
        self._at = 0
        self._step = first_bytes
        self.fetched_bytes = 0
        self.n_requests = 0

    @property
    def size_bytes(self) -> int:
        return self._file.size_bytes

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size_bytes}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        end = min(self._at + len(view), self.size_bytes)
        if end <= self._at:
            return 0
        data = self._bytes(self._at, end)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _bytes(self, start: int, end: int) -> bytes:
        if end > len(self._kept):
            if start > len(self._kept) + self._step:
                return self._fetch(start, end)
            if end > MAX_KEPT_BYTES:
                raise HeaderError(f"More than {MAX_KEPT_BYTES >> 20} MiB of it are header.", end)
            self._keep_until(end)
        return bytes(self._kept[start:end])

    def _keep_until(self, end: int) -> None:
        """Fetch on from where the kept beginning ends, by one step at least."""
        start = len(self._kept)
        end = min(max(end, start + self._step), self.size_bytes)
        self._step = min(2 * self._step, _LARGEST_BYTES)
        self._kept += self._fetch(start, end)

    def _fetch(self, start: int, end: int) -> bytes:
        try:
            data = retried(self._hub, lambda: self._ask(start, end))
        except HubError:
            if not self._bare:
                raise
            # A signed address lasts for an hour or so: ask the Hub for a new one.
            self._url, self._bare = self._origin, False
            data = retried(self._hub, lambda: self._ask(start, end))
        self.fetched_bytes += len(data)
        return data

    def _ask(self, start: int, end: int) -> bytes:
        self.n_requests += 1
        span = f"bytes={start}-{end - 1}"
        with open_url(self._hub, self._url, self._file.path, span, self._bare) as response:
            check_range(response, start, self._file)
            data = bytearray()
            for chunk in response.iter_bytes():
                data += chunk[: end - start - len(data)]
                if len(data) == end - start:
                    break
            self._remember(str(response.url))
        if len(data) < end - start:
            raise HubError(f"{self._file.path} ended early on {self._hub.place}.", "Try again.")
        return bytes(data)

    def _remember(self, url: str) -> None:
        """Ask the place that the Hub sent us to directly from now on; the token is for the Hub only."""
        self._bare = urlsplit(url).netloc != urlsplit(self._hub.endpoint).netloc
        self._url = url


def check_range(response: Any, start: int, file: ModelFile) -> None:
    """That a 206 answer begins where it was asked to, in a file of the listed size."""
    if response.status_code != 206:
        if start:
            raise HubError(f"The server of {file.path} does not answer for parts of a file.")
        return
    match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    if not match or int(match[1]) != start:
        raise HubError(f"The server of {file.path} sent another part than it was asked for.")
    if int(match[3]) != file.size_bytes:
        raise FileChanged(
            f"{file.path} has {match[3]} bytes now, {file.size_bytes} were listed.", "Try again."
        )
