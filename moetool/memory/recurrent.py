"""What recurrent layers compute, written on a tape: delta rule, state spaces, convolutions.

Sizes follow src/models/{delta-net-base,mamba-base,kimi-linear,lfm2,minimax-01}.cpp; states of all sequences
are taken out of the cache and put back.
"""

from __future__ import annotations

from moetool.memory.blocks import linear
from moetool.memory.inputs import Inputs
from moetool.memory.shapes import Shapes
from moetool.memory.states import first_states, gather_ahead, states
from moetool.memory.tape import Tape


def recurrent(tape: Tape, shapes: Shapes, x: int, inputs: Inputs) -> int:
    """The mixer of a recurrent layer, by its tensors."""
    if shapes.has("shortconv.in_proj"):
        return _short_convolution(tape, shapes, x, inputs)
    if shapes.has("ssm_conv1d_q"):
        return _kimi_delta(tape, shapes, x, inputs)
    if shapes.has("ssm_in"):
        return _mamba(tape, shapes, x, inputs)
    if shapes.has("ssm_conv1d"):
        return _delta_net(tape, shapes, x, inputs)
    return _linear_attention(tape, shapes, x, inputs)


def is_lightning(shapes: Shapes) -> bool:
    """Linear attention without a convolution, as MiniMax-Text-01 has it."""
    return shapes.layer.mixer == "recurrent" and not shapes.has(*_CONVOLUTIONS)


_CONVOLUTIONS = ("ssm_conv1d", "ssm_conv1d_q", "ssm_in", "shortconv.in_proj")


def _delta_net(tape: Tape, shapes: Shapes, x: int, inputs: Inputs) -> int:
    """Gated delta rule: convolved queries, keys and values, one fused step over the states."""
    width, kernel = shapes.out("ssm_conv1d"), shapes.into("ssm_conv1d")
    inner = shapes.into("ssm_out")
    state = shapes.layer.state_values - (kernel - 1) * width
    conv_states = first_states(tape, shapes, inputs)
    qkv = tape.product(width, x, weight_bytes=shapes.weight_bytes("attn_qkv"))
    window = _window(tape, inputs, tape.view(conv_states), tape.view(qkv), width, kernel)
    old = states(tape, inputs, state)
    mixed = tape.over(tape.product(width, window))
    keys = (width - inner) // 2
    q, k = (tape.over(tape.new(keys, tape.view(mixed))) for _ in range(2))
    n_heads = shapes.parts.get("ssm_dt.bias", (1,))[0]
    decay = tape.over(tape.like(tape.view(tape.product(n_heads, x))))
    step = tape.like(tape.view(tape.product(n_heads, x)))
    n_bytes = 4 * (inner * tape.tokens + state * inputs.n_seq)
    result = tape.raw(n_bytes, q, k, mixed, decay, step, old)
    tape.store(result)
    gather_ahead(tape, shapes, inputs, "mixer")
    normed = tape.over(tape.new(inner, tape.view(result)))
    made = tape.product(inner, x, weight_bytes=shapes.weight_bytes("attn_gate"))
    gate = tape.like(tape.view(made))
    return tape.view(linear(tape, shapes, tape.over(normed, gate), "ssm_out"))


def _window(tape: Tape, inputs: Inputs, states: int, x: int, width: int, kernel: int) -> int:
    """What a causal convolution slides over: the kernel's reach into the past, then the new values."""
    window = tape.raw(4 * width * (tape.tokens + (kernel - 1) * inputs.n_seq), states, x)
    tape.store(window)
    return window


def beside_attention(tape: Tape, shapes: Shapes, x: int, attended: int, inputs: Inputs) -> int:
    """Falcon-H1's state space: the attention waits with its output product until the states are stored."""
    scanned = _scan(tape, shapes, x, inputs)
    projected = linear(tape, shapes, attended, "attn_output")
    return tape.over(projected, _leave_mamba(tape, shapes, *scanned))


def _mamba(tape: Tape, shapes: Shapes, x: int, inputs: Inputs) -> int:
    """Mamba 1 (step, B and C from the convolved values) and Mamba 2 (all out of one product)."""
    scanned = _scan(tape, shapes, x, inputs)
    gather_ahead(tape, shapes, inputs, "mixer")
    return _leave_mamba(tape, shapes, *scanned)


def _scan(tape: Tape, shapes: Shapes, x: int, inputs: Inputs) -> tuple[int, int, int]:
    """What went in, what was convolved, and what the scan over the states made of it."""
    width, kernel = shapes.out("ssm_conv1d"), shapes.into("ssm_conv1d")
    inner = shapes.into("ssm_out")
    state = shapes.layer.state_values - (kernel - 1) * width
    conv_states = first_states(tape, shapes, inputs)
    entry = linear(tape, shapes, x, "ssm_in")
    window = _window(tape, inputs, tape.view(conv_states), tape.view(entry), width, kernel)
    mixed = tape.over(tape.product(width, window))
    reads = _mamba1_parameters(tape, shapes, mixed) if shapes.has("ssm_x") else ()
    if not reads:
        n_heads = max(1, shapes.out("ssm_in") - inner - width)
        reads = (tape.over(tape.new(n_heads, tape.view(entry))), tape.view(mixed))
    n_bytes = 4 * (inner * tape.tokens + state * inputs.n_seq)
    result = tape.raw(n_bytes, mixed, *reads, inputs.copy_rows)
    tape.store(result)
    return entry, mixed, result


