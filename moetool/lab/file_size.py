"""How large a quantized file will be, to the byte: the quantizer keeps the metadata and writes one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moetool.errors import EngineError
from moetool.gguf import Header, TensorInfo
from moetool.gguf.header import padded
from moetool.quants import QuantType, row_bytes

ALIGNMENT = 32  # GGUF_DEFAULT_ALIGNMENT
_HEAD_BYTES = 4 + 4 + 8 + 8  # magic, version, number of tensors, number of pairs
# Bytes of a value behind its key and type.
_U16, _I32, _U32 = 2, 4, 4
# What the quantizer always writes (llama_model_quantize_impl, src/llama-quant.cpp), and what it leaves out.
_WRITTEN = {"general.quantization_version": _U32, "general.file_type": _U32}
_LEFT_OUT = {"split.no": _U16, "split.count": _U16, "split.tensors.count": _I32}


def tensor_bytes(tensor: TensorInfo, quant: QuantType) -> int:
    """Bytes of a tensor's data in another type."""
    n = tensor.shape[0] if tensor.shape else 1
    return row_bytes(quant, n) * (tensor.n_elements // n)


def quantized_file_bytes(
    headers: Sequence[Header], types: Mapping[str, QuantType], notes: Mapping[str, str | int]
) -> int:
    """Bytes of the file that becomes of these shards when the named tensors get these types.

    Raises EngineError for a source whose tensors are aligned otherwise than the quantizer aligns them.
    """
    first = headers[0]
    if first.alignment != ALIGNMENT:
        raise EngineError(
            f"llama.cpp's quantizer spoils files whose tensors are aligned to {first.alignment} bytes",
            f"convert it anew with an alignment of {ALIGNMENT}",
        )
    tensors = [tensor for header in headers for tensor in header.tensors]
    pairs = first.header_bytes - _HEAD_BYTES - sum(_row_bytes(t, len(t.shape)) for t in first.tensors)
    pairs += sum(_added_bytes(first, key, size) for key, size in _WRITTEN.items())
    pairs += sum(_added_bytes(first, key, _note_bytes(value)) for key, value in notes.items())
    pairs -= sum(_pair_bytes(key, size) for key, size in _LEFT_OUT.items() if key in first.metadata)
    head = _HEAD_BYTES + pairs + sum(_row_bytes(t, _n_dims(t)) for t in tensors)
    data = (tensor_bytes(t, types[t.name]) if t.name in types else t.n_bytes for t in tensors)
    return padded(head, ALIGNMENT) + sum(padded(n_bytes, ALIGNMENT) for n_bytes in data)


def _added_bytes(header: Header, key: str, size: int) -> int:
    """What a pair adds that takes the place of one that may be there."""
    before = header.metadata.get(key)
    if isinstance(before, str):
        return size - _note_bytes(before)
    return 0 if before is not None else _pair_bytes(key, size)


def _note_bytes(value: str | int) -> int:
    return 8 + len(value.encode()) if isinstance(value, str) else _U32


def _pair_bytes(key: str, size: int) -> int:
    return 8 + len(key.encode()) + 4 + size


def _row_bytes(tensor: TensorInfo, n_dims: int) -> int:
    return 8 + len(tensor.name.encode()) + 4 + 8 * n_dims + 4 + 8


def _n_dims(tensor: TensorInfo) -> int:
    """Dimensions as they are written: without those of one at the end (ggml_n_dims)."""
    return max((at + 1 for at, n in enumerate(tensor.shape) if n > 1), default=1)
