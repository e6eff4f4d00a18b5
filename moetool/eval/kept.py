"""A reference's expectations in a file, a fiftieth of llama-perplexity's: written once, compared with often.

    magic with the version | JSON: of which model, of how many chunks | sections | SHA-256 of all before

A section is zlib data with its length before it: first the text's tokens, then one for each chunk, holding a
sketch's arrays with the high bytes of their values apart from the low ones. Numbers are little-endian. The
file may come from anyone: lengths and values are checked before they are used.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from moetool.errors import ReferenceUnusable
from moetool.eval.chunks import Chunks
from moetool.eval.sketch import Sketch

MAGIC = b"moetoolref\0\1"
_LENGTH = struct.Struct("<I")
_DIGEST_BYTES = 32
_MOST_HEADER_BYTES = 1 << 16
_MOST_TOKENS = 1 << 26
_LEVEL = 6
# Arrays of one value a position, then those of one a kept token.
_BY_POSITION = ("counts", "limits", "tails", "tops", "nll")
_TYPES: Mapping[str, npt.DTypeLike] = {
    field.name: "<u4" if field.name == "ids" else "<u2" for field in fields(Sketch)
}


@dataclass(frozen=True)
class Source:
    """Whose expectations: the model's name, its digest, its vocabulary's."""

    model: str
    model_sha256: str
    vocabulary_sha256: str
    n_vocab: int


def is_reference(path: Path) -> bool:
    """Is this a file of kept expectations, of any version?"""
    try:
        with path.open("rb") as stream:
            return stream.read(len(MAGIC) - 1) == MAGIC[:-1]
    except OSError:
        return False


class ReferenceWriter:
    """Writes a reference's file, chunk by chunk, into a stream."""

    def __init__(self, stream: IO[bytes], source: Source, chunks: Chunks) -> None:
        self._stream = stream
        self._sha = hashlib.sha256()
        about = asdict(source) | {"n_ctx": chunks.n_ctx, "n_chunks": chunks.n_chunks, "bos": chunks.bos}
        header = json.dumps(about).encode()
        self._write(MAGIC + _LENGTH.pack(len(header)) + header)
        self._add(_planes(chunks.tokens.ravel(), "<u4"))

    def add(self, sketch: Sketch) -> None:
        """The next chunk."""
        arrays = asdict(sketch) | {"ids": _gaps(sketch.ids, sketch.counts)}
        self._add(b"".join(_planes(arrays[name], kind) for name, kind in _TYPES.items()))

    def __enter__(self) -> ReferenceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Seal it, if nothing went wrong; the stream stays open."""
        if error is None:
            self._stream.write(self._sha.digest())

    def _add(self, data: bytes) -> None:
        packed = zlib.compress(data, _LEVEL)
        self._write(_LENGTH.pack(len(packed)) + packed)

    def _write(self, data: bytes) -> None:
        self._sha.update(data)
        self._stream.write(data)


class KeptReference:
    """A file of expectations, open for reading. `chunks` is the text that they are of."""

    def __init__(self, stream: IO[bytes]) -> None:
        """ReferenceUnusable for a file that is something else, damaged, or cannot be."""
        self._stream = stream
        self._end = _check_digest(stream)
        about = _read_header(stream)
        try:
            self.source = Source(**{field.name: about.pop(field.name) for field in fields(Source)})
            n_ctx, n_chunks, bos = (about[name] for name in ("n_ctx", "n_chunks", "bos"))
        except (KeyError, TypeError) as error:
            raise _unusable("says nothing of what it holds") from error
        numbers = (self.source.n_vocab, n_ctx, n_chunks, 0 if bos is None else bos)
        if not all(type(n) is int and 0 <= n < _MOST_TOKENS for n in numbers):
            raise _unusable("holds numbers that cannot be")
        if n_ctx < 4 or not 0 < n_ctx * n_chunks < _MOST_TOKENS or not self.source.n_vocab:
            raise _unusable("holds numbers that cannot be")
        self._sections = [stream.tell()]
        tokens = _values(self._section(0, 4 * n_ctx * n_chunks), "<u4")
        if len(tokens) != n_ctx * n_chunks or tokens.max() >= self.source.n_vocab:
            raise _unusable("holds a text that cannot be")
        self.chunks = Chunks(tokens.astype(np.int32).reshape(n_chunks, n_ctx), bos)

    @property
    def n_rows(self) -> int:
        """Any number of positions at once."""
        return self.chunks.n_scored

    def expect(self, chunks: Chunks, chunk: int, n_rows: int) -> Iterator[Sketch]:
        """What was expected in a chunk; `chunks` is the text that it is to be compared on, the same one."""
        return self._read(chunk).cut(n_rows)

    def _read(self, chunk: int) -> Sketch:
        n, n_vocab = self.chunks.n_scored, self.source.n_vocab
        data = self._section(chunk + 1, n * (10 + 6 * n_vocab))
        head, rest = data[: 10 * n], data[10 * n :]
        if len(head) != 10 * n or len(rest) % 6:
            raise _unusable("is cut off")
        by_position = [_values(head[2 * n * i : 2 * n * (i + 1)], "<u2") for i in range(len(_BY_POSITION))]
        n_kept = len(rest) // 6
        counts, tops = by_position[0], by_position[3]
        if not counts.all() or counts.sum(dtype=np.int64) != n_kept or (tops >= counts).any():
            raise _unusable("contradicts itself")
        ids = _from_gaps(_values(rest[: 4 * n_kept], "<u4"), counts)
        if ids.max() >= n_vocab:
            raise _unusable("holds tokens that cannot be")
        counts, limits, tails, tops, nll = by_position
        steps = _values(rest[4 * n_kept :], "<u2")
        return Sketch(counts, limits, tails, tops, nll, ids.astype(np.uint32), steps)

    def _section(self, number: int, most_bytes: int) -> bytes:
        """The data of a section; where the sections begin is learnt on the way."""
        while len(self._sections) <= number + 1:
            start = self._sections[-1]
            self._stream.seek(start)
            length = _LENGTH.unpack(self._exactly(_LENGTH.size))[0]
            if start + _LENGTH.size + length > self._end:
                raise _unusable("is cut off")
            self._sections.append(start + _LENGTH.size + length)
        start, end = self._sections[number : number + 2]
        self._stream.seek(start + _LENGTH.size)
        unpacker = zlib.decompressobj()
        try:
            data: bytes = unpacker.decompress(self._exactly(end - start - _LENGTH.size), most_bytes + 1)
        except zlib.error as error:
            raise _unusable("is damaged") from error
        if len(data) > most_bytes or not unpacker.eof:
            raise _unusable("holds more than it can")
        return data

    def _exactly(self, n_bytes: int) -> bytes:
        data = self._stream.read(n_bytes)
        if len(data) != n_bytes or self._stream.tell() > self._end:
            raise _unusable("is cut off")
        return data


def _unusable(what: str) -> ReferenceUnusable:
    return ReferenceUnusable(f"The reference file {what}", "make it again with --save-ref")


def _check_digest(stream: IO[bytes]) -> int:
    """Where the sealed part ends; ReferenceUnusable when the seal is not that of what stands before."""
    end = stream.seek(0, io.SEEK_END) - _DIGEST_BYTES
    stream.seek(0)
    if stream.read(len(MAGIC)) != MAGIC or end < len(MAGIC) + _LENGTH.size:
        raise _unusable("is none, or one of another version of moetool")
    stream.seek(0)
    sha, left = hashlib.sha256(), end
    while left > 0:
        data = stream.read(min(left, 1 << 20))
        sha.update(data)
        left -= len(data)
    if stream.read() != sha.digest():
        raise _unusable("is damaged: its bytes are not those that were written")
    return end


def _read_header(stream: IO[bytes]) -> dict[str, Any]:
    stream.seek(len(MAGIC))
    length = _LENGTH.unpack(stream.read(_LENGTH.size))[0]
    if length > _MOST_HEADER_BYTES:
        raise _unusable("holds more than it can")
    try:
        about = json.loads(stream.read(length))
    except (ValueError, RecursionError) as error:
        raise _unusable("is damaged") from error
    if not isinstance(about, dict):
        raise _unusable("says nothing of what it holds")
    return about


def _planes(values: npt.NDArray[Any], kind: npt.DTypeLike) -> bytes:
    """The low bytes of all values, then their next bytes …: like stands by like, which packs better."""
    array = np.ascontiguousarray(values.astype(kind))
    planes: bytes = array.view(np.uint8).reshape(-1, array.itemsize).T.tobytes()
    return planes


def _values(data: bytes, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    size = np.dtype(kind).itemsize
    n = len(data) // size
    planes = np.frombuffer(data[: n * size], np.uint8).reshape(size, n)
    return np.ascontiguousarray(planes.T).view(kind).ravel()


def _gaps(ids: npt.NDArray[np.uint32], counts: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    """Each position's first id, then the differences."""
    wide = ids.astype(np.int64)
    gaps: npt.NDArray[np.int64] = wide.copy()
    gaps[1:] -= wide[:-1]
    starts = np.cumsum(counts, dtype=np.int64) - counts
    gaps[starts] = ids[starts]
    return gaps


def _from_gaps(gaps: npt.NDArray[np.uint32], counts: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    sums: npt.NDArray[np.int64] = np.cumsum(gaps, dtype=np.int64)
    starts = np.cumsum(counts, dtype=np.int64) - counts
    before: npt.NDArray[np.int64] = np.repeat(sums[starts] - gaps[starts], counts)
    return sums - before
