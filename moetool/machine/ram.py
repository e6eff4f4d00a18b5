"""RAM that this process may take: the host's, cut by every cgroup on its path."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from moetool.machine.procfs import parse_cgroup, read_text

# cgroup v1 writes "no limit" as the largest page-aligned long; anything near it is no limit either.
_UNLIMITED_BYTES = 1 << 60


@dataclass(frozen=True)
class Ram:
    """Bytes of RAM and swap. `free_bytes` is what can be taken without swapping."""

    total_bytes: int
    free_bytes: int
    swap_total_bytes: int = 0
    swap_free_bytes: int = 0


@dataclass(frozen=True)
class MemoryLimit:
    """One cgroup's limit and the room that is left in it."""

    limit_bytes: int
    free_bytes: int


def read_linux_ram(root: Path = Path("/")) -> Ram:
    """RAM by /proc/meminfo and the cgroups' limits. `root` is where /proc and /sys lie."""
    host = parse_meminfo(read_text(root / "proc/meminfo"))
    return limit_ram(host, read_memory_limits(root))


def read_memory_limits(root: Path) -> list[MemoryLimit]:
    """The limits of every cgroup on this process's path, v1 or v2."""
    proc = root / "proc/self"
    cgroup = parse_cgroup("memory", read_text(proc / "cgroup"), read_text(proc / "mountinfo"))
    if cgroup is None:
        return []
    limit, usage = _FILES[cgroup.version]
    dirs = [root / path.relative_to("/") for path in cgroup.dirs]
    texts = ((read_text(d / limit), d) for d in dirs)
    found = [
        parse_memory_limit(text, read_text(d / usage), read_text(d / "memory.stat"))
        for text, d in texts
        if text
    ]
    return [limit for limit in found if limit is not None]


_FILES = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}


def limit_ram(host: Ram, limits: Iterable[MemoryLimit]) -> Ram:
    """The host's RAM, cut down to the tightest limit."""
    limits = list(limits)
    total = min([host.total_bytes, *(limit.limit_bytes for limit in limits)])
    free = min([host.free_bytes, total, *(limit.free_bytes for limit in limits)])
    return Ram(total, free, host.swap_total_bytes, host.swap_free_bytes)


def parse_memory_limit(limit_text: str, usage_text: str, stat_text: str) -> MemoryLimit | None:
    """One cgroup's limit from its files, v1 or v2; None where it sets none.

    What is used counts without the file cache that the kernel would drop first (inactive_file): a
    model that was read once must not look like memory that is taken.
    """
    stat = dict(line.split(maxsplit=1) for line in stat_text.splitlines() if " " in line)
    # v1 shows in its statistics what groups above allow, even those a container cannot see.
    texts = [limit_text.strip(), stat.get("hierarchical_memory_limit", "max")]
    limits = [int(text) for text in texts if text.isdigit() and int(text) < _UNLIMITED_BYTES]
    if not limits:
        return None
    usage = int(usage_text) if usage_text.strip().isdigit() else 0
    cache = int(stat.get("total_inactive_file", stat.get("inactive_file", "0")))
    limit = min(limits)
    return MemoryLimit(limit, max(0, min(limit, limit - usage + cache)))


def parse_meminfo(text: str) -> Ram:
    """/proc/meminfo. Kernels before 3.14 lack MemAvailable: free and cached pages stand for it."""
    kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.M)}
    rough = kib.get("MemFree", 0) + kib.get("Buffers", 0) + kib.get("Cached", 0)
    return Ram(
        total_bytes=kib.get("MemTotal", 0) * 1024,
        free_bytes=kib.get("MemAvailable", rough) * 1024,
        swap_total_bytes=kib.get("SwapTotal", 0) * 1024,
        swap_free_bytes=kib.get("SwapFree", 0) * 1024,
    )


def parse_vm_stat(text: str) -> int:
    """Bytes that macOS can give without swapping: free, speculative and inactive pages of `vm_stat`."""
    page = re.search(r"page size of (\d+) bytes", text)
    counts = {name: int(n) for name, n in re.findall(r"^Pages ([\w -]+):\s+(\d+)\.$", text, re.M)}
    pages = sum(counts.get(name, 0) for name in ("free", "speculative", "inactive"))
    return pages * (int(page[1]) if page else 4096)


def parse_swapusage(text: str) -> tuple[int, int]:
    """Total and free bytes of swap in macOS's vm.swapusage ("total = 2048.00M  used = …")."""
    mib = {name: float(value) for name, value in re.findall(r"(\w+) = ([\d.]+)M", text)}
    return int(mib.get("total", 0) * 2**20), int(mib.get("free", 0) * 2**20)
