"""The states of recurrent layers, taken out of their cache.

A layer's first state does not wait for what comes before: llama.cpp puts the step that gathers it into the
graph as soon as the layer is built (build_rs, src/llama-graph.cpp), which is before the end of the layer
before it, because that is only put there when somebody needs its result.
"""

from __future__ import annotations

from moetool.memory.inputs import Inputs
from moetool.memory.shapes import Shapes
from moetool.memory.tape import Tape


def states(tape: Tape, inputs: Inputs, n_values: int, device: str = "") -> int:
    """States of all sequences, gathered from the cache: F32."""
    return tape.raw(4 * n_values * inputs.n_seq, inputs.copy_rows, device=device)


def first_states(tape: Tape, shapes: Shapes, inputs: Inputs) -> int:
    """The state that the layer's mixer begins with."""
    index = shapes.layer.index
    if index not in inputs.gathered:
        device = inputs.state_device.get(index, "")
        inputs.gathered[index] = states(tape, inputs, first_state_values(shapes), device)
    return inputs.gathered[index]


def gather_ahead(tape: Tape, shapes: Shapes, inputs: Inputs, done: str) -> None:
    """To be called where a layer's last part begins: behind its experts, or else behind its mixer."""
    last = "experts" if shapes.layer.ffn == "moe" else "mixer"
    for after in inputs.next_layer:
        if done == last and after.layer.mixer in {"recurrent", "parallel"}:
            first_states(tape, after, inputs)


def first_state_values(shapes: Shapes) -> int:
    """Values of a convolution's window into the past; of the only state, where there is just one."""
    if shapes.has("ssm_conv1d_q"):
        kernel, width = shapes.parts["ssm_conv1d_q.weight"][0], shapes.parts["ssm_conv1d_q.weight"][-1]
        return 3 * (kernel - 1) * width
    if shapes.has("ssm_conv1d"):
        return (shapes.into("ssm_conv1d") - 1) * shapes.out("ssm_conv1d")
    return shapes.layer.state_values
