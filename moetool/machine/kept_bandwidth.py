"""Readings of memory bandwidth that are kept on this disk: the last few of each device of each machine."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moetool.home import read_home
from moetool.machine.procfs import read_text
from moetool.machine.record import Device, Machine

_MOST = 9  # readings of a device


@dataclass(frozen=True)
class Bandwidth:
    """Bytes per second of all threads together, who says so ("measured", "nvml", "table: …"), and bytes per
    second of a thread alone where that was measured."""

    bytes_s: float
    source: str
    thread_bytes_s: float | None = None


def read_kept(machine: Machine) -> dict[str, Bandwidth]:
    """What was measured on this machine before, by device name; empty where nothing was."""
    kept = parse_kept(read_text(cache_path()), fingerprint(machine))
    return {device.name: kept[key] for device in machine.devices if (key := _key(device)) in kept}


def parse_kept(text: str, key: str) -> dict[str, Bandwidth]:
    """The middle of one machine's readings in the cache file. A damaged file is as good as none."""
    try:
        devices = json.loads(text)[key]
        return {name: _middle(rows) for name, rows in devices.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _middle(rows: Sequence[Mapping[str, Any]]) -> Bandwidth:
    alone = [float(row["thread_bytes_s"]) for row in rows if row["thread_bytes_s"] is not None]
    return Bandwidth(
        bytes_s=statistics.median(float(row["bytes_s"]) for row in rows),
        source=str(rows[-1]["source"]),
        thread_bytes_s=statistics.median(alone) if alone else None,
    )


def add_readings(machine: Machine, readings: Mapping[str, Bandwidth]) -> None:
    """Keep a reading of each device for the next start; a folder that cannot be written is no error."""
    path = cache_path()
    key = fingerprint(machine)
    try:
        document = json.loads(read_text(path))
    except ValueError:
        document = {}
    document = document if isinstance(document, dict) else {}
    # What cannot be read again goes.
    kept = document[key] if parse_kept(json.dumps(document), key) else {}
    for device in machine.devices:
        if device.name in readings:
            rows = [*kept.get(_key(device), []), asdict(readings[device.name])]
            kept[_key(device)] = rows[-_MOST:]
    document[key] = kept
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
