"""Compute buffers: the forward pass of one full ubatch, written down and given to the allocator.

llama_context reserves its buffers for a ubatch of `n_ubatch` tokens with full caches (graph_reserve,
src/llama-context.cpp); the graph here has the same steps in the same order where that changes sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from moetool.anatomy import Anatomy, facts
from moetool.machine import Device
from moetool.memory.allocator import peak_bytes
from moetool.memory.blocks import Chooser, attention, dense_ffn, linear, mla, moe_ffn, norm
from moetool.memory.caches import make_cells, padded
from moetool.memory.feeding import cache_kind, far_caches, make_inputs, make_leafs
from moetool.memory.inputs import Inputs
from moetool.memory.placement import Placement, make_placement, offload_devices
from moetool.memory.recurrent import beside_attention, recurrent
from moetool.memory.shapes import Shapes, make_shapes
from moetool.memory.sparse import (
    block_mask,
    chosen_mask,
    compressed_attention,
    has_indexer,
    pooled_mask,
    pools_keys,
    store_index,
)
from moetool.memory.tape import Tape
from moetool.settings import Settings

# Of a pattern of layers, so many rounds show all that the allocator does with it.
_ROUNDS = 3
_LONGEST_PATTERN = 12
_FEW_TOKENS = 32  # in graph_get_cb of src/llama-context.cpp


def compute_bytes(anatomy: Anatomy, settings: Settings, devices: Sequence[Device]) -> dict[str, int]:
    """Device -> bytes of its compute buffer."""
    placement = make_placement(anatomy, settings, devices)
    cells = make_cells(anatomy, settings)
    tokens = padded(min(cells.n_ubatch, cells.per_stream * cells.streams), cells.n_seq)
    tape = Tape(tokens, placement.cpu)
    helper = _helper(settings, devices)
    _write(tape, anatomy, settings, placement, helper)
    return peak_bytes(tape.steps, placement.cpu, helper, _n_batches(anatomy, settings, devices))


def _write(
    tape: Tape, anatomy: Anatomy, settings: Settings, placement: Placement, helper: str | None
) -> None:
    """The whole graph: embedding, layers, output."""
    cells = make_cells(anatomy, settings)
    shapes = make_shapes(anatomy)
    # At least one row a sequence, or llama.cpp does not start.
    n_out = min(max(settings.n_outputs_max or tape.tokens, cells.n_seq), tape.tokens)
    x = _embedding(tape, anatomy, placement.cpu)
    inputs = make_inputs(tape, anatomy, shapes, settings, placement.cpu, n_out)
    if anatomy.learns_positions:
        x = tape.over(x, tape.rows(anatomy.n_embd, inputs.positions))
    hashed = _hashed_rows(tape, anatomy, shapes, placement.cpu)
    if anatomy.n_streams > 1:  # hyper-connections: each stream begins as a copy
        x = tape.new(anatomy.n_streams * anatomy.n_embd, x)
    inputs.leafs.update(make_leafs(tape, anatomy, inputs.cells, placement.layers))
    sent = inputs.expert_device
    homes = [(placement.layers[i], *sent.get(i, {}).items()) for i in (s.layer.index for s in shapes)]
    run = _sample(shapes if helper is None else _with_largest(shapes, homes), homes)
    inputs.state_device.update((s.layer.index, placement.layers[s.layer.index]) for s in run)
    inputs.far_caches.update(far_caches(run, placement, settings, cells, inputs.flash_attn))
    tape.norms_at_home = _binds_norms(anatomy, settings) or tape.tokens < _FEW_TOKENS
    for number, layer in enumerate(run):
        tape.on(placement.layers[layer.layer.index])
        if anatomy.arch in facts.STATES_AHEAD:
            inputs.next_layer[:] = _ahead(run[number + 1 :])
        if layer.has("ple_value"):
            x = _mix_hashed(tape, layer, x, hashed)
        last = number == len(run) - 1 and anatomy.arch not in facts.ROWS_CHOSEN_AT_END
        x = _layer(tape, layer, x, inputs, n_out if last else None)
    tape.on(placement.output)
    tape.norms_at_home = False
    _output(tape, anatomy, x, inputs, n_out)


def _binds_norms(anatomy: Anatomy, settings: Settings) -> bool:
    """Whether layers are bound to their devices by their norms: where all are offloaded (graph_get_cb).

    A load without allocating forgets that (ggml_backend_sched_reserve_size resets it) and states more.
    """
    return settings.n_gpu_layers > len(anatomy.layers)


def _ahead(following: Sequence[Shapes]) -> list[Shapes]:
    """The next layer that puts anything into the graph early: all do that mix tokens or have experts."""
    return [s for s in following if s.layer.mixer != "none" or s.layer.ffn == "moe"][:1]


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


def _with_largest(shapes: Sequence[Shapes], homes: Sequence[object]) -> list[Shapes]:
    """Each layer with the largest weights of all in the same place: quants mix types from layer to layer."""
    largest: dict[object, dict[str, int]] = {}
    for shape, home in zip(shapes, homes, strict=True):
        here = largest.setdefault(home, {})
        for name, n_bytes in shape.n_bytes.items():
            here[name] = max(n_bytes, here.get(name, 0))
    return [replace(shape, n_bytes=largest[home]) for shape, home in zip(shapes, homes, strict=True)]


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


def _hashed_rows(tape: Tape, anatomy: Anatomy, shapes: Sequence[Shapes], cpu: str) -> int:
    """Qwen 4's rows of a table by hashes of the last few tokens (build_inp_ple); -1 if there are none."""
    wide = next((shape.into("ple_value") for shape in shapes if shape.has("ple_value")), 0)
    row = next((t.info.shape[0] for t in anatomy.tensors if t.info.name == "per_layer_token_embd.weight"), 0)
    if not wide or not row:
        return -1
    return tape.rows(wide, tape.input(4 * (wide // row) * tape.tokens, cpu))


# --- layers -------------------------------------------------------------------------------------------------


def _layer(tape: Tape, shapes: Shapes, x: int, inputs: Inputs, n_out: int | None) -> int:
    """One layer; with `n_out`, only so many rows go on behind the attention."""
    if shapes.has("hc_attn_fn", "hc_attn_down"):
        return _streamed_layer(tape, shapes, x, inputs, n_out)
    bare = inputs.bare_norms
    normed = norm(tape, shapes, x, "attn_norm", bare)
    mixed = _mix(tape, shapes, normed, inputs)
    if mixed is not None and shapes.layer.mixer == "parallel":
        mixed = beside_attention(tape, shapes, norm(tape, shapes, x, "attn_norm"), mixed, inputs)
    if mixed is None:
        return tape.over(_feed(tape, shapes, normed, inputs), x)
    before = next((name for name in _FFN_NORMS if shapes.has(name)), "")
    both = before == "ffn_norm" and shapes.has("post_attention_norm")
    if before == "post_attention_norm" and not shapes.has("attn_norm"):
        before, both = "", True  # OLMo 2 norms what attention and FFN give, not what they take
    if shapes.layer.ffn != "none" and not before and not both and not bare:
        return _parallel(tape, shapes, (x, normed, mixed), inputs, n_out)
    mixed = _project(tape, shapes, mixed)
    if n_out is not None:
        mixed, x = _choose_rows(tape, inputs, n_out, mixed, x)
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


def _streamed_layer(tape: Tape, shapes: Shapes, x: int, inputs: Inputs, n_out: int | None) -> int:
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
        if n_out is not None and part == "attn":
            made, x = _choose_rows(tape, inputs, n_out, made, x)
        x = tape.like(x, made, gates, *((normed,) if shapes.has(f"hc_{part}_up") else ()))
    return x


def _mix_hashed(tape: Tape, shapes: Shapes, x: int, hashed: int) -> int:
    """The rows go into all streams, by gates and a short convolution (build_ple, src/models/qwen4exp.cpp)."""
    streams = shapes.out("ple_key")
    value = tape.new(streams, tape.view(tape.product(shapes.out("ple_value"), hashed)))
    key = tape.norm(tape.view(tape.product(streams, hashed)))
    gates = tape.new(streams // shapes.n_embd, tape.over(key, tape.norm(tape.view(x))))
    gated = tape.over(value, gates)
    joined = tape.like(tape.norm(tape.view(gated)))
    taps = [tape.like(tape.like(tape.view(joined))) for _ in range(2)]
    return tape.over(x, tape.over(gated, tape.over(*taps)))


def _mix(tape: Tape, shapes: Shapes, x: int, inputs: Inputs) -> int | None:
    layer = shapes.layer
    if layer.mixer == "none" or not shapes.parts:
        return None
    kind = cache_kind(layer.cache[0]) if layer.cache else "sliding" if layer.window else "full"
    if layer.mixer == "recurrent":
        return recurrent(tape, shapes, x, inputs)
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
        return pooled_mask if pools_keys(inputs.sparse, shapes) else block_mask
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
