"""Anatomy + machine + wishes -> a placement that fits, with a reason for each choice. Pure.

The order of preference is what costs least speed: everything on the offload devices; then the experts of as
few layers as needed in RAM (attention stays: it is small and read for every token, while of the experts only
a few are); then whole layers in RAM; then the CPU alone. Whatever the user fixed is kept and composed with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from moetool.anatomy import Anatomy
from moetool.errors import UsageError
from moetool.machine import Machine
from moetool.memory import DeviceMemory, device_memory, make_placement, place_tensors
from moetool.settings import Settings, TensorOverride
from moetool.speed import Load, Speed, Where, predict_speed

DEFAULT_CTX = 8192
MIB = 1 << 20
# Beyond this share of llama.cpp's own figure, a difference is spelled out.
DRY_RUN_TOLERANCE = 0.02
# What a driver, its pools and other programs take that no allocator line shows.
DEFAULT_RESERVE_BYTES = 512 * MIB

# Routed experts of one block, as llama.cpp's --n-cpu-moe names them (common/arg.cpp).
_EXPERTS = r"blk\.{block}\.ffn_(up|down|gate|gate_up)_(ch|)exps"


@dataclass(frozen=True)
class Wishes:
    """What the user asked for and fixed; None leaves the choice to the plan.

    `n_ctx` 0 means the model's whole training context. `devices` names the offload devices that may be used
    (() none of them). `reserve_bytes` is left free on every device.
    """

    n_ctx: int | None = None
    n_seq: int = 1
    type_k: str = "f16"
    type_v: str = "f16"
    devices: tuple[str, ...] | None = None
    n_gpu_layers: int | None = None
    n_cpu_moe: int | None = None
    tensor_overrides: tuple[TensorOverride, ...] = ()
    n_threads: int | None = None
    n_batch: int | None = None
    n_ubatch: int | None = None
    experts: int | None = None
    reserve_bytes: int = DEFAULT_RESERVE_BYTES


@dataclass(frozen=True)
class Reason:
    """Why something was chosen or refused: a stable code and a sentence."""

    code: str
    text: str


@dataclass(frozen=True)
class Plan:
    """Where everything goes. `fits` False is an answer too: `memory` then shows what would be needed."""

    anatomy: Anatomy
    machine: Machine
    settings: Settings
    memory: tuple[DeviceMemory, ...]
    speed: Speed
    fits: bool
    reasons: tuple[Reason, ...]

    def predict(self, load: Load) -> Speed:
        """The speed under another load: a longer prompt, a deeper context."""
        return _speed(self.anatomy, self.machine, self.settings, load)


def make_plan(anatomy: Anatomy, machine: Machine, wishes: Wishes) -> Plan:
    """The first placement, in order of preference, that fits what is free; else the one that misses least."""
    base, reasons = _base_settings(anatomy, machine, wishes)
    tried: list[_Tried] = []
    for ladder in _ladders(anatomy, machine, wishes, base):
        tried.append(_climb(ladder, anatomy, machine, wishes.reserve_bytes))
        if not tried[-1].misses_offload:
            break  # it fits, or RAM is too small: the next ladders would need even more of it
    best = min(tried, key=lambda item: sum(item.missing.values()))
    speed = _speed(anatomy, machine, best.settings)
    fits = not best.missing
    why = _placement_reasons(anatomy, machine, best.settings) if fits else _missing_reasons(best.missing)
    return Plan(anatomy, machine, best.settings, best.memory, speed, fits, reasons=(*reasons, *why))


@dataclass(frozen=True)
class _Ladder:
    """Placements of one kind: each of the `n_rungs` leaves less to the offload devices than the one before.

    `settings` gives those of a rung; `moved` are layer and bytes that each rung but the first moves.
    """

    n_rungs: int
    settings: Callable[[int], Settings]
    moved: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True)
class _Tried:
    """A placement, what it takes, and the bytes that are missing by device."""

    settings: Settings
    memory: tuple[DeviceMemory, ...]
    missing: dict[str, int]

    @property
    def misses_offload(self) -> bool:
        return any(name in self.settings.devices for name in self.missing)


def _climb(ladder: _Ladder, anatomy: Anatomy, machine: Machine, reserve_bytes: int) -> _Tried:
    """The first rung on which no offload device is too small; the last if there is none.

    Looking at one rung takes some 10 ms, so a guess from the bytes that must move comes first.
    """

    @cache
    def at(rung: int) -> _Tried:
        settings = ladder.settings(rung)
        memory = device_memory(anatomy, settings, machine.devices)
        return _Tried(settings, memory, shortfalls(memory, machine, reserve_bytes))

    if not at(0).misses_offload or ladder.n_rungs == 1:
        return at(0)
    low, high = 0, ladder.n_rungs - 1
    guess = _guess(ladder, at(0), make_placement(anatomy, ladder.settings(0), machine.devices).layers)
    nearby = [guess, guess - 1, guess + 1]
    while low + 1 < high:
        rung = nearby.pop(0) if nearby else (low + high) // 2
        if low < rung < high:
            low, high = (rung, high) if at(rung).misses_offload else (low, rung)
    return at(high)


def _guess(ladder: _Ladder, first: _Tried, homes: Sequence[str]) -> int:
    """The rung by which each offload device gave up as many bytes as it misses; 0 if no rung is known to."""
    missing = {name: n for name, n in first.missing.items() if name in first.settings.devices}
    for rung, (layer, n_bytes) in enumerate(ladder.moved, 1):
        home = homes[layer]
        missing[home] = missing.get(home, 0) - n_bytes
        if max(missing.values()) <= 0:
            return rung
    return 0


def _speed(anatomy: Anatomy, machine: Machine, settings: Settings, load: Load | None = None) -> Speed:
    placement = make_placement(anatomy, settings, machine.devices)
    tensors = place_tensors(anatomy, settings, machine.devices)
    where = Where(tensors, placement.layers, placement.output)
    return predict_speed(anatomy, settings, where, machine, load=load)


def check_plan(plan: Plan, kv_bytes: int, compute_bytes: Mapping[str, int], reserve_bytes: int) -> Plan:
    """The plan held against llama.cpp's own allocator (a dry run): where the two differ, the larger counts.

    `kv_bytes` is the sum of all KV caches, `compute_bytes` the compute buffers by device.
    """
    own_kv = sum(row.kv_bytes for row in plan.memory)
    growth = max(1.0, kv_bytes / own_kv) if own_kv else 1.0
    memory = tuple(
        replace(
            row,
            kv_bytes=round(row.kv_bytes * growth),
            compute_bytes=max(row.compute_bytes, compute_bytes.get(row.device, 0)),
        )
        for row in plan.memory
    )
    ours = own_kv + sum(row.compute_bytes for row in plan.memory)
    theirs = kv_bytes + sum(compute_bytes.values())
    fits = not shortfalls(memory, plan.machine, reserve_bytes)
    reason = Reason("dry-run", _dry_run_text(ours, theirs))
    return replace(plan, memory=memory, fits=fits, reasons=(*plan.reasons, reason))


def _dry_run_text(ours: int, theirs: int) -> str:
    difference = abs(ours - theirs) / max(theirs, 1)
    if difference <= DRY_RUN_TOLERANCE:
        return f"llama.cpp's allocator agrees within {difference:.1%} (dry run)"
    return (
        f"llama.cpp's allocator takes {theirs / MIB:.1f} MiB for caches and computing, predicted were "
        f"{ours / MIB:.1f}: the larger counts (dry run)"
    )


def shortfalls(memory: Sequence[DeviceMemory], machine: Machine, reserve_bytes: int) -> dict[str, int]:
    """Device name -> bytes that are missing there, for the devices that are too small.

    The reserve of a device shrinks with it: a quarter of its free memory at most.
    """
    free = {device.name: device.free_bytes for device in machine.devices}
    missing: dict[str, int] = {}
    for row in memory:
        available = free[row.device] - min(reserve_bytes, free[row.device] // 4)
        if row.total_bytes > available:
            missing[row.device] = row.total_bytes - available
    return missing


def _base_settings(anatomy: Anatomy, machine: Machine, wishes: Wishes) -> tuple[Settings, tuple[Reason, ...]]:
    n_ctx, context_reason = _context(anatomy, wishes)
    _check_experts(anatomy, wishes.experts)
    n_threads = wishes.n_threads or machine.n_threads
    defaults = Settings()
    settings = Settings(
        n_ctx=n_ctx,
        n_seq=wishes.n_seq,
        type_k=wishes.type_k,
        type_v=wishes.type_v,
        n_batch=wishes.n_batch or defaults.n_batch,
        n_ubatch=wishes.n_ubatch or defaults.n_ubatch,
        n_outputs_max=wishes.n_seq,
        n_threads=n_threads,
        n_threads_batch=n_threads,
        experts=wishes.experts,
    )
    threads = Reason("threads", f"{n_threads} threads: one for each core that pays")
    return settings, (*context_reason, *(() if wishes.n_threads else (threads,)))


def _context(anatomy: Anatomy, wishes: Wishes) -> tuple[int, tuple[Reason, ...]]:
    trained = anatomy.n_ctx_train or DEFAULT_CTX
    if wishes.n_ctx is None:
        n_ctx = min(trained, DEFAULT_CTX)
        return n_ctx, (
            Reason("context-default", f"context {n_ctx}: the default, up to {trained} is trained"),
        )
    n_ctx = wishes.n_ctx or trained
    if n_ctx > trained:
        text = f"context {n_ctx} is more than the {trained} this model was trained with: expect it to drift"
        return n_ctx, (Reason("context-untrained", text),)
    return n_ctx, ()


def _check_experts(anatomy: Anatomy, experts: int | None) -> None:
    if experts is None:
        return
    if not anatomy.n_expert:
        raise UsageError("--experts: this model has no experts", "leave --experts out")
    if not 1 <= experts <= anatomy.n_expert:
        raise UsageError(
            f"--experts {experts}: this model has {anatomy.n_expert} experts",
            f"use 1 to {anatomy.n_expert}; the model's own number is {anatomy.n_expert_used}",
        )


def _ladders(anatomy: Anatomy, machine: Machine, wishes: Wishes, base: Settings) -> Iterator[_Ladder]:
    """Placements from the fastest to the most modest; at least one."""
    devices = _offload_devices(machine, wishes)
    everything = anatomy.n_layer + 1
    base = replace(base, devices=devices, tensor_overrides=wishes.tensor_overrides)
    in_ram = replace(base, devices=(), n_gpu_layers=0)
    if not devices:
        yield _Ladder(1, lambda _: in_ram)
        return
    n_layers = everything if wishes.n_gpu_layers is None else wishes.n_gpu_layers
    moe = [layer for layer in anatomy.layers if layer.ffn == "moe"]
    blocks = [layer.index for layer in moe]
    counts = _expert_counts(len(moe), wishes)
    yield _Ladder(
        len(counts),
        lambda rung: _with_experts_in_ram(replace(base, n_gpu_layers=n_layers), blocks[: counts[rung]]),
        [(layer.index, layer.bytes_by_role.get("routed experts", 0)) for layer in moe],
    )
    if wishes.n_gpu_layers is None:
        most = blocks[: counts[-1]]
        yield _Ladder(
            n_layers,
            lambda rung: _with_experts_in_ram(replace(base, n_gpu_layers=n_layers - 1 - rung), most),
        )
        yield _Ladder(1, lambda _: in_ram)


def _expert_counts(n_moe: int, wishes: Wishes) -> range:
    if wishes.n_cpu_moe is not None:
        return range(min(wishes.n_cpu_moe, n_moe), min(wishes.n_cpu_moe, n_moe) + 1)
    return range(n_moe + 1)


def _with_experts_in_ram(settings: Settings, blocks: Sequence[int]) -> Settings:
    added = tuple(TensorOverride(_EXPERTS.format(block=block), "CPU") for block in blocks)
    return replace(settings, tensor_overrides=(*settings.tensor_overrides, *added))


def _offload_devices(machine: Machine, wishes: Wishes) -> tuple[str, ...]:
    able = [device for device in machine.devices if device.kind in {"gpu", "igpu"}]
    # Like llama.cpp: an integrated GPU is used only where there is no other.
    discrete = [device for device in able if device.kind == "gpu"]
    chosen = discrete or able
    if wishes.devices is None:
        return tuple(device.name for device in chosen)
    known = {device.name for device in able}
    unknown = [name for name in wishes.devices if name not in known]
    if unknown:
        hint = f"this machine has: {', '.join(sorted(known)) or 'no offload device'}"
        raise UsageError(f"--device {unknown[0]}: there is no such device", hint)
    return wishes.devices


def _placement_reasons(anatomy: Anatomy, machine: Machine, settings: Settings) -> tuple[Reason, ...]:
    if not settings.devices:
        able = [d for d in machine.devices if d.kind in {"gpu", "igpu"}]
        why = "no offload device is used" if able else "llama.cpp sees no offload device"
        return (Reason("cpu-only", f"everything in RAM: {why}"),)
    if settings.n_gpu_layers > anatomy.n_layer and not settings.tensor_overrides:
        return (Reason("all-offloaded", f"all {anatomy.n_layer} layers on {_join(settings.devices)}"),)
    reasons = []
    n_moved = sum("exps" in item.pattern for item in settings.tensor_overrides)
    if n_moved:
        text = f"experts of {n_moved} layers in RAM, the rest does not fit on {_join(settings.devices)}"
        reasons.append(Reason("experts-in-ram", text))
    if settings.n_gpu_layers <= anatomy.n_layer:
        text = f"{settings.n_gpu_layers} of {anatomy.n_layer + 1} layers on {_join(settings.devices)}"
        reasons.append(Reason("layers-in-ram", text))
    return tuple(reasons)


def _missing_reasons(missing: Mapping[str, int]) -> tuple[Reason, ...]:
    return tuple(
        Reason("does-not-fit", f"{n_bytes / (1 << 30):.1f} GiB of {_place(device)} are missing")
        for device, n_bytes in missing.items()
    )


def _place(device: str) -> str:
    return "RAM" if device == "CPU" else f"memory on {device}"


def _join(names: Sequence[str]) -> str:
    return " + ".join(names)
