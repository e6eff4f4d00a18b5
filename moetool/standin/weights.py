"""What each tensor of a made-up model holds: random blocks, or one value where a random one would do harm."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from moetool.gguf import TensorInfo
from moetool.quants import QuantType
from moetool.standin.blocks import TILE_BYTES, make_tile

_FLOATS = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}


def make_tiles(tensors: Iterable[TensorInfo]) -> dict[QuantType, bytes]:
    """Random blocks of each type that occurs, to be repeated."""
    largest: dict[QuantType, int] = {}
    for tensor in tensors:
        largest[tensor.type] = max(largest.get(tensor.type, 0), tensor.n_bytes)
    return {quant: make_tile(quant, min(TILE_BYTES, n_bytes)) for quant, n_bytes in largest.items()}


def tensor_pieces(tensor: TensorInfo, tiles: Mapping[QuantType, bytes]) -> Iterator[memoryview]:
    """The bytes of a tensor, a tile at most at a time."""
    value = constant_of(tensor)
    if value is not None:
        yield memoryview(np.full(tensor.n_elements, value, _FLOATS[tensor.type.name]).tobytes())
        return
    tile = memoryview(tiles[tensor.type])
    # No two tensors begin alike: layers with the same router would all choose the same experts.
    n_blocks = len(tile) // tensor.type.block_bytes
    start = zlib.crc32(tensor.name.encode()) % n_blocks * tensor.type.block_bytes
    left = tensor.n_bytes
    while left:
        piece = tile[start : start + left]
        yield piece
        left -= len(piece)
        start = 0


def constant_of(tensor: TensorInfo) -> float | None:
    """The one value of a tensor whose values are no weights of a product: norms and scales are 1, biases and
    attention sinks 0, and recurrent states decay; None for weights, which are random."""
    if tensor.type.name not in _FLOATS:
        return None
    part = tensor.name.rpartition("blk.")[2].lstrip("0123456789.")
    if part.startswith(("ssm_a", "time_decay")) and not part.endswith("norm.weight"):
        return -1.0
    if sum(n > 1 for n in tensor.shape) > 1:
        return None
    return 0.0 if part.endswith(".bias") or "sinks" in part else 1.0
