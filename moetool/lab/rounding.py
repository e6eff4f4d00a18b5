"""What each type makes of a tensor's weights: the relative squared error, by ggml's own quantizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moetool.engine.rounding import decode, encode
from moetool.gguf import Header, TensorInfo
from moetool.quants import QuantType, row_bytes

Floats = npt.NDArray[np.float32]

# Weights of a tensor that are looked at; rows and experts are taken at even distances.
_SAMPLE = 1 << 15
_MOST_EXPERTS = 16


@dataclass(frozen=True)
class Sample:
    """Some rows of a tensor, [experts, rows, columns], and which experts they are of."""

    weights: Floats
    experts: tuple[int, ...]


def read_sample(path: Path, header: Header, tensor: TensorInfo) -> Sample:
    """Rows of a tensor from the shard `path` with this header."""
    n_columns, n_rows, n_experts = (*tensor.shape, 1, 1)[:3]
    n_bytes = row_bytes(tensor.type, n_columns)
    data = np.memmap(path, np.uint8, "r", header.data_offset + tensor.offset, (n_experts, n_rows, n_bytes))
    experts = _spread(n_experts, _MOST_EXPERTS)
    rows = _spread(n_rows, max(1, _SAMPLE // (n_columns * len(experts))))
    blocks = np.ascontiguousarray(data[np.ix_(experts, rows)]).reshape(-1, n_bytes)
    weights = decode(blocks, tensor.type).reshape(len(experts), len(rows), n_columns)
    return Sample(weights, tuple(experts))


def _spread(n: int, most: int) -> list[int]:
    """Up to so many of n numbers, at even distances."""
    count = min(n, most)
    return [(2 * at + 1) * n // (2 * count) for at in range(count)]


def rounding_errors(
    sample: Sample, types: Sequence[QuantType], importance: Floats | None = None
) -> dict[QuantType, float]:
    """The share of their squares that rounding takes from the weights, by type; `importance`, [experts,
    columns], weighs the columns of each expert, in rounding and in the share."""
    found = {}
    for quant in types:
        lost = whole = 0.0
        for at, expert in enumerate(sample.experts):
            counts = None if importance is None else importance[expert]
            part_lost, part_whole = _squares(sample.weights[at], quant, counts)
            lost, whole = lost + part_lost, whole + part_whole
        found[quant] = lost / whole if whole > 0 else 0.0
    return found


def rounded(
    data: npt.NDArray[np.uint8], own: QuantType, quant: QuantType, n_columns: int
) -> tuple[npt.NDArray[np.uint8], float]:
    """A tensor's bytes with all weights rounded as `quant` would, in their `own` type again; and the share of
    the squares that this took."""
    weights = decode(data.reshape(-1, row_bytes(own, n_columns)), own)
    after = decode(encode(weights, quant), quant)
    squares = float(np.square(weights, dtype=np.float64).sum())
    lost = float(np.square(after - weights, dtype=np.float64).sum())
    return encode(after, own).reshape(-1), lost / squares if squares > 0 else 0.0


def _squares(weights: Floats, quant: QuantType, importance: Floats | None) -> tuple[float, float]:
    after = decode(encode(weights, quant, importance), quant)
    columns = np.ones(weights.shape[-1]) if importance is None else importance
    lost = np.square(after - weights, dtype=np.float64) @ columns
    whole = np.square(weights, dtype=np.float64) @ columns
    return float(lost.sum()), float(whole.sum())
