"""What a graph is fed with: tokens, positions, indices, masks, and tables, each with its size.

As the build_inp_… functions of src/llama-graph.cpp make them.
"""

from __future__ import annotations

from collections.abc import Sequence

from moetool.anatomy import Anatomy, facts
from moetool.anatomy.layers import CacheRow
from moetool.anatomy.roles import part_of
from moetool.memory.caches import (
    Cells,
    cache_type,
    make_cells,
    row_cells,
    row_kv_bytes,
    uses_flash_attention,
)
from moetool.memory.inputs import Inputs
from moetool.memory.placement import Placement, override_of
from moetool.memory.recurrent import is_lightning
from moetool.memory.shapes import Shapes
from moetool.memory.sparse import pool_count, pools_keys
from moetool.memory.tape import Tape
from moetool.settings import Settings


def cache_kind(row: CacheRow) -> str:
    """Rows of one kind share cells, indices and a mask."""
    if row.ratio > 1:
        return f"ratio {row.ratio}" + (" indexer" if row.indexer else "")
    kind = "sliding" if row.window else "full"
    return f"{kind} indexer" if row.indexer else kind


def make_inputs(
    tape: Tape,
    anatomy: Anatomy,
    shapes: Sequence[Shapes],
    settings: Settings,
    cpu: str,
    n_out: int,
) -> Inputs:
    cells = make_cells(anatomy, settings)
    rows = {cache_kind(row): row for layer in anatomy.layers for row in layer.cache}
    tokens = tape.tokens
    sizes = {kind: row_cells(row, cells) for kind, row in rows.items()}
    flash_attn = uses_flash_attention(anatomy, settings)
    mask = 2 if flash_attn else 4
    recurs = any(layer.mixer in {"recurrent", "parallel"} for layer in anatomy.layers)
    v_index = 8 if flash_attn else 8 * max((row.v_padded for row in rows.values()), default=1)
    return Inputs(
        positions=tape.input(4 * anatomy.n_positions * tokens, cpu),
        k_indices={kind: tape.input(8 * tokens, cpu) for kind in rows},
        v_indices={kind: tape.input(v_index * tokens, cpu) for kind, row in rows.items() if row.v},
        masks=_masks(tape, anatomy, rows, sizes, mask * tokens, cpu),
        cells=sizes,
        out_rows=tape.input(4 * n_out, cpu),
        copy_rows=tape.input(4 * cells.n_seq, cpu) if recurs else -1,
        sparse=anatomy.sparse,
        leafs={},
        chosen={},
        blocks=_blocks(tape, anatomy, shapes, cells, cpu),
        rotation_index=_index_rotation(tape, anatomy, cpu),
        rope=anatomy.arch not in facts.NO_ROPE,
        bare_norms=anatomy.arch in facts.BARE_NORMS,
        normed_values=anatomy.arch in facts.NORMED_VALUES,
        rotations_k=_rotations(tape, anatomy, settings.type_k, "k", cpu),
        rotations_v=_rotations(tape, anatomy, settings.type_v, "v", cpu),
        flash_attn=flash_attn,
        n_seq=cells.n_seq,
        experts=settings.experts,
        expert_device=_expert_devices(anatomy, settings),
        decays=_decays(tape, shapes, cells, cpu),
        far_caches={},
        state_device={},
        next_layer=[],
        gathered={},
    )


