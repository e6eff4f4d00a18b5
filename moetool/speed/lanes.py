"""How fast each device is, as far as the machine says: a device becomes a `Lane`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from moetool.machine import Device, Machine

# llama.cpp's device names ("CUDA0", "ROCm1", "Vulkan0", "MTL0") begin with the backend's name.
_BACKENDS = {
    "cpu": "cpu",
    "cuda": "cuda",
    "rocm": "rocm",
    "hip": "rocm",
    "musa": "cuda",
    "metal": "metal",
    "mtl": "metal",
    "vulkan": "vulkan",
}


@dataclass(frozen=True)
class Lane:
    """One device as the speed model sees it.

    `kind` chooses the kernels' constants. `bandwidth_bytes_s` is None when unknown; `measured` tells a
    measured figure from a data sheet's. `link_bytes_s` is the way to the RAM (None: unknown, or none is
    needed). `n_threads` counts on a CPU only; a worker's CPU is taken to have as many as this machine.

    `link_latency_s`, seconds for a question and its answer, tells a worker's device from those of this
    machine. Its measured bandwidth is what a product of weights with a vector reached, all told.
    """

    device: str
    kind: str
    bandwidth_bytes_s: float | None
    measured: bool = False
    link_bytes_s: float | None = None
    n_threads: int = 1
    link_latency_s: float | None = None

    @property
    def is_remote(self) -> bool:
        """Does a worker lend it?"""
        return self.link_latency_s is not None


def make_lanes(machine: Machine, n_threads: int = 0) -> tuple[Lane, ...]:
    """The machine's devices as lanes; `n_threads` 0 is what the machine finds sensible. Threads beyond its
    cores compute nothing more."""
    n_useful = max(machine.n_cores, machine.n_threads)
    n_threads = min(n_threads or machine.n_threads, n_useful)
    return tuple(_make_lane(device, n_threads) for device in machine.devices)


def _make_lane(device: Device, n_threads: int) -> Lane:
    # What shares the RAM needs no link: copying goes at the memory's own speed.
    shared = device.bandwidth_bytes_s if device.kind == "igpu" else None
    return Lane(
        device=device.name,
        kind=lane_kind(device.name, device.description),
        bandwidth_bytes_s=_bandwidth(device, n_threads),
        measured=device.bandwidth_source.startswith("measured"),
        link_bytes_s=device.link_bytes_s or shared,
        n_threads=n_threads,
        link_latency_s=device.link_latency_s,
    )


def _bandwidth(device: Device, n_threads: int) -> float | None:
    """A core alone cannot ask for all that the memory of a large machine gives."""
    alone, together = device.thread_bandwidth_bytes_s, device.bandwidth_bytes_s
    return together if alone is None or together is None else min(together, n_threads * alone)


# NVIDIA's cards with HBM: single-token kernels reach a smaller part of their bandwidth than of GDDR's.
_HBM = re.compile(r"\b(P100|V100|A30|A100|A800|H100|H20|H200|H800|GH200|B100|B200|GB200)\b")


def lane_kind(name: str, description: str = "") -> str:
    """The family of kernels behind a device's name; "other" for a backend without constants.

    Behind a worker's device is what its description begins with ("CUDA at host:port"), a CPU if it says
    nothing.
    """
    if name.startswith("RPC"):
        return "cuda" if description.startswith("CUDA at ") else "cpu"
    letters = re.match(r"[A-Za-z]*", name)
    kind = _BACKENDS.get(letters[0].lower() if letters else "", "other")
    return "cuda_hbm" if kind == "cuda" and _HBM.search(description) else kind
