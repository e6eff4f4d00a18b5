"""Sentences: why everything lies where it does, why something else was not done, what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from moetool.machine import Machine
from moetool.memory import Placement, device_memory, make_placement
from moetool.plan.budget import Budget
from moetool.plan.result import devices_in_use, experts_in_ram
from moetool.plan.search import Found, Question
from moetool.plan.wishes import DEFAULT_KV, Reason, Wishes
from moetool.settings import Settings

GIB, MIB = 1 << 30, 1 << 20
ASKED = "asked for"
LEAST_MISSING = "so the least is missing"


def placement_reasons(question: Question, found: Found) -> Iterator[Reason]:
    """Where things are, each with why; the part before the colon can stand alone."""
    anatomy, machine, wishes = question.anatomy, question.machine, question.wishes
    settings = found.settings
    if not settings.devices:
        yield Reason("cpu-only", f"everything in RAM: {_why_no_device(question, found)}")
        return
    names = _join(settings.devices)
    homes = make_placement(anatomy, settings, machine.devices)
    moved = experts_in_ram(anatomy, settings, machine)
    n_all = len(anatomy.layers) + 1
    if settings.n_gpu_layers >= n_all and not moved:
        yield Reason("all-offloaded", f"all {anatomy.n_layer} layers on {names}")
    if moved:
        part = sum(1 for is_whole in moved.values() if not is_whole)
        parted = f", of {part} of them in part," if part else ""
        asked = wishes.n_cpu_moe is not None or bool(wishes.tensor_overrides)
        full = [name for name in settings.devices if any(homes.layers[layer] == name for layer in moved)]
        why = ASKED if asked else _are_full(full)
        yield Reason("experts-in-ram", f"experts of {len(moved)} layers{parted} in RAM: {why}")
    if settings.n_gpu_layers < n_all:
        why = ASKED if wishes.n_gpu_layers is not None else _why_not_all(found)
        yield Reason("layers-in-ram", f"{settings.n_gpu_layers} of {n_all} layers on {names}: {why}")
    if len(settings.devices) > 1:
        yield _split_reason(homes, machine, settings, wishes)
    if _unknown_speed(machine, settings):
        text = f"the speed of {_unknown_speed(machine, settings)} is unknown: devices were preferred to RAM"
        yield Reason("order-of-preference", text)


def _why_no_device(question: Question, found: Found) -> str:
    wishes = question.wishes
    if not any(device.kind in {"gpu", "igpu"} for device in question.machine.devices):
        return "llama.cpp sees no offload device"
    if wishes.n_gpu_layers == 0 or wishes.devices == ():
        return ASKED
    names = _join(question.devices)
    if not any(_has_room(question, found.settings, device) for device in question.devices):
        return f"there is no room on {names}"
    if not found.fits:
        return LEAST_MISSING
    return f"{names} would not make it faster"


def _has_room(question: Question, settings: Settings, device: str) -> bool:
    """Whether the least that can be offloaded fits there."""
    least = replace(settings, devices=(device,), n_gpu_layers=1)
    memory = device_memory(question.anatomy, least, devices_in_use(least, question.machine))
    return device not in question.budget.shortfalls(memory)


def _why_not_all(found: Found) -> str:
    if not found.full and not found.fits:
        return LEAST_MISSING
    if not found.full:
        return "the others are not slower in RAM"
    if found.full != found.settings.devices:
        return _are_full(found.full)
    return "it is full" if len(found.full) == 1 else "they are full"


def _are_full(names: Sequence[str]) -> str:
    return f"{_join(names)} {'is' if len(names) == 1 else 'are'} full"


def _split_reason(homes: Placement, machine: Machine, settings: Settings, wishes: Wishes) -> Reason:
    places = (*homes.layers, homes.output)
    shares = ", ".join(f"{places.count(name)} on {name}" for name in settings.devices)
    is_ours = wishes.devices is None and _differ(machine, settings)
    why = f": {ASKED}" if wishes.tensor_split else ": the faster memory first" if is_ours else ""
    return Reason("split", f"layers {shares}{why}")


def _differ(machine: Machine, settings: Settings) -> bool:
    speeds = {d.bandwidth_bytes_s for d in machine.devices if d.name in settings.devices}
    return len(speeds - {None}) > 1


def _unknown_speed(machine: Machine, settings: Settings) -> str:
    used = (*settings.devices, "CPU")
    unknown = [d.name for d in machine.devices if d.name in used and d.bandwidth_bytes_s is None]
    return _join(unknown)


def tuning_reasons(wishes: Wishes, base: Settings, found: Found) -> Iterator[Reason]:
    """Why the cache's type or the batch is not the usual one. `base` is what was tried first."""
    settings = found.settings
    if not wishes.type_k and settings.type_k != DEFAULT_KV:
        yield Reason("kv-quantized", f"KV cache {settings.type_k}: {_why_small_kv(found)}")
    if wishes.n_ubatch is None and settings.n_ubatch < base.n_ubatch:
        yield Reason("ubatch-small", f"ubatch {settings.n_ubatch}: with {base.n_ubatch} it does not fit")
    if wishes.n_ubatch is None and settings.n_ubatch > base.n_ubatch:
        text = f"ubatch {settings.n_ubatch}: experts come from RAM once for so many tokens of a prompt"
        yield Reason("ubatch-large", text)


def _why_small_kv(found: Found) -> str:
    if found.is_squeezed:
        return f"with {DEFAULT_KV} it does not fit"
    return "it makes room for more of the weights"


def missing_reasons(missing: Mapping[str, int], budget: Budget) -> Iterator[Reason]:
    """What each device lacks."""
    for device, n_bytes in missing.items():
        flag = limiting_flag(device, budget)
        where = f" under {flag}" if flag else ""
        yield Reason("does-not-fit", f"{ceil_size(n_bytes)} of {place_of(device)} are missing{where}")


def limiting_flag(device: str, budget: Budget) -> str:
    """The flag by which the user allows less of a device than there is; "" if none does."""
    if budget.available[device] == budget.without_limit[device]:
        return ""
    return "--ram" if device == budget.cpu else "--vram"


def place_of(device: str) -> str:
    """What a device's memory is called."""
    return "RAM" if device == "CPU" else f"memory on {device}"


def ceil_size(n_bytes: float) -> str:
    """Bytes in a sentence, rounded up, so that what is asked for is enough."""
    if n_bytes >= GIB:
        return f"{math.ceil(n_bytes / GIB * 10) / 10:.1f} GiB"
    return f"{math.ceil(n_bytes / MIB)} MiB"


def _join(names: Sequence[str]) -> str:
    return " + ".join(names)
