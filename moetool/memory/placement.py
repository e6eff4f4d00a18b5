"""Where llama.cpp puts each layer and each tensor, given settings and devices.

The rules of load_tensors (src/llama-model.cpp) and create_tensor (src/llama-model-loader.cpp), at 0c1e57098.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from moetool.anatomy import Anatomy, RoledTensor
from moetool.anatomy.facts import NORMED_AT_END, TIED_TWICE_ON_CPU
from moetool.errors import UsageError
from moetool.machine import Device
from moetool.settings import Settings, TensorOverride

# Tensors that every device with layers holds, because each layer asks for them.
_SHARED_BY_LAYERS = ("rope_freqs.", "rope_factors_")
# Tensors without a layer that llama.cpp puts with the output layer (LLM_TENSOR_LAYER_OUTPUT).
_OUTPUT_SIDE = re.compile(
    r"output|cls|dense_[23]|(enc|dec)\.output_norm|altup_(un)?embd_proj|altup_proj|nextn\.post"
)
# ... and with the input, which always stays on the CPU (LLM_TENSOR_LAYER_INPUT).
_INPUT_SIDE = re.compile(r"(token_embd|position_embd|token_types|per_layer_token_embd|masked_embd)(\.|_)")
# A norm of the embeddings is done where the first layer is; under its name LFM2 keeps its last norm.
_EMBEDDING_NORM = "token_embd_norm."


@dataclass(frozen=True)
class Placement:
    """Device names: of each layer, of the output side, of the CPU."""

    cpu: str
    layers: tuple[str, ...]
    output: str

    @property
    def used(self) -> tuple[str, ...]:
        """Every device that has something to compute, the CPU first."""
        return tuple(dict.fromkeys((self.cpu, *self.layers, self.output)))


def make_placement(anatomy: Anatomy, settings: Settings, devices: Sequence[Device]) -> Placement:
    """Layer -> device, as llama.cpp splits by layers.

    `n_gpu_layers` = N takes the output and the last N - 1 layers (next-token layers are the last ones); they
    are dealt out to the offload devices by `tensor_split`, or by free memory.
    """
    cpu = next((d.name for d in devices if d.kind == "cpu"), "CPU")
    offload = offload_devices(settings, devices)
    n_layer = len(anatomy.layers)
    first = max(n_layer + 1 - settings.n_gpu_layers, 0)
    count = min(settings.n_gpu_layers, n_layer + 1) if offload else 0
    borders = _borders(settings, offload)
    names = [cpu] * min(first if count else n_layer + 1, n_layer + 1)
    for index in range(len(names), n_layer + 1):
        share = _f32(_f32(index - first) / count)
        names.append(offload[min(bisect_right(borders, share), len(offload) - 1)].name)
    return Placement(cpu, tuple(names[:n_layer]), names[n_layer])


def offload_devices(settings: Settings, devices: Sequence[Device]) -> tuple[Device, ...]:
    """The devices that layers are offloaded to: those that the settings name, as the engine takes them."""
    by_name = {d.name: d for d in devices}
    missing = [name for name in settings.devices if name not in by_name]
    if missing:
        raise UsageError(f"There is no device {missing[0]}.", f"Devices: {', '.join(by_name)}.")
    return tuple(by_name[name] for name in settings.devices)


def _borders(settings: Settings, offload: Sequence[Device]) -> list[float]:
    """Cumulated shares of the offload devices, in 32-bit floats like llama.cpp's."""
    split = settings.tensor_split[: len(offload)]
    shares = [float(x) for x in split] if any(split) else [float(d.free_bytes) for d in offload]
    shares += [0.0] * (len(offload) - len(shares))
    total, cumulated = 0.0, []
    for share in shares:
        total = _f32(total + _f32(share))
        cumulated.append(total)
    return [_f32(c / total) if total else 1.0 for c in cumulated]


def _f32(number: float) -> float:
    return float(struct.unpack("f", struct.pack("f", number))[0])


def place_tensors(anatomy: Anatomy, settings: Settings, devices: Sequence[Device]) -> dict[str, str]:
    """Tensor name -> the device that reads it; tensors that are not loaded are missing.

    A tied embedding is read by the output layer (its rows are looked up on the CPU, in a second copy if need
    be). The first override whose pattern is found in a name wins.
    """
    placement = make_placement(anatomy, settings, devices)
    return {t.info.name: homes(anatomy, settings, placement, t)[-1] for t in loaded(anatomy, settings)}


def loaded(anatomy: Anatomy, settings: Settings) -> tuple[RoledTensor, ...]:
    """The tensors that llama.cpp loads: next-token layers only when asked for."""
    return tuple(t for t in anatomy.tensors if t.role != "mtp" or settings.load_mtp)


def weight_bytes(anatomy: Anatomy, settings: Settings, devices: Sequence[Device]) -> dict[str, int]:
    """Bytes of weights held on each device, copies included."""
    placement = make_placement(anatomy, settings, devices)
    held = dict.fromkeys(placement.used, 0)
    for tensor in loaded(anatomy, settings):
        for device in homes(anatomy, settings, placement, tensor):
            held[device] = held.get(device, 0) + padded(tensor.info.n_bytes, _ALIGNMENT)
    return held


# ggml's CPU buffers align tensors to this; other back ends take the same or more (ggml-backend.cpp).
_ALIGNMENT = 32


def padded(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment


def homes(anatomy: Anatomy, settings: Settings, placement: Placement, tensor: RoledTensor) -> tuple[str, ...]:
    """The devices that hold a copy of a tensor, the one that computes with it last."""
    name = tensor.info.name
    override = override_of(settings.tensor_overrides, name)
    if override is not None:
        return (override,)
    if tensor.layer is not None and tensor.layer < len(placement.layers):
        return (placement.layers[tensor.layer],)
    if name == "token_embd.weight" and anatomy.tied:
        if placement.output == placement.cpu and anatomy.arch not in TIED_TWICE_ON_CPU:
            return (placement.cpu,)
        return (placement.cpu, placement.output)
    if name.startswith(_SHARED_BY_LAYERS):
        return tuple(dict.fromkeys(placement.layers)) or (placement.cpu,)
    if name.startswith(_EMBEDDING_NORM):
        at_end = anatomy.arch in NORMED_AT_END or not placement.layers
        return (placement.output if at_end else placement.layers[0],)
    if _INPUT_SIDE.match(name):
        return (placement.cpu,)
    if _OUTPUT_SIDE.match(name):
        return (placement.output,)
    return (placement.layers[0] if placement.layers else placement.cpu,)


def override_of(overrides: Sequence[TensorOverride], name: str) -> str | None:
    """The device of the first override whose pattern is found in the tensor's name."""
    if not overrides or not _any_of(tuple(o.pattern for o in overrides)).search(name):
        return None
    return next((o.device for o in overrides if _compiled(o.pattern).search(name)), None)


@lru_cache(maxsize=64)
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """Found where any of the patterns may be: of a thousand tensors, most match none of sixty overrides."""
    # Inside another expression, groups have other numbers and flags are not allowed.
    alone = any(re.search(r"\\\d|\(\?", pattern) for pattern in patterns)
    try:
        return re.compile("" if alone else "|".join(f"(?:{pattern})" for pattern in patterns))
    except re.error:
        return re.compile("")  # whichever is wrong is named when its turn comes


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UsageError(f"The tensor pattern {pattern!r} is not a regular expression: {error}.") from error
