"""Made-up and recorded machines that several test files share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from moetool.machine import Device, Machine

RECORDED = Path(__file__).parent / "data/machines"
GIB = 1 << 30
KIB = 1 << 10


def recorded(name: str) -> dict[str, str]:
    """What each command printed on a machine, by command."""
    blocks = (RECORDED / f"{name}.txt").read_text().split("$ ")[1:]
    return {
        command: text.rstrip("\n") + "\n" for command, _, text in (block.partition("\n") for block in blocks)
    }


def tree(name: str, root: Path) -> Path:
    """The files of a recorded machine under `root`: `cat FILE`, and `grep . FILES` as "path:text" lines."""
    for command, text in recorded(name).items():
        verb, _, rest = command.partition(" ")
        if verb == "cat":
            write(root, rest, text)
        elif verb == "grep":
            for path, _, value in (line.rpartition(":") for line in text.splitlines() if line):
                write(root, path, value + "\n")
    return root


def write(root: Path, path: str, text: str) -> None:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


CPU = Device("CPU", "Some CPU", "cpu", 64 * GIB, 64 * GIB)
CARD = Device("CUDA0", "NVIDIA GeForce RTX 3060", "gpu", 12 * GIB - 200_000_000, 11 * GIB)
MACHINE = Machine(
    devices=(CARD, replace(CPU, total_bytes=32 * GIB, free_bytes=20 * GIB)),
    cpu_name="Some CPU",
    n_cores=8,
    n_threads=8,
    ram_total_bytes=32 * GIB,
    ram_free_bytes=20 * GIB,
    disk_free_bytes=100 * GIB,
    os="linux",
    arch="x86_64",
    n_hw_threads=16,
)
