"""Importance matrices: how large the inputs of each weight matrix are, and how often each expert was seen.

    general.type "imatrix", imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size
    NAME.in_sum2  [n_in, n_expert] sums of squared inputs      NAME.counts  [1, n_expert] of so many tokens

That is llama.cpp's format (tools/imatrix/imatrix.cpp, common/imatrix-loader.cpp).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from moetool.errors import HeaderError, NotFound, UsageError
from moetool.gguf import ArrayRef, Header, TensorInfo, check_data, open_header, read_array

_SUMS, _COUNTS = ".in_sum2", ".counts"
_HINT = "make one with moetool imatrix, or with llama-imatrix --output-format gguf"


@dataclass(frozen=True)
class Inputs:
    """Sums of squared inputs, [n_expert, n_in], over `counts` tokens, [n_expert]; one "expert" where there
    are none."""

    sums: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int64]

    @property
    def unseen(self) -> tuple[int, ...]:
        """Experts of which nothing is known."""
        return tuple(int(at) for at in np.flatnonzero(self.counts == 0))

    def importance(self) -> npt.NDArray[np.float32]:
        """Mean squares, as `sums`; of unseen experts all ones, which is to know nothing (load_imatrix,
        tools/quantize/quantize.cpp)."""
        counts = self.counts[:, None]
        means = self.sums / np.maximum(counts, 1)
        return np.where(counts > 0, means, 1.0).astype(np.float32)


@dataclass(frozen=True)
class Imatrix:
    """The inputs of each weight matrix by its name, over `n_chunks` chunks of `chunk_tokens` tokens."""

    entries: Mapping[str, Inputs]
    datasets: tuple[str, ...]
    n_chunks: int
    chunk_tokens: int

    def unseen(self) -> dict[str, tuple[int, ...]]:
        """Tensors with experts of which nothing is known, and which."""
        return {name: inputs.unseen for name, inputs in self.entries.items() if inputs.unseen}

    def fits(self, tensor: TensorInfo) -> bool:
        """Is its entry, if there is one, of this tensor's shape?"""
        inputs = self.entries.get(tensor.name)
        return inputs is None or inputs.sums.size == tensor.shape[0] * _n_matrices(tensor)

    def importance_of(self, tensor: TensorInfo) -> npt.NDArray[np.float32]:
        """Mean squares of a tensor that it has an entry of, [matrices, n_in]: where matrices that are not
        experts (MLA's heads) were counted together, still each by itself."""
        return self.entries[tensor.name].importance().reshape(_n_matrices(tensor), tensor.shape[0])


def _n_matrices(tensor: TensorInfo) -> int:
    return tensor.shape[2] if len(tensor.shape) > 2 else 1


def write_imatrix(path: Path, imatrix: Imatrix) -> None:
    """Write the file, as llama.cpp reads it."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "")
    writer.kv_data[0].clear()  # an imatrix has no architecture
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", list(imatrix.datasets))
    writer.add_uint32("imatrix.chunk_count", imatrix.n_chunks)
    writer.add_uint32("imatrix.chunk_size", imatrix.chunk_tokens)
    for name, inputs in sorted(imatrix.entries.items()):
        writer.add_tensor(name + _SUMS, inputs.sums)
        writer.add_tensor(name + _COUNTS, inputs.counts.astype(np.float32)[:, None])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_imatrix(path: Path) -> Imatrix:
    """Read such a file; NotFound, or UsageError for what is none or cannot be meant."""
    try:
        header = open_header(path)
        check_data(header, path.stat().st_size)
        with path.open("rb") as stream:
            return _read(stream, header)
    except FileNotFoundError as error:
        raise NotFound(f"There is no file {path}", _HINT) from error
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}", _HINT) from error
    except HeaderError as error:
        raise UsageError(f"{path} is no importance matrix in GGUF: {error.message}", _HINT) from error


def _read(stream: BinaryIO, header: Header) -> Imatrix:
    if header.get_str("general.type") != "imatrix":
        raise UsageError("This GGUF file is no importance matrix", _HINT)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    names = [name.removesuffix(_SUMS) for name in tensors if name.endswith(_SUMS)]
    if not names or len(tensors) != 2 * len(names):
        raise UsageError("This importance matrix has sums without counts, or nothing at all", _HINT)
    entries = {}
    for name in names:
        if name + _COUNTS not in tensors:
            raise UsageError(f"This importance matrix has no counts for {name!r}", _HINT)
        sums = _values(stream, header, tensors[name + _SUMS])
        counts = _values(stream, header, tensors[name + _COUNTS])
        if not len(counts) or not len(sums) or len(sums) % len(counts):
            raise UsageError(f"This importance matrix does not fit together at {name!r}", _HINT)
        if not (np.isfinite(sums).all() and np.isfinite(counts).all() and min(sums.min(), counts.min()) >= 0):
            raise UsageError(f"This importance matrix has impossible values for {name!r}", _HINT)
        entries[name] = Inputs(sums.reshape(len(counts), -1), np.rint(counts).astype(np.int64))
    found = header.metadata.get("imatrix.datasets", ())
    texts = read_array(stream, found) if isinstance(found, ArrayRef) else found
    datasets = tuple(str(text) for text in texts) if isinstance(texts, Sequence) else ()
    chunks = (header.get_int(f"imatrix.chunk_{what}") for what in ("count", "size"))
    return Imatrix(entries, datasets, *chunks)


def _values(stream: BinaryIO, header: Header, tensor: TensorInfo) -> npt.NDArray[np.float32]:
    if tensor.type.name != "F32":
        raise UsageError("The numbers of this importance matrix are not F32", _HINT)
    stream.seek(header.data_offset + tensor.offset)
    order = "<" if header.byte_order == "little" else ">"
    return np.frombuffer(stream.read(tensor.n_bytes), f"{order}f4").astype(np.float32)
