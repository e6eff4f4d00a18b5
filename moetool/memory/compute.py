"""Compute buffers: the forward pass of one full ubatch, written down and given to the allocator.

llama_context reserves its buffers for a ubatch of `n_ubatch` tokens with full caches (graph_reserve,
src/llama-context.cpp); the graph here has the same steps in the same order where that changes sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

from moetool.anatomy import Anatomy, facts
from moetool.anatomy.layers import CacheRow
from moetool.machine import Device
from moetool.memory.allocator import peak_bytes
from moetool.memory.blocks import Chooser, attention, dense_ffn, linear, mla, moe_ffn, norm
from moetool.memory.caches import (
    Cells,
    cache_type,
    make_cells,
    row_cells,
    row_kv_bytes,
    uses_flash_attention,
)
from moetool.memory.inputs import Inputs
from moetool.memory.placement import Placement, make_placement, offload_devices, override_of
from moetool.memory.recurrent import is_lightning, recurrent
from moetool.memory.shapes import Shapes, make_shapes
from moetool.memory.sparse import (
    block_mask,
    chosen_mask,
    compressed_attention,
    has_indexer,
    pool_count,
    pooled_mask,
    store_index,
)
from moetool.memory.tape import Tape
from moetool.settings import Settings

# Of a pattern of layers, so many rounds show all that the allocator does with it.
_ROUNDS = 3
_LONGEST_PATTERN = 12


def compute_bytes(anatomy: Anatomy, settings: Settings, devices: Sequence[Device]) -> dict[str, int]:
    """Device -> bytes of its compute buffer."""
    placement = make_placement(anatomy, settings, devices)
    cells = make_cells(anatomy, settings)
    tokens = min(cells.n_ubatch, cells.per_stream * cells.streams)
    tape = Tape(tokens, placement.cpu)
    shapes = make_shapes(anatomy)
    # At least one row a sequence, or llama.cpp does not start.
    n_out = min(max(settings.n_outputs_max or tokens, cells.n_seq), tokens)
    x = _embedding(tape, anatomy, placement.cpu)
    if anatomy.n_streams > 1:
        x = tape.new(anatomy.n_streams * anatomy.n_embd, x)
    inputs = _inputs(tape, anatomy, shapes, settings, placement.cpu, n_out)
    homes = [(placement.layers[s.layer.index], inputs.expert_device.get(s.layer.index)) for s in shapes]
    run = _sample(shapes, homes)
    inputs.state_device.update((s.layer.index, placement.layers[s.layer.index]) for s in run)
    helper = _helper(settings, devices)
    if helper is not None:
        inputs.far_caches.update(_far_caches(run, placement, settings, cells, inputs.flash_attn))
    for number, layer in enumerate(run):
        tape.on(placement.layers[layer.layer.index])
        if anatomy.arch in facts.STATES_AHEAD:
            inputs.next_layer[:] = run[number + 1 : number + 2]
        last = number == len(run) - 1 and anatomy.arch not in facts.ROWS_CHOSEN_AT_END
        x = _layer(tape, layer, x, inputs, n_out if last else None)
    tape.on(placement.output)
    _output(tape, anatomy, x, inputs, n_out)
    return peak_bytes(tape.steps, placement.cpu, helper, _n_batches(anatomy, settings, devices))


def _n_batches(anatomy: Anatomy, settings: Settings, devices: Sequence[Device]) -> int:
    """How many batches are on their way at once: four, where several devices share all layers.

    (pipeline_parallel in src/llama-context.cpp, GGML_SCHED_MAX_COPIES.)
    """
    used = offload_devices(settings, devices)
    whole = len(used) > 1 and settings.n_gpu_layers > len(anatomy.layers)
    able = not any(d.name.startswith(_NO_EVENTS) for d in used)
    return 4 if whole and able and not settings.tensor_overrides else 1


def _helper(settings: Settings, devices: Sequence[Device]) -> str | None:
    """The device that large batches go to even where weights are in host memory (offload_op of back ends)."""
    helpers = [d.name for d in offload_devices(settings, devices) if not d.name.startswith(_NO_HELP)]
    return helpers[0] if helpers else None


# Back ends that compute with their own weights only.
_NO_HELP = ("RPC", "GPUOpenCL", "WebGPU")
# Back ends that do not compute side by side with others.
_NO_EVENTS = ("CANN", "GPUOpenCL", "WebGPU")


def _far_caches(
    run: Sequence[Shapes], placement: Placement, settings: Settings, cells: Cells, flash_attn: bool
) -> dict[int, tuple[int, ...]]:
    """Layer -> bytes of the K and V that its attention reads, for layers of the CPU."""
    return {
        s.layer.index: row_kv_bytes(s.layer.cache[0], settings, cells, flash_attn)
        for s in run
        if s.layer.cache and placement.layers[s.layer.index] == placement.cpu
    }


def _sample(shapes: Sequence[Shapes], homes: Sequence[object]) -> list[Shapes]:
    """Layers enough to show all that the allocator does: of a pattern that repeats, the first few rounds."""
    keys = [(home, *shape.signature) for home, shape in zip(homes, shapes, strict=True)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    kinds = [numbers[key] for key in keys]
    kept: list[Shapes] = []
    at = 0
    while at < len(kinds):
        period, rounds = _repetition(kinds, at)
        kept += shapes[at : at + period * min(rounds, _ROUNDS)]
        at += period * rounds
    # The last layer is special, and what comes before it stands for it otherwise.
    return kept if not shapes or kept[-1] is shapes[-1] else [*kept[:-1], shapes[-1]]


def _repetition(kinds: Sequence[int], start: int) -> tuple[int, int]:
    """The shortest pattern from `start` that repeats more often than needs be shown, and how often."""
    for period in range(1, min(_LONGEST_PATTERN, (len(kinds) - start) // 2) + 1):
        rounds = 1
        pattern = kinds[start : start + period]
        while kinds[start + rounds * period : start + (rounds + 1) * period] == pattern:
            rounds += 1
        if rounds > _ROUNDS:
            return period, rounds
    return 1, 1


# --- what comes in ------------------------------------------------------------------------------------------


def _embedding(tape: Tape, anatomy: Anatomy, cpu: str) -> int:
    """Rows of the embedding; a place for ready-made embeddings is kept beside them (build_inp_embd)."""
    tokens = tape.input(4 * tape.tokens, cpu)
    tape.input(4 * anatomy.n_embd * tape.tokens, cpu)
    return tape.rows(anatomy.n_embd, tokens)


def cache_kind(row: CacheRow) -> str:
    """Rows of one kind share cells, indices and a mask."""
    if row.ratio > 1:
        return f"ratio {row.ratio}" + (" indexer" if row.indexer else "")
    kind = "sliding" if row.window else "full"
    return f"{kind} indexer" if row.indexer else kind


def _inputs(
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
        leafs=_leafs(tape, anatomy, sizes, cpu),
        chosen={},
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


def _leafs(tape: Tape, anatomy: Anatomy, cells: dict[str, int], cpu: str) -> list[int]:
    """Rows of zeros that sparse attention writes into its mask: made for all layers before anything runs."""
    if anatomy.sparse is None or not anatomy.sparse.top_k or anatomy.sparse.block or anatomy.sparse.pool:
        return []
    layers = [layer for layer in anatomy.layers if layer.cache and not layer.mtp]
    kind = "ratio 4" if "ratio 4" in cells else "full"
    wanted = sum(any(cache_kind(row) == kind for row in layer.cache) for layer in layers)
    count = min(anatomy.sparse.top_k, cells.get(kind, 0))
    return [tape.input(4 * count * tape.tokens, cpu) for _ in range(wanted)]


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


def _expert_devices(anatomy: Anatomy, settings: Settings) -> dict[int, str]:
    """Layer -> the device its experts were sent to."""
    found: dict[int, str] = {}
    if settings.tensor_overrides:
        for tensor in anatomy.tensors:
            if tensor.role == "routed experts" and tensor.layer is not None:
                device = override_of(settings.tensor_overrides, tensor.info.name)
                if device is not None:
                    found[tensor.layer] = device
    return found


# --- layers -------------------------------------------------------------------------------------------------


def _layer(tape: Tape, shapes: Shapes, x: int, inputs: Inputs, n_out: int | None) -> int:
    """One layer; with `n_out`, only so many rows go on behind the attention."""
    if shapes.has("hc_attn_fn", "hc_attn_down"):
        return _streamed_layer(tape, shapes, x, inputs)
    bare = inputs.bare_norms
    normed = norm(tape, shapes, x, "attn_norm", bare)
    mixed = _mix(tape, shapes, normed, inputs)
    if mixed is None:
        return tape.over(_feed(tape, shapes, normed, inputs), x)
    before = next((name for name in _FFN_NORMS if shapes.has(name)), "")
    if shapes.layer.ffn != "none" and not before and not bare:
        return _parallel(tape, shapes, (x, normed, mixed), inputs, n_out)
    mixed = _project(tape, shapes, mixed)
    if n_out is not None:
        mixed, x = _choose_rows(tape, inputs, n_out, mixed, x)
    both = before == "ffn_norm" and shapes.has("post_attention_norm")
    x = tape.over(norm(tape, shapes, mixed, "post_attention_norm") if both else mixed, x)
    if shapes.layer.ffn == "none":
        return x
    fed = _feed(tape, shapes, norm(tape, shapes, x, before, bare), inputs)
    x = tape.over(norm(tape, shapes, fed, "post_ffw_norm"), x)
    # A scale of the whole layer is a weight: it ties the sum to the layer's device.
    return tape.norm(x) if shapes.has("layer_output_scale") else x


# What the norm in front of the feed-forward part is called; an architecture without one runs it in parallel.
_FFN_NORMS = ("ffn_norm", "post_attention_norm", "attn_output_norm", "ffn_norm_exps")


def _parallel(
    tape: Tape, shapes: Shapes, parts: tuple[int, int, int], inputs: Inputs, n_out: int | None
) -> int:
    """Attention and FFN on the same input: the FFN is computed before the attention's output product."""
    x, normed, mixed = parts
    if n_out is not None:
        mixed, x, normed = _choose_rows(tape, inputs, n_out, _project(tape, shapes, mixed), x, normed)
        return tape.over(tape.over(_feed(tape, shapes, normed, inputs), mixed), x)
    fed = _feed(tape, shapes, normed, inputs)
    return tape.over(tape.over(fed, _project(tape, shapes, mixed)), x)


