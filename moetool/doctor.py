"""What this machine has, what this build of llama.cpp can use of it, what is wrong.

`examine` is pure: `read_checks` has looked before, and the machine and the build come from their own doors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moetool.engine.devices import BuildInfo
    from moetool.machine import Machine
    from moetool.machine.cards import Card

PACKAGES = ("llama-cpp-python", "llguidance", "huggingface-hub")
INSTALL = "scripts/install.sh"

_GIB = 1 << 30
_LITTLE_DISK_BYTES = 10 * _GIB
_LITTLE_RAM_BYTES = 2 * _GIB
_MUCH_SWAP_BYTES = 1 * _GIB


@dataclass(frozen=True)
class Problem:
    """What costs the user speed, memory or a feature; `command` is what to type next ("": nothing)."""

    code: str
    text: str
    command: str = ""


@dataclass(frozen=True)
class Checks:
    """What neither the machine nor the build tells.

    `cards` are on the bus, `nvidia_names` what NVIDIA's driver lists, `cpu_flags` the instruction sets,
    `versions` the installed packages ("" where one is missing). `hf_token` says whether the Hub gets a
    token, never which.
    """

    cards: tuple[Card, ...] = ()
    nvidia_names: tuple[str, ...] = ()
    cpu_flags: frozenset[str] = frozenset()
    swap_total_bytes: int = 0
    swap_free_bytes: int = 0
    hf_token: bool = False
    versions: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Doctor:
    """The findings, the worst problem first. `machine` is what `--machine FILE` reads back."""

    machine: Machine
    build: BuildInfo
    cards: tuple[str, ...]
    swap_total_bytes: int
    swap_free_bytes: int
    hf_token: bool
    versions: tuple[tuple[str, str], ...]
    problems: tuple[Problem, ...]


def read_checks(hf_token: bool) -> Checks:
    """Look at the bus, the driver, the swap and the installed packages. Takes up to a second."""
    from moetool.machine.cards import read_cards, read_nvidia_names
    from moetool.machine.cpu import read_cpu_flags
    from moetool.machine.detect import read_host

    ram = read_host(None).ram
    return Checks(
        cards=read_cards(),
        nvidia_names=read_nvidia_names(),
        cpu_flags=read_cpu_flags(),
        swap_total_bytes=ram.swap_total_bytes,
        swap_free_bytes=ram.swap_free_bytes,
        hf_token=hf_token,
        versions=tuple((name, read_version(name)) for name in PACKAGES),
    )


def read_version(package: str) -> str:
    """The installed version, "" if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def examine(machine: Machine, build: BuildInfo, checks: Checks) -> Doctor:
    """Hold the hardware against the build, and both against what models need."""
    problems = (
        *unused_hardware(machine, build, checks),
        *weak_build(build, checks),
        *tight_machine(machine, checks),
    )
    return Doctor(
        machine=machine,
        build=build,
        cards=card_names(checks),
        swap_total_bytes=checks.swap_total_bytes,
        swap_free_bytes=checks.swap_free_bytes,
        hf_token=checks.hf_token,
        versions=checks.versions,
        problems=problems,
    )


def card_names(checks: Checks) -> tuple[str, ...]:
    """Every graphics card once: by its driver's name, else by its maker."""
    others = (card.name or f"{card.vendor} graphics" for card in checks.cards if card.vendor != "NVIDIA")
    nvidia = checks.nvidia_names or tuple(
        card.name or "NVIDIA card" for card in checks.cards if card.vendor == "NVIDIA"
    )
    return (*nvidia, *others)


def unused_hardware(machine: Machine, build: BuildInfo, checks: Checks) -> Iterator[Problem]:
    """A GPU that is there and not used: the most expensive mistake an installation can make."""
    backends = {name.lower() for name in build.backends}
    vendors = {card.vendor for card in checks.cards}
    gpus = [
        device for device in machine.devices if device.kind in ("gpu", "igpu") and "RPC" not in device.name
    ]
    if checks.nvidia_names:
        yield from unused_nvidia(backends, len(gpus), checks.nvidia_names)
    elif "NVIDIA" in vendors:
        yield Problem(
            "no-driver",
            "An NVIDIA card is here, but its driver is not: install the driver first.",
            "nvidia-smi",
        )
    if "AMD" in vendors and not gpus and not backends & {"rocm", "hip", "vulkan"}:
        yield Problem(
            "gpu-unused",
            "An AMD GPU is here, but this build of llama.cpp has neither ROCm nor Vulkan.",
            INSTALL,
        )
    if (machine.os, machine.arch) == ("darwin", "arm64") and not backends & {"mtl", "metal"}:
        yield Problem("gpu-unused", "This Mac has a GPU, but this build of llama.cpp has no Metal.", INSTALL)


def unused_nvidia(backends: set[str], n_gpus: int, names: tuple[str, ...]) -> Iterator[Problem]:
    """NVIDIA cards with a driver, without a backend or without devices."""
    if not backends & {"cuda", "vulkan"}:
        text = f"{names[0]} is here, but this build of llama.cpp has no CUDA: it runs on the CPU only."
        yield Problem("gpu-unused", text, INSTALL)
    elif n_gpus == 0:
        text = f"{names[0]} is here and this build could use it, but llama.cpp sees no GPU: check the driver."
        yield Problem("gpu-unseen", text, "nvidia-smi")


def weak_build(build: BuildInfo, checks: Checks) -> Iterator[Problem]:
    """A build that is another one than this machine or this program wants."""
    installed = dict(checks.versions).get("llama-cpp-python", "")
    if installed and installed != build.llama_cpp_python:
        text = f"llama-cpp-python {installed} is installed, moetool speaks to {build.llama_cpp_python} only."
        yield Problem("wrong-version", text, INSTALL)
    if "avx2" in checks.cpu_flags and "AVX2 = 1" not in build.system_info:
        text = "This CPU has AVX2, this build of llama.cpp does not use it: it was built for another machine."
        yield Problem("slow-build", text, f"{INSTALL} --rebuild")
    if not build.supports_rpc:
        text = "This build of llama.cpp has no RPC: neither moetool worker nor --rpc can work with it."
        yield Problem("no-rpc", text, INSTALL)


def tight_machine(machine: Machine, checks: Checks) -> Iterator[Problem]:
    """Memory and disk that will not do, and a figure that is not to be trusted."""
    from moetool.machine.bandwidth import UNDER_LOAD

    if machine.ram_free_bytes < _LITTLE_RAM_BYTES:
        yield Problem("little-ram", f"Only {machine.ram_free_bytes / _GIB:.1f} GiB of RAM are free.")
    swapped = checks.swap_total_bytes - checks.swap_free_bytes
    if swapped > _MUCH_SWAP_BYTES:
        text = f"{swapped / _GIB:.1f} GiB are swapped out: RAM is short, and a model in swap crawls."
        yield Problem("swapping", text)
    if machine.disk_free_bytes < _LITTLE_DISK_BYTES:
        text = f"Only {machine.disk_free_bytes / _GIB:.1f} GiB are free where models are kept."
        yield Problem("little-disk", text, "moetool list")
    if any(device.bandwidth_source == UNDER_LOAD for device in machine.devices):
        text = "Other programs were busy while memory bandwidth was measured: the figure is too low."
        yield Problem("busy", text, "moetool doctor")
