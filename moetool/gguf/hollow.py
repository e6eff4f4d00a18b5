"""A header as bytes again, without its vocabulary: what llama.cpp's allocator needs to lay a model out."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from moetool.gguf.header import Header, Scalar, TensorInfo, Value, padded

_U32, _I32, _F32, _BOOL, _STRING, _ARRAY, _U64, _I64 = 4, 5, 6, 7, 8, 9, 10, 11
_ALIGNMENT = 32
_MAX_U32 = (1 << 32) - 1


def hollow_file(header: Header, n_vocab: int) -> tuple[bytes, int]:
    """The bytes of a one-file header with the same metadata and tensors, and the size of the whole file.

    The tokenizer is left out ("no_vocab": llama.cpp takes the number of tokens from `n_vocab`), as is what
    tells of shards. Numbers are written as the types that llama.cpp's models are read with: whole ones 32
    bits wide where they fit.
    """
    metadata = dict(_kept(header.metadata))
    metadata |= {"tokenizer.ggml.model": "no_vocab", f"{header.arch}.vocab_size": n_vocab}
    pairs = b"".join(_string(key) + _typed(value) for key, value in metadata.items())
    table, offset = b"", 0
    for tensor in header.tensors:
        table += _row(tensor, offset)
        offset += padded(tensor.n_bytes, _ALIGNMENT)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(header.tensors), len(metadata)) + pairs + table
    return head, padded(len(head), _ALIGNMENT) + offset


def _kept(metadata: Mapping[str, Value]) -> Iterator[tuple[str, Scalar | tuple[Scalar, ...]]]:
    for key, value in metadata.items():
        # Of an empty array not even the type is known.
        dropped = key.startswith(("tokenizer.", "split.")) or key == "general.alignment" or value == ()
        if not dropped and isinstance(value, int | float | bool | str | tuple):
            yield key, value


def _typed(value: Scalar | tuple[Scalar, ...]) -> bytes:
    if isinstance(value, tuple):
        kind = _array_kind(value)
        body = b"".join(_plain(kind, item) for item in value)
        return struct.pack("<IIQ", _ARRAY, kind, len(value)) + body
    kind = _kind(value)
    return struct.pack("<I", kind) + _plain(kind, value)


def _kind(value: Scalar) -> int:
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, str):
        return _STRING
    if isinstance(value, float):
        return _F32
    if value < 0:
        return _I32 if value >= -(1 << 31) else _I64
    return _U32 if value <= _MAX_U32 else _U64


def _array_kind(values: tuple[Scalar, ...]) -> int:
    kinds = {_kind(value) for value in values}
    if len(kinds) > 1:  # whole numbers of several sizes
        return _I32 if kinds == {_U32, _I32} else _I64
    return kinds.pop() if kinds else _U32


def _plain(kind: int, value: Scalar) -> bytes:
    if kind == _STRING:
        return _string(str(value))
    codes = {_U32: "<I", _I32: "<i", _F32: "<f", _BOOL: "<?", _U64: "<Q", _I64: "<q"}
    return struct.pack(codes[kind], value)


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _row(tensor: TensorInfo, offset: int) -> bytes:
    shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
    return _string(tensor.name) + shape + struct.pack("<IQ", tensor.type.id, offset)