def _project(tape: Tape, shapes: Shapes, mixed: int) -> int:
    """The output product of the attention; recurrent and compressed mixers bring their own."""
    if shapes.layer.mixer in {"recurrent", "parallel"} or shapes.has("attn_kv"):
        return mixed
    return linear(tape, shapes, mixed, "attn_output")


def _streamed_layer(tape: Tape, shapes: Shapes, x: int, inputs: Inputs) -> int:
    """A layer with hyper-connections: each part reads one mix of the streams and writes into all of them."""
    for part in ("attn", "ffn"):
        normed = tape.like(tape.view(x))
        gates = tape.product(shapes.out(f"hc_{part}_fn") or shapes.out(f"hc_{part}_down"), normed)
        if shapes.has(f"hc_{part}_up"):
            wide = tape.product(shapes.out(f"hc_{part}_up"), gates)
            one = tape.new(shapes.n_embd, normed, wide)
        else:
            one = tape.new(shapes.n_embd, x, gates)
        one = norm(tape, shapes, one, f"{part}_norm")
        made = _feed(tape, shapes, one, inputs) if part == "ffn" else _mix(tape, shapes, one, inputs)
        assert made is not None
        made = made if part == "ffn" else _project(tape, shapes, made)
        x = tape.like(x, made, gates, *((normed,) if shapes.has(f"hc_{part}_up") else ()))
    return x


