"""A window on a stream: bytes, numbers and strings, each checked against what is left."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import BinaryIO

from moetool.errors import HeaderError
from moetool.gguf.header import DAMAGED, TRUNCATED, KnownRun

# A header that claims more is refused; the largest published ones take 16 MB.
MAX_HEADER_BYTES = 256 << 20

_FIRST_READ, _LARGEST_READ = 64 << 10, 4 << 20


class Source:
    """A window on the stream: `buffer` holds what was read at `base`; `at` is the place inside it.

    `where` names what is being read, for the message when it turns out to be wrong.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.stream = stream
        self.size = size
        self.buffer = b""
        self.base = 0
        self.at = 0
        self.order = "<"
        self.where = "the first bytes"
        self.n_read = _FIRST_READ
        self.expected = 0
        self.known: Mapping[str, KnownRun] = {}
        self.structs: dict[str, struct.Struct] = {}

    @property
    def offset(self) -> int:
        return self.base + self.at

    @property
    def left(self) -> int:
        return min(self.size, MAX_HEADER_BYTES) - self.offset

    def error(self, problem: str, hint: str = DAMAGED) -> HeaderError:
        return HeaderError(f"{self.where[0].upper()}{self.where[1:]}: {problem}.", self.offset, hint)

    def need(self, n: int) -> None:
        """Make `n` more bytes available at `at`, which were checked against what is left."""
        if len(self.buffer) - self.at >= n:
            return
        if n > self.left:
            raise self.too_short()
        kept = self.buffer[self.at :]
        self.base, self.at = self.base + self.at, 0
        self.stream.seek(self.base + len(kept))
        # Small first, so that a remote header of a few KB is not fetched by the megabyte.
        wanted = max(n - len(kept), min(self.expected or self.n_read, self.left - len(kept)))
        self.n_read = self.n_read if self.expected else min(2 * self.n_read, _LARGEST_READ)
        self.expected = 0
        self.buffer = kept + read_exactly(self.stream, wanted)
        if len(self.buffer) < n:
            raise self.error("the file ends here", TRUNCATED)

    def expect(self, n: int) -> None:
        """Let the next read ask for `n` bytes, which somebody knows to be enough."""
        self.expected = n

    def stands_here(self, data: bytes) -> bool:
        """Whether `data` comes next; the cursor stays."""
        if len(data) > self.left:
            return False
        self.need(len(data))
        return self.buffer.startswith(data, self.at)

    def too_short(self) -> HeaderError:
        if self.size > MAX_HEADER_BYTES:
            return self.error(f"the header is larger than {MAX_HEADER_BYTES >> 20} MiB")
        return self.error("the file ends here", TRUNCATED)

    def take(self, n: int) -> bytes:
        self.need(n)
        data = self.buffer[self.at : self.at + n]
        self.at += n
        return data

    def skip(self, n: int) -> None:
        if n > self.left:
            raise self.too_short()
        self.at += n
        if self.at > len(self.buffer):
            self.base, self.at, self.buffer = self.base + self.at, 0, b""

    def seen(self, start: int, n: int) -> bytes:
        """The `n` bytes from absolute offset `start`, over which the window has passed already."""
        if start >= self.base:
            data = self.buffer[start - self.base : start - self.base + n]
        else:
            self.stream.seek(start)
            data = read_exactly(self.stream, n)
        if len(data) < n:
            raise self.error("the file ends here", TRUNCATED)
        return data

    def unpack(self, codes: str) -> tuple[int, ...]:
        form = self.structs.get(codes) or self.structs.setdefault(codes, struct.Struct(self.order + codes))
        self.need(form.size)
        values = form.unpack_from(self.buffer, self.at)
        self.at += form.size
        return values

    def string(self, limit: int) -> str:
        (length,) = self.unpack("Q")
        if length > limit:
            raise self.error(f"a string claims {length} bytes, {limit} are allowed")
        data = self.take(length)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise self.error("a string is not UTF-8") from None


def stream_size(stream: BinaryIO) -> int:
    """Bytes from the stream's start to its end. (mmap.seek returns None before Python 3.13.)"""
    stream.seek(0, 2)
    return stream.tell()


def read_exactly(stream: BinaryIO, n: int) -> bytes:
    """`n` bytes, or fewer at the stream's end: raw streams may return less than was asked for."""
    data = stream.read(n) or b""
    pieces = [data]
    got = len(data)
    while got < n and data:
        data = stream.read(n - got) or b""
        pieces.append(data)
        got += len(data)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
