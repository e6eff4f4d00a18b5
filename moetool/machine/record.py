"""What a machine is, and its JSON: `doctor --output json` writes what `--machine FILE` reads."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from moetool.errors import NotFound, UsageError

KINDS = ("cpu", "gpu", "igpu", "accel")


@dataclass(frozen=True)
class Device:
    """One place for tensors, as llama.cpp names it.

    `kind` is "cpu", "gpu", "igpu" or "accel". `bandwidth_bytes_s` is the speed of its memory, None when
    unknown (never a guess), and `bandwidth_source` says where it comes from ("measured", "nvml",
    "table: …"); `thread_bandwidth_bytes_s` is what one thread of a CPU reaches alone. `link_bytes_s` is the
    speed of its way to the RAM (PCIe, or the network to a worker), None when unknown; `link_latency_s` the
    seconds for a question and its answer on that way, known for a worker's devices only.
    """

    name: str
    description: str
    kind: str
    total_bytes: int
    free_bytes: int
    bandwidth_bytes_s: float | None = None
    bandwidth_source: str = ""
    link_bytes_s: float | None = None
    link_latency_s: float | None = None
    thread_bandwidth_bytes_s: float | None = None


@dataclass(frozen=True)
class Machine:
    """What a plan may use. `devices` always has the CPU ("CPU"), whose memory is the RAM of this process:
    the host's, or the cgroup's where that is smaller.

    `n_cores` are the physical cores this process may run on, `n_hw_threads` their hardware threads (0:
    unknown), `n_threads` how many threads are sensible to compute with.
    """

    devices: tuple[Device, ...]
    cpu_name: str
    n_cores: int
    n_threads: int
    ram_total_bytes: int
    ram_free_bytes: int
    disk_free_bytes: int
    os: str
    arch: str
    source: str = "detected"
    n_hw_threads: int = 0

    def at_worker(self, name: str) -> tuple[str, int] | None:
        """A worker's device: the worker's address, with which its description ends, and the device's number
        there. None for a device of this machine's own."""
        homes = {d.name: d.description.rpartition(" ")[2] for d in self.devices if d.name.startswith("RPC")}
        if name not in homes:
            return None
        return homes[name], [other for other in homes if homes[other] == homes[name]].index(name)


def to_json(machine: Machine) -> dict[str, Any]:
    """The machine as plain JSON values; `parse_machine` reads it back."""
    document = asdict(machine)
    document["devices"] = list(document["devices"])
    return document