def _mix(tape: Tape, shapes: Shapes, x: int, inputs: Inputs) -> int | None:
    layer = shapes.layer
    if layer.mixer == "none" or not shapes.parts:
        return None
    kind = cache_kind(layer.cache[0]) if layer.cache else "sliding" if layer.window else "full"
    if layer.mixer in {"recurrent", "parallel"}:
        mixed = recurrent(tape, shapes, x, inputs)
        return (
            mixed
            if layer.mixer == "recurrent"
            else tape.over(attention(tape, shapes, x, inputs, kind), mixed)
        )
    if shapes.has("attn_kv"):
        return compressed_attention(tape, shapes, x, inputs)
    store_index(tape, shapes, x, inputs)
    choose = _chooser(shapes, inputs, kind)
    if shapes.has("attn_kv_a_mqa") and shapes.has("attn_k_b"):
        return mla(tape, shapes, x, inputs, kind, choose)
    return attention(tape, shapes, x, inputs, kind, choose)


def _chooser(shapes: Shapes, inputs: Inputs, kind: str) -> Chooser | None:
    """What narrows the mask in sparse attention; layers without an indexer use the last one's choice."""
    if inputs.sparse is None or kind != "full" or not inputs.sparse.top_k:
        return None
    if shapes.has("indexer.q_proj"):
        return block_mask if inputs.sparse.block else pooled_mask
    return chosen_mask if has_indexer(shapes) or inputs.chosen else None


def _choose_rows(tape: Tape, inputs: Inputs, n_out: int, *steps: int) -> list[int]:
    """From here on only the rows that become logits (inp_out_ids)."""
    widths = [tape.size(step) // (4 * tape.tokens) for step in steps]
    tape.tokens = n_out
    return [tape.new(width, step, inputs.out_rows) for width, step in zip(widths, steps, strict=True)]


def _feed(tape: Tape, shapes: Shapes, x: int, inputs: Inputs) -> int:
    if shapes.layer.ffn == "moe":
        return moe_ffn(tape, shapes, x, inputs)
    return dense_ffn(tape, shapes, x)


def _output(tape: Tape, anatomy: Anatomy, x: int, inputs: Inputs, n_out: int) -> int:
    in_place = not any(t.info.name == "output_norm.bias" for t in anatomy.tensors)
    kept = facts.ROWS_CHOSEN_AT_END.get(anatomy.arch)
    if kept == "normed":
        x = tape.norm(x, in_place)
    if kept:
        tape.keep(x)
    if kept is not None:
        tape.tokens = n_out
        x = tape.new(anatomy.n_embd, x, inputs.out_rows)
    if kept != "normed":
        x = tape.norm(x, in_place)
    name = "token_embd.weight" if anatomy.tied else "output.weight"
    weight_bytes = next((t.info.n_bytes for t in anatomy.tensors if t.info.name == name), 1)
    return tape.product(anatomy.n_vocab, x, weight_bytes=weight_bytes)
