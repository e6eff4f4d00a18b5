"""Which model a file is, in one hash that does not take reading all of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from moetool.gguf import open_header

# Files up to this size are hashed whole: that takes a few hundredths of a second.
WHOLE_BYTES = 64 << 20
_SAMPLE_BYTES = 4096


def read_model_digest(paths: Sequence[Path]) -> str:
    """SHA-256 of what tells one model from another, as hex digits: each shard's size, its whole header
    (metadata, vocabulary, tensor table), and 4 KiB from the middle of every tensor; all of small files.

    Whatever trains, merges or quantizes a model changes that. A copy, or another name, does not. An edit of
    single bytes by hand may go unnoticed: this tells models apart, it does not prove a file sound
    (`moetool list --verify` does).
    """
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(b"%d\0" % size)
        with path.open("rb", buffering=0) as file:
            for start, n_bytes in _pieces(path, size):
                digest.update(os.pread(file.fileno(), n_bytes, start))
    return digest.hexdigest()


def _pieces(path: Path, size: int) -> Iterator[tuple[int, int]]:
    """What is read of a file: offsets and lengths."""
    if size <= WHOLE_BYTES:
        yield 0, size
        return
    header = open_header(path)
    yield 0, header.data_offset
    for tensor in header.tensors:
        n_bytes = min(tensor.n_bytes, _SAMPLE_BYTES)
        yield header.data_offset + tensor.offset + (tensor.n_bytes - n_bytes) // 2, n_bytes
