"""How much of each device a plan may use: what is free, less the reserve, at most what the user allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moetool.machine import Device, Machine
from moetool.memory import DeviceMemory
from moetool.plan.wishes import DEFAULT_RESERVE_BYTES, Wishes


@dataclass(frozen=True)
class Budget:
    """Bytes that may be used, by device (less than none where the reserve is more than there is), and what
    could be if the user set no limit. Devices in `in_ram` take theirs out of the CPU's as well."""

    cpu: str
    available: Mapping[str, int]
    without_limit: Mapping[str, int]
    in_ram: frozenset[str]

    def missing(self, used: Mapping[str, int]) -> dict[str, int]:
        """Device -> bytes that it lacks, for those that are too small for what is `used`."""
        needed = dict(used)
        shared = sum(n_bytes for name, n_bytes in used.items() if name in self.in_ram)
        needed[self.cpu] = used.get(self.cpu, 0) + shared
        # Nothing is there for nothing, also where less than nothing may be used.
        lacking = {name: n_bytes - self.available[name] for name, n_bytes in needed.items() if n_bytes}
        return {name: n_bytes for name, n_bytes in lacking.items() if n_bytes > 0}

    def shortfalls(self, memory: Sequence[DeviceMemory]) -> dict[str, int]:
        """The same for the rows of a plan."""
        return self.missing({row.device: row.total_bytes for row in memory})


def make_budget(machine: Machine, wishes: Wishes, taken: Mapping[str, int] | None = None) -> Budget:
    """What a plan may use; `taken` is what else needs room there: a draft model, a dry run's surprise."""
    taken = taken or {}
    free = {d.name: _free(d, wishes) - taken.get(d.name, 0) for d in machine.devices}
    limits = {d.name: n - taken.get(d.name, 0) for d in machine.devices for n in _limits(d, wishes)}
    cpu = next(device.name for device in machine.devices if device.kind == "cpu")
    shared = frozenset(device.name for device in machine.devices if _is_in_ram(device))
    return Budget(cpu, {name: min(n, limits.get(name, n)) for name, n in free.items()}, free, shared)


def _free(device: Device, wishes: Wishes) -> int:
    """Free memory less the reserve. Unasked, no more than a quarter is kept: small devices count too."""
    reserve = wishes.reserve_bytes
    if reserve is None:
        reserve = min(DEFAULT_RESERVE_BYTES, device.free_bytes // 4)
    return device.free_bytes - reserve


def _limits(device: Device, wishes: Wishes) -> list[int]:
    """What the user allows of it: at most one limit, its own before that of all devices."""
    if device.kind == "cpu":
        return [] if wishes.ram_bytes is None else [wishes.ram_bytes]
    own = [limit.n_bytes for limit in wishes.vram if limit.device == device.name]
    return (own or [limit.n_bytes for limit in wishes.vram if not limit.device])[-1:]


def _is_in_ram(device: Device) -> bool:
    """Whether its memory is the RAM: integrated GPUs, and Apple's ("MTL0"; "Metal" in older builds)."""
    return device.kind == "igpu" or device.name.startswith(("MTL", "Metal"))
