"""`read_machine`: what this process has, in a few milliseconds. Nothing is measured here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moetool.machine.bandwidth import known_bandwidth
from moetool.machine.cards import Card, read_cards
from moetool.machine.commands import read_command
from moetool.machine.cpu import (
    Cores,
    guess_cores,
    parse_cpu_name,
    parse_macos_cores,
    parse_sysctl,
    read_linux_cores,
)
from moetool.machine.procfs import read_text
from moetool.machine.ram import Ram, parse_swapusage, parse_vm_stat, read_linux_ram
from moetool.machine.record import Device, Machine


@dataclass(frozen=True)
class Host:
    """What the operating system says, without llama.cpp. `cpu_name` is "" where it says nothing."""

    ram: Ram
    cores: Cores
    cpu_name: str


def read_machine(devices: Sequence[Device], disk_path: Path, root: Path = Path("/")) -> Machine:
    """The machine around llama.cpp's `devices`; `disk_path` is the folder where models are kept.

    llama.cpp takes all RAM for free: the CPU's memory is replaced by what is really left. `root` is
    where /proc and /sys lie. Never fails: what cannot be read is 0 or "".
    """
    cpu = next((device for device in devices if device.kind == "cpu"), None)
    host = read_host(cpu, root)
    name = host.cpu_name or (cpu.description if cpu else "")
    here = Device("CPU", name, "cpu", host.ram.total_bytes, host.ram.free_bytes)
    listed = devices if cpu else (*devices, here)
    system, arch = read_system()
    machine = Machine(
        devices=tuple(here if device.kind == "cpu" else _checked(device) for device in listed),
        cpu_name=name,
        n_cores=host.cores.n_cores,
        n_threads=host.cores.n_threads,
        ram_total_bytes=host.ram.total_bytes,
        ram_free_bytes=host.ram.free_bytes,
        disk_free_bytes=read_disk_free(disk_path),
        os=system,
        arch=arch,
        n_hw_threads=host.cores.n_hw_threads,
    )
    cards = read_cards(root) if len(machine.devices) > 1 else ()
    return known_bandwidth(replace(machine, devices=link_devices(machine.devices, cards)))


def link_devices(devices: Iterable[Device], cards: Sequence[Card]) -> tuple[Device, ...]:
    """The devices with the speed of their way to the RAM.

    llama.cpp does not say which card is which device, so a maker's cards must all agree.
    """
    links: dict[str, set[float | None]] = {}
    for card in cards:
        links.setdefault(card.vendor, set()).add(card.link_bytes_s)
    common = {vendor: link for vendor, (link, *others) in links.items() if not others}
    return tuple(
        replace(device, link_bytes_s=common.get(_vendor(device))) if device.kind == "gpu" else device
        for device in devices
    )


def _vendor(device: Device) -> str:
    """Whose card a device is, by its description ("NVIDIA GeForce …", "Radeon RX …")."""
    text = f"{device.name} {device.description}".lower()
    marks = {"NVIDIA": ("nvidia", "cuda"), "AMD": ("amd", "radeon", "rocm"), "Intel": ("intel",)}
    return next((vendor for vendor, words in marks.items() if any(word in text for word in words)), "")


def _checked(device: Device) -> Device:
    """Some drivers report more free than there is; a plan must not believe it."""
    return replace(device, free_bytes=min(device.free_bytes, device.total_bytes))


def read_host(cpu: Device | None, root: Path = Path("/")) -> Host:
    """RAM, cores and the CPU's name by the means of this operating system."""
    system, _ = read_system()
    if system == "darwin":
        return read_macos_host()
    if system == "linux":
        return read_linux_host(root)
    # llama.cpp asks Windows for total and available RAM itself.
    ram = Ram(cpu.total_bytes, min(cpu.free_bytes, cpu.total_bytes)) if cpu else Ram(0, 0)
    return Host(ram, guess_cores(os.cpu_count() or 1), cpu.description if cpu else "")


def read_system() -> tuple[str, str]:
    """Names of the operating system and the instruction set: "linux", "x86_64"."""
    if os.name == "nt":
        return "windows", parse_arch(os.environ.get("PROCESSOR_ARCHITECTURE", ""))
    uname = os.uname()
    return uname.sysname.lower(), parse_arch(uname.machine)


def read_linux_host(root: Path = Path("/")) -> Host:
    """RAM and cores from /proc, /sys and cgroups."""
    # The kernel writes cpuinfo while it is read: one CPU of 200 is enough, and takes no time.
    head = read_text(root / "proc/cpuinfo", 4096)
    name = parse_cpu_name(head, read_text(root / "proc/device-tree/model"))
    return Host(read_linux_ram(root), read_linux_cores(root), name)


def read_macos_host() -> Host:
    """RAM and cores from sysctl and vm_stat."""
    sysctl = parse_sysctl(read_command("sysctl", *_SYSCTL))
    total = int(sysctl.get("hw.memsize", "0"))
    free = min(total, parse_vm_stat(read_command("vm_stat")))
    ram = Ram(total, free, *parse_swapusage(sysctl.get("vm.swapusage", "")))
    return Host(ram, parse_macos_cores(sysctl), sysctl.get("machdep.cpu.brand_string", ""))


_SYSCTL = (
    "hw.memsize",
    "hw.physicalcpu",
    "hw.logicalcpu",
    "hw.perflevel0.physicalcpu",  # Apple silicon only; the others are printed all the same
    "machdep.cpu.brand_string",
    "vm.swapusage",
)


def read_disk_free(path: Path) -> int:
    """Free bytes where `path` is, or where it would be made."""
    for existing in (path, *path.absolute().parents):
        if existing.exists():
            return shutil.disk_usage(existing).free
    return 0


def parse_arch(machine: str) -> str:
    """One name for each instruction set: "x86_64", "arm64", …"""
    name = machine.lower()
    return {"amd64": "x86_64", "aarch64": "arm64"}.get(name, name)
