"""What a GGUF file says about itself, as frozen values; and whether the data behind it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moetool.errors import HeaderError
from moetool.quants import QuantType

DAMAGED = "The file is damaged or not a GGUF model; download it again."
TRUNCATED = "The file is incomplete; download it again."

Scalar = int | float | bool | str


@dataclass(frozen=True)
class ArrayRef:
    """An array left in the stream: `count` elements in `n_bytes` bytes from absolute `offset`.

    `element_type` is GGUF's number of the value type (8 string, 9 array).
    """

    element_type: int
    count: int
    offset: int
    n_bytes: int
    byte_order: str = "little"


Value = Scalar | tuple[Scalar, ...] | ArrayRef


@dataclass(frozen=True)
class KnownRun:
    """Arrays that stand side by side in one header, to be found again in another: a vocabulary.

    It begins behind the first array's key with the bytes `head` and takes `n_bytes`; the offsets of `arrays`
    count from there. `rest_bytes` of header follow behind it in the file that it was found in.
    """

    arrays: tuple[tuple[str, ArrayRef], ...]
    head: bytes
    n_bytes: int
    rest_bytes: int


@dataclass(frozen=True)
class TensorInfo:
    """One row of the tensor table. `shape` is in ggml's order (`ne`: fastest dimension first).

    `offset` counts from the data section's start of the file it lies in: `shard` of a split model, else 0.
    """

    name: str
    shape: tuple[int, ...]
    type: QuantType
    offset: int
    n_bytes: int
    shard: int = 0

    @property
    def n_elements(self) -> int:
        return product(self.shape)


@dataclass(frozen=True)
class Split:
    """Which shard of how many this is, and how many tensors all of them hold."""

    index: int
    count: int
    n_tensors: int


@dataclass(frozen=True)
class Header:
    """What a GGUF file says about itself.

    `header_bytes` reaches to the end of the tensor table, `data_offset` to the start of the data, and
    `file_bytes` is the size the file must have, padding of the last tensor included (of all shards together
    for a merged header).
    """

    version: int
    byte_order: str
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_offset: int
    header_bytes: int
    file_bytes: int
    split: Split | None = None

    @property
    def arch(self) -> str:
        return self.get_str("general.architecture")

    def get_int(self, key: str, default: int = 0) -> int:
        """The whole number under `key`; `default` when absent or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else default

    def get_float(self, key: str, default: float = 0.0) -> float:
        """The number under `key`; `default` when absent or of another type."""
        value = self.metadata.get(key)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default

    def get_str(self, key: str, default: str = "") -> str:
        """The string under `key`; `default` when absent or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else default

    def get_bool(self, key: str, default: bool = False) -> bool:
        """The truth value under `key`; `default` when absent or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, bool) else default


def check_data(header: Header, file_bytes: int) -> None:
    """Raise HeaderError unless the data of every tensor lies whole inside a file of `file_bytes` bytes.

    llama.cpp wants the tensors in table order without gaps (gguf_init_from_reader), and does not miss the
    padding behind the last one. For one shard's own header, not for a merged one.
    """
    expected = 0
    for tensor in header.tensors:
        if tensor.offset != expected:
            fault = "overlaps the one before it" if tensor.offset < expected else "leaves a gap before it"
            at = header.data_offset + tensor.offset
            raise HeaderError(f"The data of tensor {shown(tensor.name)} {fault}.", at, DAMAGED)
        expected = tensor.offset + padded(tensor.n_bytes, header.alignment)
    end = header.data_offset + max((t.offset + t.n_bytes for t in header.tensors), default=0)
    if end > file_bytes:
        raise HeaderError(f"{end - file_bytes} bytes of tensor data are missing.", file_bytes, TRUNCATED)


def padded(n: int, alignment: int) -> int:
    """`n` rounded up to a multiple of `alignment`."""
    return -(-n // alignment) * alignment


def product(numbers: tuple[int, ...]) -> int:
    """The product of all; 1 of none."""
    result = 1
    for number in numbers:
        result *= number
    return result


def shown(name: str) -> str:
    """A name from the file as it may stand in a message: short, and without control characters."""
    return repr(name if len(name) <= 80 else name[:77] + "...")
