"""From a stream to a `Header`, by the rules of gguf_init_from_reader in ggml/src/gguf.cpp."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from moetool.errors import HeaderError, MoetoolError, NotFound
from moetool.gguf.header import (
    DAMAGED,
    TRUNCATED,
    ArrayRef,
    Header,
    KnownRun,
    Split,
    TensorInfo,
    Value,
    padded,
    product,
    shown,
)
from moetool.gguf.source import Source, read_exactly, stream_size
from moetool.quants import QuantType, quant_by_id, row_bytes

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32

# Limits on what a header may claim; the largest published ones stay below a tenth of each.
MAX_ENTRIES = 1 << 20  # metadata keys, tensors
MAX_ELEMENTS = 1 << 24  # of one array of strings or arrays: each costs a step
MAX_STRING_BYTES = 16 << 20
MAX_KEY_BYTES = (1 << 16) - 1
MAX_NAME_BYTES = 63  # GGML_MAX_NAME counts the closing zero
MAX_DIMS = 4
MAX_DEPTH = 4  # of arrays in arrays, which the format allows and llama.cpp refuses
MAX_NESTED = 1 << 16  # arrays inside one array, over all depths

# Arrays up to this size are decoded at once: per-layer numbers, tags, languages.
_EAGER_ELEMENTS = 4096
_EAGER_BYTES = 64 << 10

_STRING, _ARRAY = 8, 9

# Of known arrays: value type, element type and count come before the elements; how much of the beginning is
# compared (the first few hundred tokens); by how much the rest of a sister's header may be longer unasked.
_ARRAY_HEAD_BYTES = 4 + 4 + 8
_HEAD_BYTES = 4096
_SLACK_BYTES = 4096
# Value type -> struct code.
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_SIZES = {kind: struct.calcsize("=" + code) for kind, code in _CODES.items()}
# The fewest bytes that an element (or a table entry) can take.
_LEAST = {**_SIZES, _STRING: 8, _ARRAY: 12}
_LEAST_KEY, _LEAST_TENSOR = 8 + 1 + 4 + 1, 8 + 4 + 4 + 8


def read_header(
    stream: BinaryIO, size: int | None = None, known: Mapping[str, KnownRun] | None = None, step: int = 0
) -> Header:
    """The header of the GGUF file in `stream`, which starts at offset 0 and is `size` bytes long.

    Without `size` the stream's end is looked up. The data section may be missing (`check_data` is for that).
    Raises HeaderError, with the offset at which it became clear, for anything that is not a sound header.

    `known` are arrays of a sister file (`known_runs`): where one begins alike, all of it is taken to be alike
    and stepped over unread. Whoever gives it must hold the result against something else, as the file's size.
    `step` is how many bytes the first read asks for.
    """
    source = Source(stream, stream_size(stream) if size is None else size)
    source.n_read = step or source.n_read
    source.known = known or {}
    version, byte_order = _read_version(source)
    n_tensors, n_keys = source.unpack("QQ")
    _check_entries(source, "tensors", n_tensors, _LEAST_TENSOR)
    _check_entries(source, "metadata keys", n_keys, _LEAST_KEY)
    metadata = _read_metadata(source, n_keys)
    alignment = _alignment(source, metadata)
    tensors = _read_tensors(source, n_tensors, alignment)
    header_bytes = source.offset
    data_offset = padded(header_bytes, alignment) if tensors else header_bytes
    return Header(
        version=version,
        byte_order=byte_order,
        metadata=MappingProxyType(metadata),
        tensors=tensors,
        alignment=alignment,
        data_offset=data_offset,
        header_bytes=header_bytes,
        file_bytes=data_offset + _data_bytes(tensors, alignment),
        split=_split(source, metadata),
    )


def open_header(path: str | Path) -> Header:
    """The header of the file at `path`; NotFound when there is none, MoetoolError when it cannot be read."""
    try:
        with Path(path).open("rb", buffering=0) as file:
            return read_header(file)
    except FileNotFoundError as error:
        raise NotFound(f"There is no file {path}.", "Check the path, or pull the model first.") from error
    except OSError as error:
        raise MoetoolError(f"{path} cannot be read: {error.strerror or error}.") from error


def read_array(stream: BinaryIO, ref: ArrayRef) -> list[object]:
    """The elements of an array that `read_header` left in the same stream (lists for nested arrays)."""
    stream.seek(ref.offset)
    data = read_exactly(stream, ref.n_bytes)
    if len(data) < ref.n_bytes:
        raise HeaderError("The file ends inside an array.", ref.offset + len(data), TRUNCATED)
    return _decode(data, ref)


def _decode(data: bytes, ref: ArrayRef) -> list[object]:
    order = "<" if ref.byte_order == "little" else ">"
    try:
        elements, _ = _decode_array(data, 0, ref.element_type, ref.count, order)
    except UnicodeDecodeError as error:
        raise HeaderError("A string in an array is not UTF-8.", ref.offset, DAMAGED) from error
    except struct.error as error:
        raise HeaderError("An array ends before its last element.", ref.offset, DAMAGED) from error
    return elements


def _read_version(source: Source) -> tuple[int, str]:
    if source.take(4) != MAGIC:
        raise HeaderError("The file is not GGUF: it does not start with its four letters.", 0, DAMAGED)
    (version,) = source.unpack("I")
    byte_order = "little"
    # A version number whose low half is empty was written in the other byte order.
    if version & 0xFFFF == 0:
        source.structs.clear()
        source.order, byte_order = ">", "big"
        version = struct.unpack(">I", struct.pack("<I", version))[0]
    if version not in {2, 3}:
        hint = "Convert the model anew." if version == 1 else DAMAGED
        raise HeaderError(f"GGUF version {version} is not supported (2 and 3 are).", 4, hint)
    return version, byte_order


def _check_entries(source: Source, what: str, count: int, least: int) -> None:
    if count > MAX_ENTRIES or count * least > source.left:
        source.where = "the counts"
        hint = DAMAGED if count > MAX_ENTRIES else TRUNCATED
        raise source.error(f"{count} {what} are more than the file can hold", hint)


def _read_metadata(source: Source, count: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for number in range(count):
        if len(metadata) == count:
            break  # a known run brought several at once
        source.where = f"metadata key {number + 1} of {count}"
        key = source.string(MAX_KEY_BYTES)
        if not key or key in metadata:
            raise source.error(f"{shown(key)} stands there twice" if key else "it has no name")
        source.where = f"metadata {shown(key)}"
        run = source.known.get(key)
        if run and source.stands_here(run.head):
            _take_over(source, run, metadata, count)
        else:
            metadata[key] = _read_value(source)
    return metadata


def _take_over(source: Source, run: KnownRun, metadata: dict[str, Value], count: int) -> None:
    """Enter a sister's arrays at the cursor, which is behind the first one's key, and step over them."""
    start = source.offset
    for key, ref in run.arrays:
        if key in metadata:
            raise source.error(f"{shown(key)} stands there twice")
        metadata[key] = replace(ref, offset=start + ref.offset)
    if len(metadata) > count:
        raise source.error("there are more keys than are stated")
    source.skip(run.n_bytes)
    source.expect(run.rest_bytes + _SLACK_BYTES)


def known_runs(header: Header, stream: BinaryIO) -> dict[str, KnownRun]:
    """What a header says that its sisters are likely to say too: large arrays side by side, by their first
    key. `stream` is the one that the header was read from."""
    groups: list[list[tuple[str, ArrayRef]]] = [[]]
    for key, value in header.metadata.items():
        if isinstance(value, ArrayRef):
            groups[-1].append((key, value))
        elif groups[-1]:
            groups.append([])
    return {group[0][0]: _known_run(header, stream, group) for group in groups if group}


def _known_run(header: Header, stream: BinaryIO, arrays: Sequence[tuple[str, ArrayRef]]) -> KnownRun:
    first, last = arrays[0][1], arrays[-1][1]
    start = first.offset - _ARRAY_HEAD_BYTES
    end = last.offset + last.n_bytes
    stream.seek(start)
    head = read_exactly(stream, min(_HEAD_BYTES, end - start))
    moved = tuple((key, replace(ref, offset=ref.offset - start)) for key, ref in arrays)
    return KnownRun(moved, head, end - start, header.header_bytes - end)


def _read_value(source: Source) -> Value:
    (kind,) = source.unpack("I")
    if kind in _CODES:
        return source.unpack(_CODES[kind])[0]
    if kind == _STRING:
        return source.string(MAX_STRING_BYTES)
    if kind == _ARRAY:
        return _read_array_value(source)
    raise source.error(f"{kind} is not a value type")


def _read_array_value(source: Source) -> Value:
    """The array at the cursor, behind its own type number: a tuple if small and flat, else a reference."""
    kind, count = source.unpack("IQ")
    start = source.offset
    _skip_array(source, kind, count, [MAX_NESTED], MAX_DEPTH)
    n_bytes = source.offset - start
    order = "little" if source.order == "<" else "big"
    ref = ArrayRef(kind, count, start, n_bytes, order)
    if kind == _ARRAY or count > _EAGER_ELEMENTS or n_bytes > _EAGER_BYTES:
        return ref
    return tuple(_decode(source.seen(start, n_bytes), ref))  # type: ignore[arg-type]  # flat: no lists


def _skip_array(source: Source, kind: int, count: int, nested_left: list[int], depth: int) -> None:
    if kind not in _LEAST:
        raise source.error(f"{kind} is not an element type")
    if count * _LEAST[kind] > source.left:
        raise source.error(f"an array claims {count} elements, more than the file can hold", TRUNCATED)
    if kind in _SIZES:
        source.skip(count * _SIZES[kind])
    elif count > MAX_ELEMENTS:
        raise source.error(f"an array claims {count} elements, {MAX_ELEMENTS} are allowed")
    elif kind == _STRING:
        _skip_strings(source, count)
    else:
        _skip_nested(source, count, nested_left, depth)


def _skip_strings(source: Source, count: int) -> None:
    """Step over `count` strings. The inner loop is what a large vocabulary costs: 60 ns a string."""
    length_at = struct.Struct(source.order + "Q").unpack_from
    while count:
        source.need(8)
        buffer, at, last = source.buffer, source.at, len(source.buffer) - 8
        while count and at <= last:
            at += 8 + length_at(buffer, at)[0]
            count -= 1
        if at - source.at > source.left:
            raise source.too_short()
        source.skip(at - source.at)


def _skip_nested(source: Source, count: int, nested_left: list[int], depth: int) -> None:
    nested_left[0] -= count
    if depth <= 1 or nested_left[0] < 0:
        raise source.error("arrays are nested too deeply")
    for _ in range(count):
        kind, inner = source.unpack("IQ")
        _skip_array(source, kind, inner, nested_left, depth - 1)


def _decode_array(data: bytes, at: int, kind: int, count: int, order: str) -> tuple[list[object], int]:
    """`count` elements of `data` from `at`, and where they end."""
    if kind in _CODES:
        end = at + count * _SIZES[kind]
        return list(struct.unpack(f"{order}{count}{_CODES[kind]}", data[at:end])), end
    elements: list[object] = []
    length_at, array_at = struct.Struct(order + "Q").unpack_from, struct.Struct(order + "IQ").unpack_from
    for _ in range(count):
        if kind == _STRING:
            start = at + 8
            at = start + length_at(data, at)[0]
            elements.append(data[start:at].decode("utf-8"))
        else:
            inner, n_inner = array_at(data, at)
            element, at = _decode_array(data, at + 12, inner, n_inner, order)
            elements.append(element)
    return elements, at


def _alignment(source: Source, metadata: Mapping[str, Value]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if isinstance(alignment, bool) or not isinstance(alignment, int) or not 0 < alignment < 1 << 32:
        source.where = "general.alignment"
        raise source.error(f"{alignment!r:.40} is not a power of two")
    if alignment & (alignment - 1):
        source.where = "general.alignment"
        raise source.error(f"{alignment} is not a power of two")
    return alignment


def _read_tensors(source: Source, count: int, alignment: int) -> tuple[TensorInfo, ...]:
    tensors: dict[str, TensorInfo] = {}
    for number in range(count):
        source.where = f"tensor {number + 1} of {count}"
        name = source.string(MAX_NAME_BYTES)
        if name in tensors:
            raise source.error(f"{shown(name)} stands there twice")
        source.where = f"tensor {shown(name)}"
        tensors[name] = _read_tensor(source, name, alignment)
    return tuple(tensors.values())


def _read_tensor(source: Source, name: str, alignment: int) -> TensorInfo:
    (n_dims,) = source.unpack("I")
    if n_dims > MAX_DIMS:
        raise source.error(f"{n_dims} dimensions, {MAX_DIMS} are allowed")
    shape = source.unpack("Q" * n_dims) if n_dims else ()
    type_id, offset = source.unpack("IQ")
    quant = quant_by_id(type_id)
    if quant is None:
        hint = "A newer llama.cpp may know it."
        raise source.error(f"{type_id} is not a tensor type of this llama.cpp", hint)
    n_bytes = _tensor_bytes(source, shape, quant)
    if offset % alignment:
        raise source.error(f"its data at {offset} is not aligned to {alignment}")
    if offset + n_bytes >= 1 << 63:
        raise source.error("its data would end beyond 2^63 bytes")
    return TensorInfo(name, shape, quant, offset, n_bytes)


def _tensor_bytes(source: Source, shape: tuple[int, ...], quant: QuantType) -> int:
    # Python's integers do not overflow: the products are exact, and so are the comparisons.
    if product(tuple(max(n, 1) for n in shape)) >= 1 << 63:
        raise source.error("its shape overflows")
    width = shape[0] if shape else 1
    if width % quant.block_size:
        raise source.error(f"rows of {width} are not whole blocks of {quant.block_size} ({quant.name})")
    return row_bytes(quant, width) * product(shape[1:])


def _split(source: Source, metadata: Mapping[str, Value]) -> Split | None:
    index, count = metadata.get("split.no"), metadata.get("split.count")
    n_tensors = metadata.get("split.tensors.count", 0)
    if count is None or count == 0:
        return None
    if not (isinstance(index, int) and isinstance(count, int) and isinstance(n_tensors, int)):
        source.where = "split.no, split.count"
        raise source.error("they are not whole numbers")
    if not 0 <= index < count:
        source.where = "split.no"
        raise source.error(f"shard {index} of {count} cannot be")
    return Split(index, count, n_tensors)


def _data_bytes(tensors: Sequence[TensorInfo], alignment: int) -> int:
    return max((t.offset + padded(t.n_bytes, alignment) for t in tensors), default=0)
