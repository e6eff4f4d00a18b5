"""What every layer of a graph may read: tokens, positions, masks, and what the settings say."""

from __future__ import annotations

from dataclasses import dataclass

from moetool.anatomy import Sparse
from moetool.memory.shapes import Shapes


@dataclass(frozen=True)
class Inputs:
    """Numbers of the steps that hold what all layers read, and what the settings say about the cache.

    `masks`, `k_indices`, `v_indices` and `rotations_…` are by kind of cache (see `cache_kind`). `cells` are
    those of each cache. Quantized caches are stored rotated, each by matrices of its own. Of sparse
    attention, `leafs` are rows of zeros by layer, `chosen` the cells that the last indexer chose, and
    `blocks` Qwen 4's tables of blocks of cells. A recurrent layer's first states are gathered while the layer
    before it is still computing: `next_layer` is that layer, if any, and `gathered` has the step of those
    gathered already. `decays` are the tables of lightning attention: of queries, of keys, of pairs.
    `far_caches` are bytes of K and of V, of layers whose cache stays on the CPU while a GPU may compute their
    attention.
    """

    positions: int
    masks: dict[str, int]
    k_indices: dict[str, int]
    v_indices: dict[str, int]
    cells: dict[str, int]
    out_rows: int
    copy_rows: int
    rope: bool
    bare_norms: bool
    normed_values: bool
    sparse: Sparse | None
    leafs: dict[int, int]
    chosen: dict[str, int]
    blocks: dict[str, int]
    rotation_index: int | None
    rotations_k: dict[str, int]
    rotations_v: dict[str, int]
    flash_attn: bool
    n_seq: int
    experts: int | None
    expert_device: dict[int, dict[str, str]]
    decays: tuple[int, ...]
    far_caches: dict[int, tuple[int, ...]]
    state_device: dict[int, str]
    next_layer: list[Shapes]
    gathered: dict[int, int]
