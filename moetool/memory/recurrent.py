"""What recurrent layers compute, written on a tape: delta rule, state spaces, convolutions.

Sizes follow src/models/{delta-net-base,mamba-base,kimi-linear,lfm2,minimax-01}.cpp; states of all sequences are
taken out of the cache and put back.
"""

from __future__ import annotations

from moetool.memory.blocks import Inputs, linear
from moetool.memory.shapes import Shapes
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


def _states(tape: Tape, inputs: Inputs, n_values: int) -> int:
    """States of all sequences, gathered from the cache: F32."""
    return tape.raw(4 * n_values * inputs.n_seq, inputs.copy_rows)


def _convolve(tape: Tape, shapes: Shapes, x: int, states: int, name: str, width: int) -> int:
    """A causal convolution: states before the new values, then the kernel over both."""
    kernel = shapes.into(name)
    window = tape.raw(4 * width * (tape.tokens + kernel - 1), states, x)
    tape.raw(0, window)
    return tape.new(width, window)


def _delta_net(tape: Tape, shapes: Shapes, x: int, inputs: Inputs) -> int:
    width = shapes.out("ssm_conv1d")
    kernel = shapes.into("ssm_conv1d")
    inner = shapes.into("ssm_out")
    keys = (width - inner) // 2
    state = shapes.layer.state_values - (kernel - 1) * width
    conv_states = _states(tape, inputs, (kernel - 1) * width)
    qkv = tape.new(width, x)
    window = tape.raw(4 * width * (tape.tokens + (kernel - 1) * inputs.n_seq), conv_states, qkv)
    tape.raw(0, window)
    states = _states(tape, inputs, state)
    mixed = tape.over(tape.new(width, window))
    q = tape.new(keys, mixed)
    k = tape.new(keys, mixed)
    heads = inner // max(1, shapes.parts.get("ssm_norm.weight", (inner,))[0])
    alpha = tape.over(tape.new(heads, x))
    beta = tape.over(tape.new(heads, x))
    result = tape.raw(4 * (inner * tape.tokens + state * inputs.n_seq), q, k, mixed, alpha, beta, states)
    tape.raw(0, result)
    normed = tape.new(inner, result)
    gate = tape.over(tape.new(inner, x))
    return linear(tape, shapes, tape.over(normed, gate), "ssm_out")


def _mamba(tape: Tape, shapes: Shapes, x: int, inputs: Inputs) -> int:
    width, kernel = shapes.out("ssm_conv1d"), shapes.into("ssm_conv1d")
    inner = shapes.into("ssm_out")
    state = shapes.layer.state_values - (kernel - 1) * width
    conv_states = _states(tape, inputs, (kernel - 1) * width)
    entry = linear(tape, shapes, x, "ssm_in")
    window = tape.raw(4 * width * (tape.tokens + (kernel - 1) * inputs.n_seq), conv_states, entry)
    tape.raw(0, window)
    mixed = tape.over(tape.new(width, window))
    if shapes.has("ssm_x"):
        parameters = linear(tape, shapes, mixed, "ssm_x")
        step = linear(tape, shapes, parameters, "ssm_dt")
    else:
        parameters = mixed
        step = tape.new(max(1, shapes.out("ssm_in") - inner - width), entry)
    n_bytes = 4 * (inner * tape.tokens + state * inputs.n_seq)
    result = tape.raw(n_bytes, mixed, step, parameters, inputs.copy_rows)
    tape.raw(0, result)
    gate = tape.new(inner, entry)
    skipped = tape.new(inner, mixed)
    summed = tape.over(skipped, result)
    return linear(tape, shapes, tape.new(inner, gate, summed), "ssm_out")


def _kimi_delta(tape: Tape, shapes: Shapes, x: int, inputs: Inputs) -> int:
    width = shapes.parts["ssm_conv1d_q.weight"][-1]
    kernel = shapes.parts["ssm_conv1d_q.weight"][0]
    state = shapes.layer.state_values - 3 * (kernel - 1) * width
    conv_states = _states(tape, inputs, 3 * (kernel - 1) * width)
    windows = []
    for name in ("attn_q", "attn_k", "attn_v"):
        made = linear(tape, shapes, x, name)
        windows.append(tape.raw(4 * width * (tape.tokens + (kernel - 1) * inputs.n_seq), conv_states, made))
        tape.raw(0, windows[-1])
    states = _states(tape, inputs, state)
    q, k, v = (tape.over(tape.new(width, window)) for window in windows)
    decay = tape.over(tape.new(width, tape.new(shapes.out("ssm_f_a"), x)))
    beta = tape.over(tape.new(max(1, shapes.out("ssm_beta")), x))
    result = tape.raw(4 * (width * tape.tokens + state * inputs.n_seq), q, k, v, decay, beta, states)
    tape.raw(0, result)
    normed = tape.over(tape.new(width, result))
    gate = tape.over(tape.new(width, tape.new(shapes.out("ssm_g_a") or width, x)))
    return linear(tape, shapes, tape.new(width, tape.over(normed, gate)), "attn_output")


def _short_convolution(tape: Tape, shapes: Shapes, x: int, inputs: Inputs) -> int:
    width = shapes.n_embd
    conv_states = _states(tape, inputs, shapes.layer.state_values)
    entry = linear(tape, shapes, x, "shortconv.in_proj")
    gated = tape.new(width, entry)
    window = tape.raw(
        4 * width * tape.tokens + 4 * shapes.layer.state_values * inputs.n_seq, conv_states, gated
    )
    tape.raw(0, window)
    mixed = tape.new(width, window)
    return linear(tape, shapes, tape.over(mixed, entry), "shortconv.out_proj")


def _linear_attention(tape: Tape, shapes: Shapes, x: int, inputs: Inputs) -> int:
    width = shapes.out("attn_qkv")
    mixed = tape.over(tape.new(width, x))
    states = _states(tape, inputs, shapes.layer.state_values)
    inner = shapes.into("attn_output")
    result = tape.new(inner, mixed, states)
    gate = tape.over(tape.new(inner, x))
    return linear(tape, shapes, tape.over(result, gate), "attn_output")
