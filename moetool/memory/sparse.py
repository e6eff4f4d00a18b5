"""Attention that looks at chosen cells only, written on a tape.

An indexer scores all cells, a mask lets the best ones through. Sizes follow src/models/{deepseek32,deepseek4,
glm5-next,minimax-m3,qwen4exp}.cpp.
"""

from __future__ import annotations

from moetool.anatomy import Sparse
from moetool.memory.blocks import linear
from moetool.memory.caches import padded
from moetool.memory.inputs import Inputs
from moetool.memory.shapes import Shapes
from moetool.memory.tape import Tape


def has_indexer(shapes: Shapes) -> bool:
    return shapes.has("indexer.attn_k", "indexer.k_proj", "indexer.attn_q_b")


def store_index(tape: Tape, shapes: Shapes, x: int, inputs: Inputs) -> None:
    """The indexer's key of each new token goes into its own cache, before anything else."""
    if inputs.sparse is None or not has_indexer(shapes):
        return
    if not shapes.has("indexer.attn_k"):
        if inputs.blocks:
            tape.store(linear(tape, shapes, x, "indexer.k_proj"), inputs.k_indices["full indexer"])
        return
    key = shapes.out("indexer.attn_k")
    k = tape.norm(linear(tape, shapes, x, "indexer.attn_k"), in_place=False)
    if inputs.sparse.pool:
        gate = tape.product(key, x)
        k = tape.new(3 * key, tape.new(2 * key, k, gate))
        tape.store(k, inputs.k_indices["full indexer"])
        _pool_keys(tape, key, inputs)
        return
    k = tape.new(key, tape.view(k), inputs.positions)
    k = k if inputs.rotation_index is None else tape.like(k, inputs.rotation_index)
    tape.store(k, inputs.k_indices["full indexer"])