def _masks(
    tape: Tape, anatomy: Anatomy, rows: dict[str, CacheRow], cells: dict[str, int], n_bytes: int, cpu: str
) -> dict[str, int]:
    """A mask for each kind of cache, `n_bytes` a cell; pooled attention has one over pools, and a tail."""
    if not rows:
        return {"full": tape.input(n_bytes * tape.tokens, cpu)}
    masks = {kind: tape.input(n_bytes * cells[kind], cpu) for kind, row in rows.items() if row.masked}
    if anatomy.sparse is not None and anatomy.sparse.pool:
        sparse = anatomy.sparse
        pools = pool_count(sparse, cells["full"])
        masks["pools"] = tape.input(n_bytes * pools, cpu)
        chosen = sparse.pool * min(sparse.top_k // sparse.pool, pools) + sparse.pool - 1
        masks["tail"] = tape.input(4 * chosen * tape.tokens, cpu)
    return masks


def make_leafs(tape: Tape, anatomy: Anatomy, cells: dict[str, int], homes: Sequence[str]) -> dict[int, int]:
    """Rows of zeros that sparse attention writes into its mask, by layer, each on the device of its layer.

    Not filled from outside, but, like what is, there before anything runs (leafs of the graph).
    """
    if anatomy.sparse is None or not anatomy.sparse.top_k or anatomy.sparse.block or anatomy.sparse.pool:
        return {}
    kind = "ratio 4" if "ratio 4" in cells else "full"
    count = min(anatomy.sparse.top_k, cells.get(kind, 0))
    return {
        layer.index: tape.leaf(4 * count * tape.tokens, homes[layer.index])
        for layer in anatomy.layers
        if not layer.mtp and any(cache_kind(row) == kind for row in layer.cache)
    }


def _blocks(tape: Tape, anatomy: Anatomy, shapes: Sequence[Shapes], cells: Cells, cpu: str) -> dict[str, int]:
    """Qwen 4's blocks of cells: which cells and positions are in each, which block each cell is in, and which
    blocks each token may see (llm_graph_input_qsa, src/models/qwen4exp.cpp)."""
    sparse = anatomy.sparse
    if sparse is None or not any(pools_keys(sparse, layer) for layer in shapes):
        return {}
    n_blocks = -(-cells.per_stream // sparse.ratio)
    sizes = {
        "cells": sparse.ratio * n_blocks * cells.streams,
        "block": cells.per_stream * cells.streams,
        "positions": 4 * n_blocks * cells.streams,
        "bias": n_blocks * tape.tokens,
    }
    return {name: tape.input(4 * size, cpu) for name, size in sizes.items()}


def _index_rotation(tape: Tape, anatomy: Anatomy, cpu: str) -> int | None:
    """DeepSeek's indexers rotate their keys whatever the cache's type."""
    if anatomy.sparse is None or anatomy.arch not in facts.ROTATED_INDEX:
        return None
    return tape.input(4 * anatomy.sparse.key**2, cpu)


def _rotations(tape: Tape, anatomy: Anatomy, type_name: str, which: str, cpu: str) -> dict[str, int]:
    """The Hadamard matrices that turn what quantized caches hold, one for each cache.

    For caches whose head sizes are all the same multiple of 64 (llama_kv_cache, build_input_k_rot).
    """
    sizes: dict[str, set[int]] = {}
    for layer in anatomy.layers:
        for row in layer.cache:
            if not row.indexer and (which == "k" or row.v):
                head = layer.head_k if which == "k" else layer.head_v
                sizes.setdefault(cache_kind(row), set()).add(head)
    if cache_type(type_name).block_size == 1:
        return {}
    widths = {kind: _rotation_width(which, *heads) for kind, heads in sizes.items() if len(heads) == 1}
    return {kind: tape.input(4 * width * width, cpu) for kind, width in widths.items() if width}


def _rotation_width(which: str, head: int) -> int:
    """V is turned 64 values at a time, K as many as divide a head evenly; 0: not at all."""
    if head % 64:
        return 0
    width = 64
    while which == "k" and head % (2 * width) == 0:
        width *= 2
    return width


def _decays(tape: Tape, shapes: Sequence[Shapes], cells: Cells, cpu: str) -> tuple[int, ...]:
    """How lightning attention forgets: by position of a query and of a key, and by pair of tokens."""
    heads = max((s.layer.n_head for s in shapes if is_lightning(s)), default=0)
    if not heads:
        return ()
    by_token = 4 * heads * tape.tokens
    pairs = by_token * -(-tape.tokens // cells.n_seq)
    return tuple(tape.input(n_bytes, cpu) for n_bytes in (by_token, by_token, pairs))


def _expert_devices(anatomy: Anatomy, settings: Settings) -> dict[int, dict[str, str]]:
    """Layer -> the device that each matrix of its experts was sent to, by the matrix's name."""
    found: dict[int, dict[str, str]] = {}
    if settings.tensor_overrides:
        for tensor in anatomy.tensors:
            if tensor.role == "routed experts" and tensor.layer is not None:
                device = override_of(settings.tensor_overrides, tensor.info.name)
                if device is not None:
                    part = part_of(tensor.info.name).partition(".")[0]
                    found.setdefault(tensor.layer, {})[part] = device
    return found


def far_caches(
    run: Sequence[Shapes], placement: Placement, settings: Settings, cells: Cells, flash_attn: bool
) -> dict[int, tuple[int, ...]]:
    """Layer -> bytes of the K and V that its attention reads, for layers of the CPU."""
    return {
        s.layer.index: row_kv_bytes(s.layer.cache[0], settings, cells, flash_attn)
        for s in run
        if s.layer.cache and placement.layers[s.layer.index] == placement.cpu
    }
