"""One row for each device, from anatomy and settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moetool.anatomy import Anatomy
from moetool.machine import Device
from moetool.memory.caches import layer_kv_bytes, layer_state_bytes, make_cells, uses_flash_attention
from moetool.memory.compute import compute_bytes
from moetool.memory.placement import make_placement, weight_bytes
from moetool.memory.refusals import check_cache_types
from moetool.settings import Settings


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes that one device must have.

    Not in it: the driver's context, and what a back end keeps for itself (pools, cuBLAS workspaces).
    """

    device: str
    weights_bytes: int
    kv_bytes: int
    state_bytes: int
    compute_bytes: int
    output_bytes: int

    @property
    def total_bytes(self) -> int:
        caches = self.kv_bytes + self.state_bytes
        return self.weights_bytes + caches + self.compute_bytes + self.output_bytes


def device_memory(
    anatomy: Anatomy, settings: Settings, devices: Sequence[Device]
) -> tuple[DeviceMemory, ...]:
    """What each device in use must hold, the CPU first.

    Raises UsageError for what llama.cpp would refuse: an unknown device, cache types that this model does
    not take, a pattern that is no regular expression.
    """
    check_cache_types(anatomy, settings)
    placement = make_placement(anatomy, settings, devices)
    weights = weight_bytes(anatomy, settings, devices)
    compute = compute_bytes(anatomy, settings, devices)
    cells = make_cells(anatomy, settings)
    flash_attn = uses_flash_attention(anatomy, settings)
    names = tuple(dict.fromkeys((*placement.used, *weights, *compute)))
    kv = dict.fromkeys(names, 0)
    state = dict.fromkeys(names, 0)
    for layer, device in zip(anatomy.layers, placement.layers, strict=True):
        kv[device] += layer_kv_bytes(layer, settings, cells, flash_attn)
        state[device] += layer_state_bytes(layer, settings)
    output = {placement.cpu: _output_bytes(anatomy, settings)}
    return tuple(
        DeviceMemory(n, weights.get(n, 0), kv[n], state[n], compute.get(n, 0), output.get(n, 0))
        for n in names
    )


def _output_bytes(anatomy: Anatomy, settings: Settings) -> int:
    """Logits handed to the caller, one row a sequence, in host memory (llama_context::output_reserve)."""
    return 4 * anatomy.n_vocab * max(1, settings.n_seq)
