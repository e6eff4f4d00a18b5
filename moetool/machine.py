"""The machine as a value: devices, memory, cores, disk. `read_*` touches the world, `parse_*` is pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """One place for tensors, as llama.cpp names it.

    `kind` is "cpu", "gpu", "igpu" or "accel". `bandwidth_bytes_s` is None when unknown (never a guess),
    and `bandwidth_source` says where it comes from ("measured", "nvml", "table: …").
    """

    name: str
    description: str
    kind: str
    total_bytes: int
    free_bytes: int
    bandwidth_bytes_s: float | None = None
    bandwidth_source: str = ""


@dataclass(frozen=True)
class Machine:
    """What a plan may use. `devices` always has the CPU ("CPU"), whose memory is the RAM of this process:
    the host's, or the cgroup's where that is smaller."""

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
