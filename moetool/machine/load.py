"""What other programs leave of the cores, from the CPU time that the system has counted."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection
from pathlib import Path

_STAT = Path("/proc/stat")
# Less than this much of a core is nobody: ticks are coarse, and every system does a little all the time.
_NOBODY = 0.15


class CoreWatch:
    """How many cores other processes kept busy between two looks."""

    def __init__(self, read: Callable[[], float | None] | None = None) -> None:
        """The first look. `read` gives the CPU seconds of all other processes, None where nobody counts."""
        self._read = read or read_others_s
        self._at = time.perf_counter()
        self._others_s = self._read()

    def look(self) -> float | None:
        """Cores that others kept busy since the last look, on average; None where the system does not say."""
        now, others_s = time.perf_counter(), self._read()
        if others_s is None or self._others_s is None or now <= self._at:
            return None
        cores = max(0.0, others_s - self._others_s) / (now - self._at)
        self._at, self._others_s = now, others_s
        return cores


def read_others_s() -> float | None:
    """CPU seconds that other processes have taken on the cores that this one may use."""
    try:
        stat = _STAT.read_text()
        allowed = os.sched_getaffinity(0)
    except (OSError, AttributeError):
        return None
    ticks_s = os.sysconf("SC_CLK_TCK")
    return parse_busy_ticks(stat, allowed) / ticks_s - time.process_time()


def parse_busy_ticks(stat_text: str, cpus: Collection[int]) -> int:
    """Ticks of user, nice, system and interrupts that /proc/stat counts for `cpus`."""
    total = 0
    for cpu, counts in re.findall(r"(?m)^cpu(\d+) (.*)$", stat_text):
        if int(cpu) in cpus:
            user, nice, system, _idle, _iowait, irq, softirq = map(int, counts.split()[:7])
            total += user + nice + system + irq + softirq
    return total


def threads_beside(n_threads: int, n_cpus: int, others: float) -> int:
    """How many of `n_threads` pay where other programs keep `others` of `n_cpus` busy.

    A matrix product is done when its slowest thread is: while another program is on the core of one thread,
    all of them wait. So n threads progress as n x (1 - the part of the time that one of them lacks a core).
    """
    if others < _NOBODY:
        return n_threads

    def progress(n: int) -> float:
        lacking = max(0.0, others - (n_cpus - n))
        return n * (1 - min(1.0, lacking))

    return max(range(1, n_threads + 1), key=progress)
