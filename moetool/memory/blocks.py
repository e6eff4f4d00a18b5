"""What the parts of a layer compute, written on a tape: attention, FFN, mixture of experts.

The order of steps and what may be computed in place follow build_attn, build_ffn and build_moe_ffn
(src/llama-graph.cpp); which steps there are is told by the layer's tensors. Only sizes matter here.
"""

from __future__ import annotations

from collections.abc import Callable

from moetool.memory.inputs import Inputs
from moetool.memory.shapes import Shapes
from moetool.memory.states import gather_ahead
from moetool.memory.tape import Tape


def norm(tape: Tape, shapes: Shapes, x: int, name: str, bare: bool = False) -> int:
    """The norm called `name`, if the layer has it (or norms without weights); with a bias, a LayerNorm."""
    if bare:
        return tape.like(x)
    return tape.norm(x, in_place=f"{name}.bias" not in shapes.parts) if shapes.has(name) else x


def linear(tape: Tape, shapes: Shapes, x: int, name: str) -> int:
    """A matrix product; scale and bias happen in place."""
    return tape.product(shapes.out(name), x, weight_bytes=shapes.weight_bytes(name))


# --- attention ----------------------------------------------------------------------------------------------


Chooser = Callable[[Tape, Shapes, int, int, Inputs], int]


def attention(
    tape: Tape, shapes: Shapes, x: int, inputs: Inputs, kind: str, choose: Chooser | None = None
) -> int:
    """Attention over the cache, short of the output product. `x` is normed.

    `choose` writes down a mask of its own, for attention that looks at some cells only.
    """
    layer = shapes.layer
    q, k, v, gate = _queries(tape, shapes, x, inputs, kind)
    uncached = () if k is None or v is None or inputs.k_indices else _uncached(tape, inputs, k, v)
    if inputs.k_indices:
        _store(tape, inputs, kind, k, v)
    mask = choose(tape, shapes, x, x, inputs) if choose else inputs.masks[kind]
    cells = inputs.cells.get(kind, tape.tokens)
    far = _far_cache(tape, shapes, inputs)
    attended = _attend(
        tape, inputs, (q, *far, *uncached), mask, layer.n_head * layer.head_v, layer.n_head * cells
    )
    if not shapes.has("ssm_out"):
        gather_ahead(tape, shapes, inputs, "mixer")
    attended = _rotated(tape, attended, inputs.rotations_v.get(kind), layer.n_head * layer.head_v)
    if gate is not None or (shapes.has("attn_gate") and not shapes.has("ssm_out")):
        attended = _gated(tape, shapes, x, attended, gate)
    return attended


def _queries(
    tape: Tape, shapes: Shapes, x: int, inputs: Inputs, kind: str
) -> tuple[int, int | None, int | None, int | None]:
    """Queries, keys and values, normed and turned by position; and the gate, where it comes with them."""
    layer = shapes.layer
    if shapes.has("attn_qkv"):
        return (*_fused(tape, shapes, x, inputs, kind), None)
    width_q = layer.n_head * layer.head_k
    q = linear(tape, shapes, x, "attn_q")
    gate = q if shapes.out("attn_q") >= 2 * width_q > 0 else None
    q = _positioned(tape, shapes, q, "attn_q_norm", width_q, inputs)
    q = _rotated(tape, q, inputs.rotations_k.get(kind), width_q)
    if not shapes.has("attn_k") or (inputs.k_indices and not layer.cache):
        return q, None, None, gate
    # The plain cache takes values first, others keys (build_attn).
    if "full" in inputs.k_indices and "sliding" not in inputs.k_indices and shapes.has("attn_v"):
        v = _values(tape, shapes, linear(tape, shapes, x, "attn_v"), inputs, kind)
        _, k = _keys(tape, shapes, x, inputs, kind)
    else:
        raw, k = _keys(tape, shapes, x, inputs, kind)
        v = _values(
            tape, shapes, linear(tape, shapes, x, "attn_v") if shapes.has("attn_v") else raw, inputs, kind
        )
    return q, k, v, gate


def _keys(tape: Tape, shapes: Shapes, x: int, inputs: Inputs, kind: str) -> tuple[int, int]:
    """The keys' product, and the keys: normed, turned and rotated."""
    raw = linear(tape, shapes, x, "attn_k")
    width = shapes.layer.n_head_kv * shapes.layer.head_k
    k = _positioned(tape, shapes, raw, "attn_k_norm", width, inputs)
    return raw, _rotated(tape, k, inputs.rotations_k.get(kind), width)


def _values(tape: Tape, shapes: Shapes, raw: int, inputs: Inputs, kind: str) -> int:
    v = tape.like(tape.view(raw)) if inputs.normed_values else raw
    return _rotated(tape, v, inputs.rotations_v.get(kind), shapes.layer.n_head_kv * shapes.layer.head_v)