def read_machine_file(path: Path) -> Machine:
    """The machine that a JSON file describes: bare, or inside what `doctor --output json` prints.

    Raises NotFound for a file that cannot be read and UsageError for one that is not a machine.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotFound(f"cannot read the machine file {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}", _HINT) from error
    return parse_machine(_unwrapped(document))


def parse_machine(document: object) -> Machine:
    """The machine that a JSON value describes. Raises UsageError that names the field."""
    record = _parse_record(document, Machine, "")
    machine = Machine(**record)
    _check(machine)
    return machine


_HINT = "moetool doctor --output json writes such a file"


def _unwrapped(document: object) -> object:
    """The machine inside an envelope, or the document itself."""
    for key in ("data", "machine"):
        if isinstance(document, dict) and isinstance(document.get(key), dict):
            document = document[key]
    return document


def _parse_record(raw: object, kind: type[Device] | type[Machine], where: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise UsageError(f"machine file: {where or 'the document'} must be an object", _HINT)
    known = {field.name: field for field in fields(kind)}
    prefix = f"{where}." if where else ""
    for name in raw:
        if name not in known:
            raise UsageError(f"machine file: unknown field {prefix}{name}", _HINT)
    for name, field in known.items():
        if name not in raw and field.default is MISSING:
            raise UsageError(f"machine file: {prefix}{name} is missing", _HINT)
    return {name: _PARSE[name](raw[name], prefix + name) for name in known if name in raw}


def _parse_text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"machine file: {where} must be a string", _HINT)
    return value


def _parse_kind(value: object, where: str) -> str:
    if value not in KINDS:
        raise UsageError(f"machine file: {where} must be one of {', '.join(KINDS)}", _HINT)
    return str(value)


# Beyond what any machine has: a file that says more has a slip in its units.
_MOST_BYTES = 1 << 62
_MOST_THREADS = 1 << 16
_MOST_BYTES_S = 1e15
_MOST_SECONDS = 60.0


def _parse_count(value: object, where: str) -> int:
    return _parse_whole(value, where, _MOST_BYTES)


def _parse_threads(value: object, where: str) -> int:
    return _parse_whole(value, where, _MOST_THREADS)


def _parse_whole(value: object, where: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UsageError(f"machine file: {where} must be a whole number that is not negative", _HINT)
    if value > most:
        raise UsageError(f"machine file: {where} must be at most {most}", _HINT)
    return value


def _parse_rate(value: object, where: str) -> float | None:
    return _parse_positive(value, where, "bytes per second", _MOST_BYTES_S)


def _parse_seconds(value: object, where: str) -> float | None:
    return _parse_positive(value, where, "seconds", _MOST_SECONDS)


def _parse_positive(value: object, where: str, unit: str, most: float) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise UsageError(f"machine file: {where} must be a positive number of {unit}, or null", _HINT)
    if value > most:
        raise UsageError(f"machine file: {where} must be at most {most:g} {unit}", _HINT)
    return float(value)


def _parse_devices(value: object, where: str) -> tuple[Device, ...]:
    if not isinstance(value, list):
        raise UsageError(f"machine file: {where} must be a list", _HINT)
    return tuple(Device(**_parse_record(raw, Device, f"{where}[{i}]")) for i, raw in enumerate(value))


# Field names mean the same in both records, so one table serves them.
_PARSE: Mapping[str, Callable[[object, str], Any]] = {
    "name": _parse_text,
    "description": _parse_text,
    "kind": _parse_kind,
    "total_bytes": _parse_count,
    "free_bytes": _parse_count,
    "bandwidth_bytes_s": _parse_rate,
    "bandwidth_source": _parse_text,
    "thread_bandwidth_bytes_s": _parse_rate,
    "link_bytes_s": _parse_rate,
    "link_latency_s": _parse_seconds,
    "devices": _parse_devices,
    "cpu_name": _parse_text,
    "n_cores": _parse_threads,
    "n_threads": _parse_threads,
    "ram_total_bytes": _parse_count,
    "ram_free_bytes": _parse_count,
    "disk_free_bytes": _parse_count,
    "os": _parse_text,
    "arch": _parse_text,
    "source": _parse_text,
    "n_hw_threads": _parse_threads,
}


def _check(machine: Machine) -> None:
    """What no single field can tell: names, the CPU, free against total."""
    names = [device.name for device in machine.devices]
    for i, device in enumerate(machine.devices):
        if device.name in names[:i]:
            raise UsageError(f"machine file: devices[{i}].name is {device.name!r} for the second time", _HINT)
        if device.free_bytes > device.total_bytes:
            raise UsageError(f"machine file: devices[{i}].free_bytes is more than its total_bytes", _HINT)
    cpus = [device for device in machine.devices if device.kind == "cpu"]
    if [cpu.name for cpu in cpus] != ["CPU"]:
        raise UsageError('machine file: devices must have exactly one of kind "cpu", named "CPU"', _HINT)
    if machine.ram_free_bytes > machine.ram_total_bytes:
        raise UsageError("machine file: ram_free_bytes is more than ram_total_bytes", _HINT)
    if (cpus[0].total_bytes, cpus[0].free_bytes) != (machine.ram_total_bytes, machine.ram_free_bytes):
        raise UsageError(
            "machine file: ram_total_bytes and ram_free_bytes must equal the CPU device's memory", _HINT
        )
    for name in ("n_cores", "n_threads"):
        if getattr(machine, name) < 1:
            raise UsageError(f"machine file: {name} must be at least 1", _HINT)