def _pool_keys(tape: Tape, key: int, inputs: Inputs) -> None:
    """GLM-5 next: cached keys of a few tokens are pooled into one, for all cells anew."""
    assert inputs.sparse is not None
    cells = inputs.cells["full indexer"]
    rows = tape.raw(8 * key * cells, inputs.positions)
    scores = tape.raw(4 * key * cells, tape.view(rows))
    scores = tape.like(tape.view(tape.like(tape.view(scores))))
    values = tape.like(scores, tape.view(rows))
    weighted = tape.over(tape.view(scores), tape.view(values))
    pooled = tape.raw(4 * key * cells // inputs.sparse.pool, weighted)
    tape.raw(0, pooled)


def chosen_mask(tape: Tape, shapes: Shapes, x: int, low: int, inputs: Inputs) -> int:
    """A copy of the mask that lets only the best cells through; `low` is what indexer queries are made of."""
    assert inputs.sparse is not None
    mask, cells = inputs.masks["full"], inputs.cells["full"]
    count = min(inputs.sparse.top_k, cells)
    if inputs.sparse.pool:
        return tape.raw(tape.size(mask), tape.view(_best(tape, x, low, inputs)), mask)
    zeros = _zeros(tape, shapes, inputs, count)
    if has_indexer(shapes):
        inputs.chosen["top"] = _best(tape, x, low, inputs)
    closed = tape.raw(tape.size(mask), mask)
    tape.raw(0, zeros, inputs.chosen.get("top", zeros), closed)
    return tape.over(tape.view(closed), mask)


def _zeros(tape: Tape, shapes: Shapes, inputs: Inputs, count: int) -> int:
    """Zeros for each of the best cells, written into this layer's own leaf."""
    leaf = inputs.leafs.get(shapes.layer.index)
    return tape.new(count) if leaf is None else tape.over(leaf)


def _best(tape: Tape, x: int, low: int, inputs: Inputs) -> int:
    """The best cells of each token: queries of many small heads, their weights, one score a cell."""
    assert inputs.sparse is not None
    cells = inputs.cells["full"]
    width = inputs.sparse.n_head * inputs.sparse.key
    q = tape.product(width, low)
    if not inputs.sparse.pool:
        q = tape.new(width, tape.view(q), inputs.positions)
        q = q if inputs.rotation_index is None else tape.like(tape.view(q), inputs.rotation_index)
    weights = tape.like(tape.view(tape.product(inputs.sparse.n_head, x)))
    if inputs.sparse.pool:
        return _best_pools(tape, q, weights, inputs, cells)
    scores = tape.new(cells, tape.view(q), weights, inputs.masks.get("full indexer", q))
    return tape.like(tape.view(tape.new(min(inputs.sparse.top_k, cells), scores)))


def pool_count(sparse: Sparse, cells: int) -> int:
    """Pools that the cells make, with room for one that is not full yet."""
    return padded(cells // sparse.pool + 1, 64)


def _best_pools(tape: Tape, q: int, weights: int, inputs: Inputs, cells: int) -> int:
    """Pools are scored, sorted and spread out again into the cells they stand for."""
    sparse = inputs.sparse
    assert sparse is not None
    pools = pool_count(sparse, cells)
    keys = tape.raw(4 * sparse.key * pools, inputs.positions)
    scores = tape.new(pools, q, keys, weights, inputs.masks["pools"])
    best = tape.new(min(sparse.top_k // sparse.pool, pools), scores)
    copied = tape.like(best)
    order = tape.like(tape.view(tape.like(tape.view(scores), best)))
    sorted_ = tape.like(tape.view(copied), order)
    cells_of = tape.like(tape.view(tape.like(tape.view(sorted_))))
    joined = tape.raw(tape.size(inputs.masks["tail"]), tape.view(tape.new(sparse.pool * pools, cells_of)))
    ones = tape.raw(tape.size(joined), inputs.positions)
    index = tape.over(tape.like(joined))
    index = tape.over(index, tape.like(tape.view(inputs.masks["tail"])))
    index = tape.like(tape.over(index))
    target = tape.raw(tape.size(joined), inputs.positions)
    tape.raw(0, ones, index, target)
    return target


# --- MiniMax-M3 ---------------------------------------------------------------------------------------------


def block_mask(tape: Tape, shapes: Shapes, _x: int, _low: int, inputs: Inputs) -> int:
    """Blocks of cells chosen for each group of heads: a mask for every one of them, in F32 and then in F16.

    The scores themselves are of blocks in use, few when buffers are reserved.
    """
    groups, cells = shapes.layer.n_head_kv, inputs.cells["full"]
    mask = inputs.masks["full"]
    rows = tape.new(groups * cells, mask)
    turned = tape.like(tape.view(rows))
    if "wide" not in inputs.chosen:
        inputs.chosen["wide"] = tape.raw(2 * tape.size(mask), mask)
    summed = tape.over(turned, tape.view(inputs.chosen["wide"]))
    return tape.raw(tape.size(summed) // 2, summed)


# --- Qwen 4 -------------------------------------------------------------------------------------------------


def pools_keys(sparse: Sparse, shapes: Shapes) -> bool:
    """Whether a layer's indexer scores averages of keys."""
    return bool(sparse.ratio) and not sparse.block and shapes.has("indexer.q_proj")


def pooled_mask(tape: Tape, shapes: Shapes, x: int, _low: int, inputs: Inputs) -> int:
    """Keys averaged over a few cells, scored by every small head apart; the cells of the best pools pass."""
    assert inputs.sparse is not None
    sparse, cells = inputs.sparse, inputs.cells["full"]
    pools = -(-cells // sparse.ratio)
    count = min(sparse.top_k, cells)
    zeros = _zeros(tape, shapes, inputs, count)
    rows = tape.raw(4 * sparse.key * cells, inputs.blocks["cells"])
    part = tape.raw(4 * sparse.key * pools, tape.view(rows))
    for _ in range(sparse.ratio - 1):
        part = tape.over(part, tape.like(part, tape.view(rows)))
    keys = tape.like(tape.view(part), inputs.blocks["positions"])
    q = tape.over(tape.like(tape.view(linear(tape, shapes, x, "indexer.q_proj"))), inputs.positions)
    scores = tape.new(sparse.n_head * pools, keys, tape.view(q))
    positive = tape.like(tape.view(scores))
    total = tape.new(pools, tape.view(positive))
    for _ in range(sparse.n_head - 1):
        total = tape.over(total, tape.view(positive))
    total = tape.over(total, inputs.blocks["bias"])
    spread = tape.new(cells, tape.view(tape.like(tape.view(total))), inputs.blocks["block"])
    by_token = tape.like(tape.view(spread))
    mask = inputs.masks["full"]
    wide = tape.raw(2 * tape.size(mask), mask)
    best = tape.new(count, tape.over(by_token, wide))
    best = tape.like(tape.view(best))
    closed = tape.raw(tape.size(mask), mask)
    tape.raw(0, zeros, best, closed)
    return tape.over(tape.view(closed), mask)


# --- DeepSeek-V4 --------------------------------------------------------------------------------------------


def compressed_attention(tape: Tape, shapes: Shapes, x: int, inputs: Inputs) -> int:
    """A sliding window of raw rows, beside rows that stand for 4 or 128 tokens each."""
    layer = shapes.layer
    rows = [row for row in layer.cache if row.ratio > 1]
    for name in ("attn_compressor", "indexer_compressor"):
        if shapes.has(f"{name}_kv"):
            _compress(tape, shapes, x, name)
    low = tape.over(linear(tape, shapes, x, "attn_q_a"))
    q = tape.over(tape.like(tape.view(linear(tape, shapes, low, "attn_q_b"))), inputs.positions)
    kv = tape.over(linear(tape, shapes, x, "attn_kv"))
    tape.store(tape.like(tape.view(kv), inputs.positions), inputs.k_indices["sliding"])
    mask, row = inputs.masks["sliding"], shapes.out("attn_kv")
    if rows:
        kind = f"ratio {rows[0].ratio}"
        cells = inputs.cells["sliding"] + inputs.cells[kind]
        keys = tape.raw(2 * row * cells * inputs.n_seq, mask)
        inner = _chosen_rows(tape, shapes, x, low, inputs, kind) if len(rows) > 1 else inputs.masks[kind]
        mask = tape.raw(tape.size(mask) + tape.size(inner), mask, inner)
        attended = tape.new(layer.n_head * layer.head_v, tape.view(q), keys, mask)
    else:
        attended = tape.new(layer.n_head * layer.head_v, tape.view(q), mask)
    attended = tape.like(tape.view(attended), inputs.positions)
    grouped = tape.product(shapes.into("attn_output_b"), tape.view(attended))
    return linear(tape, shapes, tape.like(tape.view(grouped)), "attn_output_b")


def _chosen_rows(tape: Tape, shapes: Shapes, x: int, low: int, inputs: Inputs, kind: str) -> int:
    assert inputs.sparse is not None
    sparse, cells, mask = inputs.sparse, inputs.cells[kind], inputs.masks[kind]
    count = min(sparse.top_k, cells)
    zeros = _zeros(tape, shapes, inputs, count)
    q = tape.new(sparse.n_head * sparse.key, tape.view(tape.product(sparse.n_head * sparse.key, low)))
    q = tape.like(tape.view(q))
    weights = tape.over(tape.product(sparse.n_head, x))
    scores = tape.new(cells, tape.view(q), tape.view(weights), inputs.masks[f"{kind} indexer"])
    best = tape.like(tape.view(tape.new(count, scores)))
    closed = tape.raw(tape.size(mask), mask)
    tape.raw(0, zeros, best, closed)
    return tape.over(tape.view(closed), mask)


def _compress(tape: Tape, shapes: Shapes, x: int, name: str) -> None:
    """Keys and scores of the tokens of each block, gathered, weighed and summed."""
    width = shapes.out(f"{name}_kv")
    sides = []
    for _ in range(2):
        made = tape.product(width, x)
        joined = tape.like(made, tape.like(made))
        gathered = tape.new(2 * width, joined)
        halves = [tape.new(width // 2, tape.view(gathered)) for _ in range(2)]
        sides.append(tape.like(tape.view(tape.new(width, *halves))))
    tape.raw(0, tape.over(sides[0], tape.over(sides[1])))