def _positioned(tape: Tape, shapes: Shapes, x: int, norm_name: str, width: int, inputs: Inputs) -> int:
    """Heads seen apart, normed if they are, turned by position: one new place, the rest happens in it."""
    if not inputs.rope and not shapes.has(norm_name):
        return tape.view(x)
    turned = tape.new(width, tape.view(x), inputs.positions)
    return tape.over(turned, inputs.positions) if inputs.rope and shapes.has(norm_name) else turned


def _fused(tape: Tape, shapes: Shapes, x: int, inputs: Inputs, kind: str) -> tuple[int, int, int]:
    """One product for all three, of which each is a view."""
    layer = shapes.layer
    qkv = tape.view(linear(tape, shapes, x, "attn_qkv"))
    width_q, width_k = layer.n_head * layer.head_k, layer.n_head_kv * layer.head_k
    q = _positioned(tape, shapes, qkv, "attn_q_norm", width_q, inputs)
    q = _rotated(tape, q, inputs.rotations_k.get(kind), width_q)
    v = _rotated(tape, qkv, inputs.rotations_v.get(kind), layer.n_head_kv * layer.head_v)
    k = _positioned(tape, shapes, qkv, "attn_k_norm", width_k, inputs)
    return q, _rotated(tape, k, inputs.rotations_k.get(kind), width_k), v


def _rotated(tape: Tape, x: int, rotation: int | None, width: int) -> int:
    """Quantized caches hold rotated vectors: a product with a Hadamard matrix (llama_mul_mat_hadamard)."""
    return x if rotation is None else tape.new(width, tape.view(x), rotation)


def _store(tape: Tape, inputs: Inputs, kind: str, k: int | None, v: int | None) -> None:
    """Rows are written into the cache: a step without memory of its own."""
    if k is not None:
        tape.store(k, inputs.k_indices[kind])
    if v is not None and kind in inputs.v_indices:
        tape.store(v, inputs.v_indices[kind])


