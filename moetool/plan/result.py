"""What a plan is: settings, what they take, how fast that should be, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from moetool.anatomy import Anatomy
from moetool.machine import Device, Machine
from moetool.memory import DeviceMemory, make_placement, place_tensors
from moetool.plan.wishes import Reason, Wishes
from moetool.settings import Settings
from moetool.speed import Calibration, Load, Speed, Where, predict_speed


@dataclass(frozen=True)
class Draft:
    """The draft model of a plan: where it goes, and what it takes there."""

    anatomy: Anatomy
    settings: Settings
    memory: tuple[DeviceMemory, ...]


@dataclass(frozen=True)
class Plan:
    """Where everything goes. `fits` False is an answer too: `memory` then shows what would be needed.

    `missing` are the bytes that each device lacks. `taken` are bytes that are kept free by device beside the
    reserve, because a dry run found that more is needed than predicted.
    """

    anatomy: Anatomy
    machine: Machine
    wishes: Wishes
    settings: Settings
    memory: tuple[DeviceMemory, ...]
    speed: Speed
    missing: Mapping[str, int]
    reasons: tuple[Reason, ...]
    draft: Draft | None = None
    calibration: Sequence[Calibration] = field(default=(), repr=False)
    taken: Mapping[str, int] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        return not self.missing

    @property
    def n_layers_experts_in_ram(self) -> int:
        """Layers of offload devices of whose experts at least a part is in RAM."""
        return len(experts_in_ram(self.anatomy, self.settings, self.machine))

    def predict(self, load: Load) -> Speed:
        """The speed under another load: a longer prompt, a deeper context."""
        return speed_of(self.anatomy, self.machine, self.settings, self.calibration, load)


def speed_of(
    anatomy: Anatomy,
    machine: Machine,
    settings: Settings,
    calibration: Sequence[Calibration] = (),
    load: Load | None = None,
) -> Speed:
    """The speed of a model under settings, on a machine; without a load, llama-bench's, with a prompt that
    fills the ubatch."""
    load = load or Load(n_prompt=max(Load().n_prompt, settings.n_ubatch), n_ubatch=settings.n_ubatch)
    placement = make_placement(anatomy, settings, machine.devices)
    tensors = place_tensors(anatomy, settings, machine.devices)
    where = Where(tensors, placement.layers, placement.output)
    return predict_speed(anatomy, settings, where, machine, calibration, load)


def devices_in_use(settings: Settings, machine: Machine) -> tuple[Device, ...]:
    """The CPU, and those devices that llama.cpp is told of: it takes no memory on any other."""
    return tuple(d for d in machine.devices if d.kind == "cpu" or d.name in settings.devices)


def experts_in_ram(anatomy: Anatomy, settings: Settings, machine: Machine) -> dict[int, bool]:
    """Layers of offload devices with experts in RAM -> whether those are all of the layer's experts."""
    placement = make_placement(anatomy, settings, machine.devices)
    tensors = place_tensors(anatomy, settings, machine.devices)
    found: dict[int, bool] = {}
    homes: dict[int, list[str]] = {}
    for tensor in anatomy.tensors:
        if tensor.role == "routed experts" and tensor.layer is not None:
            homes.setdefault(tensor.layer, []).append(tensors[tensor.info.name])
    for layer, places in homes.items():
        if placement.layers[layer] != placement.cpu and placement.cpu in places:
            found[layer] = set(places) == {placement.cpu}
    return found
