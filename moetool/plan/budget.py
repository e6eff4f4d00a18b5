"""How much of each device a plan may use: what is free, less the reserve, at most what the user allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moetool.machine import Device, Machine
from moetool.memory import DeviceMemory
from moetool.plan.wishes import DEFAULT_RESERVE_BYTES, Wishes


@dataclass(frozen=True)
class Budget:
    """Bytes that may be used, by device. Devices in `in_ram` take theirs out of the CPU's as well."""

    cpu: str
    available: Mapping[str, int]
    in_ram: frozenset[str]

    def missing(self, used: Mapping[str, int]) -> dict[str, int]:
        """Device -> bytes that it lacks, for those that are too small for what is `used`."""
        needed = dict(used)
        shared = sum(n_bytes for name, n_bytes in used.items() if name in self.in_ram)
        needed[self.cpu] = used.get(self.cpu, 0) + shared
        lacking = {name: n_bytes - self.available[name] for name, n_bytes in needed.items()}
        return {name: n_bytes for name, n_bytes in lacking.items() if n_bytes > 0}

    def shortfalls(self, memory: Sequence[DeviceMemory]) -> dict[str, int]:
        """The same for the rows of a plan."""
        return self.missing({row.device: row.total_bytes for row in memory})


def make_budget(machine: Machine, wishes: Wishes, taken: Mapping[str, int] | None = None) -> Budget:
    """What a plan may use; `taken` is what else needs room there: a draft model, a dry run's surprise."""
    taken = taken or {}
    available = {
        device.name: max(0, _usable(device, wishes) - taken.get(device.name, 0)) for device in machine.devices
    }
    cpu = next(device.name for device in machine.devices if device.kind == "cpu")
    shared = frozenset(device.name for device in machine.devices if _is_in_ram(device))
    return Budget(cpu, available, shared)


def _usable(device: Device, wishes: Wishes) -> int:
    """Free memory less the reserve. Unasked, no more than a quarter is kept: small devices count too."""
    reserve = wishes.reserve_bytes
    if reserve is None:
        reserve = min(DEFAULT_RESERVE_BYTES, device.free_bytes // 4)
    limits = [limit.n_bytes for limit in wishes.vram if limit.device == device.name]
    limits = limits or [limit.n_bytes for limit in wishes.vram if not limit.device]
    if device.kind == "cpu":
        limits = [] if wishes.ram_bytes is None else [wishes.ram_bytes]
    return min([device.free_bytes - reserve, *limits])


def _is_in_ram(device: Device) -> bool:
    """Whether its memory is the RAM: integrated GPUs, and Apple's ("MTL0"; "Metal" in older builds)."""
    return device.kind == "igpu" or device.name.startswith(("MTL", "Metal"))


def shortfalls(memory: Sequence[DeviceMemory], machine: Machine, wishes: Wishes) -> dict[str, int]:
    """Device -> bytes that are missing there, for the devices that are too small for these rows."""
    return make_budget(machine, wishes).shortfalls(memory)
