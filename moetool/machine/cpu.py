"""Cores: how many there are, which of them this process may use, and how many threads pay."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from moetool.machine.procfs import parse_cgroup, read_text


@dataclass(frozen=True)
class Cores:
    """Physical cores, their hardware threads, and the threads that are sensible to compute with.

    A matrix product waits for its slowest thread: a second thread on a core, an efficiency core, or a
    thread that the cgroup's quota stops makes every other one wait.
    """

    n_cores: int
    n_hw_threads: int
    n_threads: int


def read_linux_cores(root: Path = Path("/")) -> Cores:
    """Cores from /sys, cut by affinity and CPU quota. `root` is where /proc and /sys lie."""
    cpus = root / "sys/devices/system/cpu"
    allowed = parse_allowed(read_text(root / "proc/self/status"))
    online = parse_cpu_list(read_text(cpus / "online"))
    usable = (allowed & online) or allowed or online or frozenset(range(os.cpu_count() or 1))
    siblings = read_siblings(cpus, usable)
    fast = parse_cpu_list(read_text(root / "sys/devices/cpu_core/cpus")) or parse_fast(
        {cpu: read_text(cpus / f"cpu{cpu}/cpu_capacity") for cpu in siblings}
    )
    return count_cores(siblings, fast, len(usable), read_quota(root))


def read_siblings(cpus: Path, usable: Collection[int]) -> dict[int, frozenset[int]]:
    """The hardware threads of each core that may be used, by the first of them."""
    found: dict[int, frozenset[int]] = {}
    seen: set[int] = set()
    for cpu in sorted(usable):
        # One file a core is enough: a core's other threads are named in it.
        if cpu not in seen:
            text = read_text(cpus / f"cpu{cpu}/topology/thread_siblings_list")
            found[cpu] = parse_cpu_list(text) | {cpu}
            seen |= found[cpu]
    return found


def count_cores(
    siblings: Mapping[int, frozenset[int]], fast: Collection[int], n_hw_threads: int, quota: float | None
) -> Cores:
    """Cores and sensible threads; `quota` is how many CPUs' time the cgroup grants (None: all)."""
    n_fast = sum(1 for cpu in siblings if cpu in fast) or len(siblings)
    n_threads = n_fast if quota is None else min(n_fast, int(quota))
    return Cores(len(siblings), n_hw_threads, max(1, n_threads))


def read_quota(root: Path) -> float | None:
    """The tightest CPU quota on this process's cgroup path, in CPUs; None where there is none."""
    proc = root / "proc/self"
    cgroup = parse_cgroup("cpu", read_text(proc / "cgroup"), read_text(proc / "mountinfo"))
    quotas = []
    for path in cgroup.dirs if cgroup else ():
        here = root / path.relative_to("/")
        v1 = f"{read_text(here / 'cpu.cfs_quota_us')} {read_text(here / 'cpu.cfs_period_us')}"
        quotas.append(parse_quota(read_text(here / "cpu.max") if cgroup and cgroup.version == 2 else v1))
    return min((quota for quota in quotas if quota is not None), default=None)


def parse_quota(text: str) -> float | None:
    """CPUs granted by "QUOTA PERIOD" in microseconds ("150000 100000" is 1.5; "max" and -1: no limit)."""
    words = text.split()
    if len(words) != 2 or not all(word.isdigit() and int(word) > 0 for word in words):
        return None
    return int(words[0]) / int(words[1])


def parse_allowed(status_text: str) -> frozenset[int]:
    """CPUs in the affinity mask, from /proc/self/status; it may name some that are offline."""
    found = re.search(r"^Cpus_allowed_list:\s*(\S+)$", status_text, re.M)
    return parse_cpu_list(found[1]) if found else frozenset()


def parse_cpu_list(text: str) -> frozenset[int]:
    """The kernel's list form: "0-3,8,10-11"."""
    ranges = re.findall(r"(\d+)(?:-(\d+))?", text)
    return frozenset(cpu for first, last in ranges for cpu in range(int(first), int(last or first) + 1))


def parse_fast(capacities: Mapping[int, str]) -> frozenset[int]:
    """The cores that are worth a thread, by the kernel's cpu_capacity (1024 is the fastest core).

    Two thirds of the fastest: big and prime cores of phone and board chips stay, little ones go.
    """
    known = {cpu: int(text) for cpu, text in capacities.items() if text.strip().isdigit()}
    return frozenset(cpu for cpu, capacity in known.items() if 3 * capacity >= 2 * max(known.values()))


def parse_cpu_name(cpuinfo_text: str, board_text: str) -> str:
    """The CPU's name from /proc/cpuinfo, else the board's (ARM kernels name no model), else ""."""
    found = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", cpuinfo_text, re.M)
    return found[1].strip() if found else board_text.strip("\0\n ")


def read_cpu_flags(root: Path = Path("/")) -> frozenset[str]:
    """Instruction sets of the first CPU; empty where /proc/cpuinfo does not say."""
    return parse_cpu_flags(read_text(root / "proc/cpuinfo", 8192))


def parse_cpu_flags(cpuinfo_text: str) -> frozenset[str]:
    """Names like "avx2", "avx512f", … (x86) or "asimddp", … (ARM)."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo_text, re.M)
    return frozenset(found[1].split()) if found else frozenset()


def parse_sysctl(text: str) -> dict[str, str]:
    """macOS's `sysctl NAME …`: one "name: value" a line."""
    lines = (line.partition(": ") for line in text.splitlines())
    return {name: value for name, separator, value in lines if separator}


def parse_macos_cores(sysctl: Mapping[str, str]) -> Cores:
    """Cores from `sysctl hw`; where there are performance cores (level 0), threads go to those."""
    n_cores = int(sysctl.get("hw.physicalcpu", "1"))
    n_hw_threads = int(sysctl.get("hw.logicalcpu", n_cores))
    return Cores(n_cores, n_hw_threads, int(sysctl.get("hw.perflevel0.physicalcpu", n_cores)))


def guess_cores(n_hw_threads: int) -> Cores:
    """Where nothing names cores (Windows): llama.cpp's own rule, half the threads above four."""
    n_cores = n_hw_threads if n_hw_threads <= 4 else n_hw_threads // 2
    return Cores(n_cores, n_hw_threads, n_cores)
