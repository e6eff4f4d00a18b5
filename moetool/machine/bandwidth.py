"""Memory bandwidth: what a device's memory can give a second, from the best source there is.

Measured (CPU, once, and kept) or asked from the driver (NVIDIA), else from the makers' table, else
unknown. `known_bandwidth` only looks things up; `measure_bandwidth` takes about a second.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moetool.home import read_home
from moetool.machine.procfs import read_text
from moetool.machine.record import Device, Machine

UNDER_LOAD = "measured under load"
TABLE = Path(__file__).parent.parent / "data/bandwidth.csv"


@dataclass(frozen=True)
class Bandwidth:
    """Bytes per second, and who says so ("measured", "nvml", "table: …")."""

    bytes_s: float
    source: str


@dataclass(frozen=True)
class TableRow:
    """A card in the makers' table. None: the row holds for any memory size, any number of CPU cores."""

    names: tuple[str, ...]
    memory_bytes: int | None
    n_cores: int | None
    bandwidth: Bandwidth


def known_bandwidth(machine: Machine) -> Machine:
    """The machine with what is known about its devices' bandwidth; nothing is measured."""
    kept = read_measured(machine)
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
    return replace(device, bandwidth_bytes_s=bandwidth.bytes_s, bandwidth_source=bandwidth.source)


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


# --- what was measured -----------------------------------------------------------------------------


def read_measured(machine: Machine) -> dict[str, Bandwidth]:
    """What was measured on this machine before, by device name; empty where nothing was."""
    kept = parse_measured(read_text(cache_path()), fingerprint(machine))
    return {device.name: kept[key] for device in machine.devices if (key := _key(device)) in kept}


def parse_measured(text: str, key: str) -> dict[str, Bandwidth]:
    """One machine's figures in the cache file. A file that is damaged is as good as none."""
    try:
        devices = json.loads(text)[key]
        return {name: Bandwidth(float(row["bytes_s"]), str(row["source"])) for name, row in devices.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_measured(machine: Machine, measured: Mapping[str, Bandwidth]) -> None:
    """Keep the figures for the next start; a folder that cannot be written is no error."""
    path = cache_path()
    try:
        document = json.loads(read_text(path))
    except ValueError:
        document = {}
    document = document if isinstance(document, dict) else {}
    document[fingerprint(machine)] = {
        _key(device): {"bytes_s": measured[device.name].bytes_s, "source": measured[device.name].source}
        for device in machine.devices
        if device.name in measured
    }
    try:
        _replace_text(path, json.dumps(document, indent=2) + "\n")
    except OSError:
        return


def _replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: two commands may end at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _key(device: Device) -> str:
    """The slot and what is in it: another card in the same slot is another device."""
    return f"{device.name} {device.description}"


def fingerprint(machine: Machine) -> str:
    """What the measurement depends on: the same file may serve several machines (a shared home)."""
    gib = round(machine.ram_total_bytes / 2**30)
    return f"{machine.os} {machine.arch} | {machine.cpu_name} | {machine.n_threads} threads | {gib} GiB"


def cache_path() -> Path:
    """Where measurements are kept."""
    return read_home() / "bandwidth.json"


# --- measuring -------------------------------------------------------------------------------------


def measure_bandwidth(machine: Machine) -> Machine:
    """Measure the CPU, ask the driver about NVIDIA cards, keep the figures. Takes about a second.

    A figure taken while other processes had the cores is shown (`bandwidth_source` says so), not kept.
    """
    from moetool.machine.readtest import measure_reading

    reading = measure_reading(machine.n_threads, machine.ram_free_bytes)
    asked = match_nvml(machine.devices, read_nvml())
    measured = {"CPU": Bandwidth(reading.bytes_s, "measured" if reading.quiet else UNDER_LOAD), **asked}
    write_measured(machine, measured if reading.quiet else asked)
    rows = parse_table(read_text(TABLE))
    return fill_bandwidth(machine, measured, rows)


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
