"""Memory bandwidth: what a device's memory can give a second, from the best source there is.

Measured (CPU, and kept) or asked from the driver (NVIDIA), else from the makers' table, else
unknown. `known_bandwidth` only looks things up; `measure_bandwidth` takes about a second.
"""

from __future__ import annotations

import csv
import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moetool.machine.kept_bandwidth import Bandwidth, add_readings, read_kept
from moetool.machine.procfs import read_text
from moetool.machine.record import Device, Machine

UNDER_LOAD = "measured under load"
# Seconds to find out how fast one thread reads alone.
_ALONE_S = 0.3
TABLE = Path(__file__).parent.parent / "data/bandwidth.csv"


@dataclass(frozen=True)
class TableRow:
    """A card in the makers' table. None: the row holds for any memory size, any number of CPU cores."""

    names: tuple[str, ...]
    memory_bytes: int | None
    n_cores: int | None
    bandwidth: Bandwidth


def known_bandwidth(machine: Machine) -> Machine:
    """The machine with what is known about its devices' bandwidth; nothing is measured."""
    kept = read_kept(machine)
    cards = [
        device for device in machine.devices if device.kind in ("gpu", "igpu") and device.name not in kept
    ]
    rows = parse_table(read_text(TABLE)) if cards else ()
    return fill_bandwidth(machine, kept, rows)


def fill_bandwidth(machine: Machine, measured: Mapping[str, Bandwidth], rows: Sequence[TableRow]) -> Machine:
    """The machine with each device's best-founded bandwidth, pure.

    An integrated GPU reads the same memory as the CPU: what the CPU measured holds for it too.
    """
    found = {
        device.name: measured.get(device.name) or look_up(device, machine.n_cores, rows)
        for device in machine.devices
    }
    shared = measured.get("CPU")
    for device in machine.devices:
        if device.kind == "igpu" and found[device.name] is None and shared is not None:
            found[device.name] = Bandwidth(shared.bytes_s, "measured by the CPU, which shares this memory")
    return replace(machine, devices=tuple(_with(device, found[device.name]) for device in machine.devices))


def _with(device: Device, bandwidth: Bandwidth | None) -> Device:
    if bandwidth is None:
        return device
    return replace(
        device,
        bandwidth_bytes_s=bandwidth.bytes_s,
        bandwidth_source=bandwidth.source,
        thread_bandwidth_bytes_s=bandwidth.thread_bytes_s,
    )


# --- the makers' table -----------------------------------------------------------------------------


def parse_table(text: str) -> tuple[TableRow, ...]:
    """Rows of data/bandwidth.csv."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return tuple(_parse_row(row) for row in csv.DictReader(lines))


def _parse_row(row: Mapping[str, str]) -> TableRow:
    return TableRow(
        names=tuple(row["names"].split("|")),
        memory_bytes=int(row["memory_gib"]) << 30 if row["memory_gib"] else None,
        n_cores=int(row["n_cores"]) if row["n_cores"] else None,
        bandwidth=Bandwidth(float(row["bytes_s"]), f"table: {row['source']}"),
    )


def look_up(device: Device, n_cores: int, rows: Iterable[TableRow]) -> Bandwidth | None:
    """The row for a device, by its whole name: "RTX 4060 Laptop GPU" is no "RTX 4060"."""
    name = short_name(device.description)
    for row in rows:
        if (
            name in row.names
            and _is_about(device.total_bytes, row.memory_bytes)
            and row.n_cores in (None, n_cores)
        ):
            return row.bandwidth
    return None


def _is_about(total_bytes: int, memory_bytes: int | None) -> bool:
    """Drivers keep some memory for themselves: 11.6 of 12 GiB is a 12 GiB card."""
    return memory_bytes is None or abs(total_bytes - memory_bytes) < memory_bytes / 10


def short_name(description: str) -> str:
    """A card's name without what drivers add or leave out: makers, brands, marks, parentheses."""
    name = re.sub(r"\([^)]*\)", " ", description.lower())
    words = [word for word in name.split() if word not in _NOISE]
    return " ".join(words)


_NOISE = {"nvidia", "geforce", "amd", "radeon", "intel", "graphics", "generation"}


# --- measuring -------------------------------------------------------------------------------------


def measure_bandwidth(machine: Machine) -> Machine:
    """Measure the CPU, ask the driver about NVIDIA cards, keep the figures. Takes about a second.

    What counts is the middle of the last readings: on a machine that others share, one second is not like
    the next. A reading taken while other processes had the cores is not kept; where it is the only one it
    is shown (`bandwidth_source` says so).
    """
    from moetool.machine.readtest import measure_reading

    reading = measure_reading(machine.n_threads, machine.ram_free_bytes)
    alone = measure_reading(1, machine.ram_free_bytes, _ALONE_S)
    quiet = reading.quiet and alone.quiet
    cpu = Bandwidth(reading.bytes_s, "measured" if quiet else UNDER_LOAD, alone.bytes_s)
    asked = match_nvml(machine.devices, read_nvml())
    add_readings(machine, {"CPU": cpu, **asked} if quiet else asked)
    rows = parse_table(read_text(TABLE))
    return fill_bandwidth(machine, {"CPU": cpu, **asked, **read_kept(machine)}, rows)


@dataclass(frozen=True)
class NvmlCard:
    """What NVIDIA's management library says of a card. Bits of the memory bus, clock in Hz."""

    name: str
    total_bytes: int
    bus_bits: int
    memory_clock_hz: float


def parse_nvml(card: NvmlCard) -> Bandwidth:
    """NVML's memory clock is half the data rate, for GDDR and HBM alike: two bits a pin and cycle."""
    return Bandwidth(card.bus_bits / 8 * card.memory_clock_hz * 2, "nvml")


def match_nvml(devices: Iterable[Device], cards: Sequence[NvmlCard]) -> dict[str, Bandwidth]:
    """Bandwidth by device name. Cards of one name and size are alike; orders need not agree."""
    found = {}
    for device in devices:
        alike = [card for card in cards if short_name(card.name) == short_name(device.description)]
        if alike:
            nearest = min(alike, key=lambda card: abs(card.total_bytes - device.total_bytes))
            found[device.name] = parse_nvml(nearest)
    return found


def read_nvml() -> tuple[NvmlCard, ...]:
    """NVIDIA's cards; none without the driver or its Python binding."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return ()
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        return tuple(_read_nvml_card(nvml, handle) for handle in handles)
    except nvml.NVMLError:
        return ()


def _read_nvml_card(nvml: Any, handle: Any) -> NvmlCard:
    return NvmlCard(
        name=nvml.nvmlDeviceGetName(handle),
        total_bytes=nvml.nvmlDeviceGetMemoryInfo(handle).total,
        bus_bits=nvml.nvmlDeviceGetMemoryBusWidth(handle),
        memory_clock_hz=nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM) * 1e6,
    )
