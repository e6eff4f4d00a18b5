"""What computing costs in joules, by the meters that processors (RAPL) and cards (NVML) have. Often none may
be read."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from moetool.machine.procfs import read_text


@dataclass(frozen=True)
class Meter:
    """A counter of joules that starts over at `wraps_at_j` (None: never). `read` gives what it shows, None
    when it says nothing more."""

    name: str
    read: Callable[[], float | None]
    wraps_at_j: float | None = None


class EnergyMeters:
    """All meters of a machine as one that only grows. Read it oftener than a counter starts over: minutes."""

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._meters = tuple((meter, shown) for meter in meters if (shown := meter.read()) is not None)
        self._total_j = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """What is metered: "package-0", "NVIDIA 0"."""
        return tuple(meter.name for meter, _ in self._meters)

    def read_j(self) -> float | None:
        """Joules since the first reading; None where there is no meter, or one has fallen silent."""
        read = [(meter, before, meter.read()) for meter, before in self._meters]
        if not read or any(now is None for _, _, now in read):
            return None
        for meter, before, now in read:
            self._total_j += 0.0 if now is None else grown(before, now, meter.wraps_at_j)
        self._meters = tuple((meter, before if now is None else now) for meter, before, now in read)
        return self._total_j


def grown(before_j: float, now_j: float, wraps_at_j: float | None) -> float:
    """By how much a counter has grown that may have started over once."""
    if now_j >= before_j:
        return now_j - before_j
    return now_j - before_j + wraps_at_j if wraps_at_j else 0.0


def read_meters(root: Path = Path("/")) -> EnergyMeters:
    """The meters of this machine that this user may read; `root` is where /sys lies."""
    return EnergyMeters([*_packages(root), *_cards()])


def _packages(root: Path) -> list[Meter]:
    """RAPL counters of whole processor packages; their parts (cores, memory) are in them or beside them."""
    found = []
    for folder in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        name = read_text(folder / "name").strip()
        if re.fullmatch(r"intel-rapl:\d+", folder.name) and name.startswith("package"):
            limit = parse_microjoules(read_text(folder / "max_energy_range_uj"))
            found.append(Meter(name, partial(_read_counter, folder / "energy_uj"), limit))
    return found


def _read_counter(path: Path) -> float | None:
    return parse_microjoules(read_text(path))


def parse_microjoules(text: str) -> float | None:
    """Joules from a file of /sys/class/powercap; None for one that may not be read."""
    return int(text) / 1e6 if text.strip().isdigit() else None


def _cards() -> list[Meter]:
    """NVML's counters of joules since the driver was loaded (Volta and later)."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    except Exception:  # noqa: BLE001 (no package, no driver, no right: there is nothing to read)
        return []

    def read(handle: Any) -> float | None:
        with suppress(nvml.NVMLError):
            return int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
        return None

    return [Meter(f"NVIDIA {i}", partial(read, handle)) for i, handle in enumerate(handles)]
