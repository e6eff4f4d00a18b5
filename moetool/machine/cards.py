"""Graphics cards as the bus sees them, whether or not this llama.cpp can use them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moetool.machine.commands import read_command
from moetool.machine.procfs import read_text

_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}


@dataclass(frozen=True)
class Card:
    """A display-class device. `vendor` is "NVIDIA", "AMD", "Intel" or a PCI id; `name` may be "".

    `link_bytes_s` is what its PCIe lanes carry one way (None: unknown), before protocol overhead.
    """

    vendor: str
    name: str
    link_bytes_s: float | None = None


def read_cards(root: Path = Path("/")) -> tuple[Card, ...]:
    """The cards on the PCI bus; none where there is no /sys. `root` is where /proc and /sys lie."""
    devices = sorted((root / "sys/bus/pci/devices").glob("*"))
    return tuple(read_card(path, root) for path in devices if read_text(path / "class").startswith("0x03"))


def read_card(path: Path, root: Path) -> Card:
    """One card. An idle card slows its link down: what counts is the slower end's best speed."""
    vendor = read_text(path / "vendor").strip()
    information = read_text(root / "proc/driver/nvidia/gpus" / path.name / "information")
    name = parse_nvidia_model(information) or read_text(path / "product_name").strip()
    speeds = [read_text(end / "max_link_speed") for end in (path, path.resolve().parent)]
    link = parse_link(speeds, read_text(path / "current_link_width"))
    return Card(_VENDORS.get(vendor, vendor), name, link)


def parse_nvidia_model(information: str) -> str:
    """The name in /proc/driver/nvidia/gpus/*/information."""
    found = re.search(r"^Model:\s*(.+?)\s*$", information, re.M)
    return found[1] if found else ""


def parse_link(speeds: Sequence[str], width: str) -> float | None:
    """Bytes per second one way of a PCIe link: "16.0 GT/s PCIe" at both ends, and a number of lanes."""
    rates = [float(found[1]) for text in speeds if (found := re.match(r"([\d.]+) GT/s", text))]
    # 0 and 63 or 255 lanes are what a link says that is asleep, or that is none.
    lanes = int(width) if width.strip().isdigit() else 0
    if not rates or not 1 <= lanes <= 32:
        return None
    rate = min(rates)
    coding = 8 / 10 if rate <= 5 else 128 / 130
    return rate * 1e9 * coding * lanes / 8


def read_nvidia_names() -> tuple[str, ...]:
    """Cards by `nvidia-smi`: also where the bus does not show them (WSL, Windows)."""
    return parse_nvidia_names(read_command("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"))


def parse_nvidia_names(text: str) -> tuple[str, ...]:
    """One name a line; a driver that does not answer prints a sentence instead."""
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    return () if any("NVIDIA-SMI" in name or "No devices" in name for name in names) else names