def _uncached(tape: Tape, inputs: Inputs, k: int, v: int) -> tuple[int, ...]:
    """Without a cache, flash attention wants keys and values of this batch in F16."""
    if not inputs.flash_attn:
        return (k, v)
    return tuple(tape.raw(tape.size(x) // 2, tape.view(x)) for x in (k, v))


def _far_cache(tape: Tape, shapes: Shapes, inputs: Inputs) -> tuple[int, ...]:
    """The cached keys and values, where the attention may be computed on another device than holds them."""
    n_bytes = inputs.far_caches.get(shapes.layer.index, ())
    return tuple(tape.cache(n) for n in n_bytes if n)


def _attend(tape: Tape, inputs: Inputs, reads: tuple[int, ...], mask: int, width: int, n_scores: int) -> int:
    """Queries against the cache; without flash attention the scores of all heads stand in memory."""
    if inputs.flash_attn:
        return tape.new(width, *reads, mask)
    scores = tape.new(n_scores, *reads)
    weights = tape.over(scores, mask)
    mixed = tape.new(width, weights)
    return tape.new(width, mixed)


def _gated(tape: Tape, shapes: Shapes, x: int, attended: int, gate: int | None) -> int:
    """The attention's result times a gate, computed from the queries' product or from one of its own."""
    if gate is None:
        return tape.over(tape.view(attended), tape.over(linear(tape, shapes, x, "attn_gate")))
    width = tape.raw(tape.size(attended), tape.view(gate))
    return tape.over(tape.view(attended), tape.over(width))


def mla(tape: Tape, shapes: Shapes, x: int, inputs: Inputs, kind: str, choose: Chooser | None = None) -> int:
    """Multi-head latent attention with absorbed matrices: one compressed row for all heads."""
    layer = shapes.layer
    latent, row = layer.head_v, layer.head_k
    low, q = _mla_queries(tape, shapes, x, inputs)
    compressed = linear(tape, shapes, x, "attn_kv_a_mqa")
    k = tape.new(latent, tape.view(compressed))
    if row > latent:
        turned = tape.new(row - latent, tape.view(compressed), inputs.positions)
        k = tape.new(row, k, turned)
    tape.store(k, inputs.k_indices[kind])
    mask = choose(tape, shapes, x, low, inputs) if choose else inputs.masks[kind]
    far = _far_cache(tape, shapes, inputs)
    attended = _attend(
        tape, inputs, (q, *far), mask, layer.n_head * latent, layer.n_head * inputs.cells[kind]
    )
    width = shapes.into("attn_output")
    attended = tape.new(width, tape.product(width, attended, weight_bytes=shapes.weight_bytes("attn_v_b")))
    return _gated(tape, shapes, x, attended, None) if shapes.has("attn_gate") else attended


def _mla_queries(tape: Tape, shapes: Shapes, x: int, inputs: Inputs) -> tuple[int, int]:
    """Low-rank queries, and queries in the compressed space: one part absorbed, the other turned."""
    layer = shapes.layer
    latent, row = layer.head_v, layer.head_k
    low = x
    if shapes.has("attn_q_a"):
        low = tape.over(linear(tape, shapes, x, "attn_q_a"))
        q = linear(tape, shapes, low, "attn_q_b")
    else:
        q = linear(tape, shapes, x, "attn_q")
    k_b = shapes.weight_bytes("attn_k_b")
    absorbed = tape.product(layer.n_head * latent, tape.view(q), weight_bytes=k_b)
    if row <= latent:
        return low, absorbed
    turned = tape.new(layer.n_head * (row - latent), tape.view(q), inputs.positions)
    return low, tape.new(layer.n_head * row, absorbed, turned)


# --- feeding forward ----------------------------------------------------------------------------------------


def dense_ffn(tape: Tape, shapes: Shapes, x: int, suffix: str = "") -> int:
    """Gate, up, activation, down; without a gate the activation happens in place."""
    up_name, gate_name, down_name = f"ffn_up{suffix}", f"ffn_gate{suffix}", f"ffn_down{suffix}"
    if shapes.has(gate_name):
        gate = linear(tape, shapes, x, gate_name)
        up = linear(tape, shapes, x, up_name)
        hidden = tape.like(up, gate)
    else:
        up = linear(tape, shapes, x, up_name)
        into = shapes.into(down_name)
        # Gate and up in one matrix: the activation halves it.
        hidden = tape.new(into, up) if into and into < shapes.out(up_name) else tape.over(up)
    return linear(tape, shapes, hidden, down_name)


def moe_ffn(tape: Tape, shapes: Shapes, x: int, inputs: Inputs) -> int:
    """Router, the chosen experts side by side, and their weighted sum; then the shared expert."""
    chosen, weights = _route(tape, shapes, x, inputs)
    out = _experts(tape, shapes, x, chosen, weights, inputs)
    gather_ahead(tape, shapes, inputs, "experts")
    if shapes.has("ffn_up_shexp"):
        shared = dense_ffn(tape, shapes, x, "_shexp")
        if shapes.has("ffn_gate_inp_shexp"):
            shared = tape.over(shared, tape.over(tape.product(1, x)))
        out = tape.over(out, shared)
    return out


def n_used(shapes: Shapes, inputs: Inputs) -> int:
    return inputs.experts or shapes.layer.n_expert_used


def _route(tape: Tape, shapes: Shapes, x: int, inputs: Inputs) -> tuple[int, int]:
    """The order of the experts, and the weights of those chosen."""
    n_expert, used = shapes.n_expert, n_used(shapes, inputs)
    router = shapes.weight_bytes("ffn_gate_inp")
    scores = tape.over(tape.product(n_expert, x, weight_bytes=router))
    biased = tape.new(n_expert, scores) if shapes.has("exp_probs_b", "exp_probs_b.bias") else scores
    chosen = tape.new(n_expert, biased)
    weights = tape.view(tape.new(used, tape.view(scores), chosen))
    total = tape.over(tape.new(1, weights))
    return chosen, tape.over(weights, total)


def _experts(tape: Tape, shapes: Shapes, x: int, chosen: int, weights: int, inputs: Inputs) -> int:
    used = n_used(shapes, inputs)
    home, sent = tape.device, inputs.expert_device.get(shapes.layer.index, {})

    def expert(name: str, *reads: int) -> int:
        """One matrix of each chosen expert, where it lies; all are copied where a GPU takes it over."""
        tape.on(sent.get(name, home))
        return tape.product(used * shapes.out(name), *reads, weight_bytes=shapes.weight_bytes(name))

    if shapes.has("ffn_gate_up_exps"):
        both = expert("ffn_gate_up_exps", x, chosen)
        hidden = tape.new(used * shapes.into("ffn_down_exps"), both)
    elif shapes.has("ffn_gate_exps"):
        gate = expert("ffn_gate_exps", x, chosen)
        up = expert("ffn_up_exps", x, chosen)
        hidden = tape.like(up, gate)
    else:
        hidden = tape.over(expert("ffn_up_exps", x, chosen))
    out = expert("ffn_down_exps", hidden, chosen)
    tape.on(home)
    weighted = tape.over(out, weights)
    total = tape.new(shapes.out("ffn_down_exps"), tape.view(weighted))
    for _ in range(used - 2):
        total = tape.over(total, tape.view(weighted))
    return total