def _leave_mamba(tape: Tape, shapes: Shapes, entry: int, mixed: int, result: int) -> int:
    """What was scanned, with its skip connection, gated and normed."""
    inner = shapes.into("ssm_out")
    gate = tape.new(inner, tape.view(entry))
    skipped = tape.over(mixed) if shapes.has("ssm_x") else tape.new(inner, tape.view(mixed))
    summed = tape.over(skipped, tape.view(result))
    out = tape.new(inner, gate, summed)
    if shapes.has("ssm_norm"):
        out = tape.over(tape.like(tape.view(out)))
    return linear(tape, shapes, tape.view(out), "ssm_out")


def _mamba1_parameters(tape: Tape, shapes: Shapes, mixed: int) -> tuple[int, ...]:
    parameters = linear(tape, shapes, mixed, "ssm_x")
    rank, total = shapes.into("ssm_dt"), shapes.out("ssm_x")
    if not shapes.has("ssm_b_norm"):
        return linear(tape, shapes, tape.view(parameters), "ssm_dt"), tape.view(parameters)
    step = linear(tape, shapes, tape.over(tape.new(rank, tape.view(parameters))), "ssm_dt")
    b, c = (tape.over(tape.new((total - rank) // 2, tape.view(parameters))) for _ in range(2))
    return step, b, c


def _kimi_delta(tape: Tape, shapes: Shapes, x: int, inputs: Inputs) -> int:
    """Kimi's delta attention: three convolutions, a decay for every channel."""
    kernel, width = shapes.parts["ssm_conv1d_q.weight"][0], shapes.parts["ssm_conv1d_q.weight"][-1]
    state = shapes.layer.state_values - 3 * (kernel - 1) * width
    conv_states = tape.view(first_states(tape, shapes, inputs))
    windows = [
        _window(tape, inputs, conv_states, tape.view(linear(tape, shapes, x, name)), width, kernel)
        for name in ("attn_q", "attn_k", "attn_v")
    ]
    old = states(tape, inputs, state)
    parts = []
    for number, window in enumerate(windows):
        mixed = tape.like(tape.view(tape.product(width, window)))
        parts.append(tape.over(tape.like(tape.view(mixed))) if number < 2 else mixed)
    raw_decay = tape.over(tape.product(width, tape.product(shapes.out("ssm_f_a"), x)))
    decay = tape.like(tape.view(raw_decay))
    step = tape.like(tape.view(tape.product(max(1, shapes.out("ssm_beta")), x)))
    n_bytes = 4 * (width * tape.tokens + state * inputs.n_seq)
    result = tape.raw(n_bytes, *parts, tape.view(decay), step, tape.view(old))
    tape.store(result)
    gather_ahead(tape, shapes, inputs, "mixer")
    normed = tape.over(tape.like(tape.view(tape.new(width, tape.view(result)))))
    low = tape.product(shapes.out("ssm_g_a") or width, tape.view(x))
    gate = tape.like(tape.view(tape.product(width, low)))
    return linear(tape, shapes, tape.like(tape.over(normed, gate)), "attn_output")


def _short_convolution(tape: Tape, shapes: Shapes, x: int, inputs: Inputs) -> int:
    width = shapes.n_embd
    conv_states = first_states(tape, shapes, inputs)
    entry = tape.view(linear(tape, shapes, x, "shortconv.in_proj"))
    gated = tape.new(width, entry)
    kernel = shapes.layer.state_values // max(1, width) + 1
    window = _window(tape, inputs, tape.view(conv_states), tape.view(gated), width, kernel)
    gather_ahead(tape, shapes, inputs, "mixer")
    mixed = tape.product(width, window)
    return tape.view(linear(tape, shapes, tape.over(mixed, entry), "shortconv.out_proj"))


def _linear_attention(tape: Tape, shapes: Shapes, x: int, inputs: Inputs) -> int:
    """Lightning attention: tokens of one batch look at each other, all others through a state."""
    heads, inner = shapes.layer.n_head, shapes.into("attn_output")
    old = first_states(tape, shapes, inputs)
    q_decay, k_decay, pair_decay = inputs.decays
    qkv = tape.view(tape.over(linear(tape, shapes, x, "attn_qkv")))
    far = tape.new(inner, old, tape.new(inner, qkv, tape.over(tape.over(q_decay))))
    v = tape.new(inner, qkv)
    scores = tape.raw(tape.size(pair_decay), qkv)
    scores = tape.over(scores, tape.over(tape.over(pair_decay)))
    result = tape.over(far, tape.new(inner, v, scores))
    kept = tape.like(tape.view(old), tape.raw(4 * heads))
    k = tape.new(inner, tape.new(inner, qkv, tape.over(tape.over(k_decay))))
    tape.store(tape.over(kept, tape.raw(tape.size(old), k, v)))
    gather_ahead(tape, shapes, inputs, "mixer")
    normed = tape.over(tape.new(inner, tape.view(result)))
    gate = tape.over(linear(tape, shapes, x, "attn_gate"))
    return linear(tape, shapes, tape.over(gate, normed), "attn_output")
