"""A short test of how fast this process can read RAM, over all its threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moetool.machine.procfs import read_text

# A slice takes a core about half a millisecond, and asking the clock between slices nothing against it.
_SLICE_BYTES = 4 << 20
_ROUNDS = 3
# Threads that had less of their cores than this were disturbed by other processes.
_QUIET = 0.9


@dataclass(frozen=True)
class Reading:
    """Bytes per second that all threads read together, and whether they had their cores to themselves."""

    bytes_s: float
    quiet: bool


def measure_reading(n_threads: int, free_bytes: int, budget_s: float = 0.9) -> Reading:
    """Read RAM with `n_threads` for about `budget_s`; the middle one of a few rounds, of those that nobody
    disturbed where there are any.

    A maximum over int32 is the fastest reader numpy has (its loop is vectorised and lets go of the
    interpreter's lock). Every thread reads memory that it wrote itself, so that on machines with several
    memory controllers each reads its own.
    """
    size = size_per_thread(n_threads, free_bytes, read_cache_bytes())
    start = threading.Barrier(n_threads)
    rounds: list[list[Reading]] = [[] for _ in range(n_threads)]
    seconds = budget_s / _ROUNDS
    threads = [
        threading.Thread(target=_read, args=(size, start, seconds, rounds[i])) for i in range(n_threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = [join_readings(of_round) for of_round in zip(*rounds, strict=True)]
    return pick_middle(together)


def pick_middle(readings: Sequence[Reading]) -> Reading:
    """The middle one (of two the lower) of the quiet readings, else of all."""
    chosen = [reading for reading in readings if reading.quiet] or readings
    return sorted(chosen, key=lambda reading: reading.bytes_s)[(len(chosen) - 1) // 2]


def join_readings(readings: tuple[Reading, ...]) -> Reading:
    """Threads that read at the same time: rates add up, one that was disturbed disturbs the sum."""
    total = sum(reading.bytes_s for reading in readings)
    return Reading(total, all(reading.quiet for reading in readings))


def size_per_thread(n_threads: int, free_bytes: int, cache_bytes: int) -> int:
    """Bytes for each thread: well beyond the caches, a small part of what is free, whole slices."""
    wanted = max(128 << 20, 4 * cache_bytes)
    share = min(wanted, free_bytes // 4, 2 << 30) // n_threads
    return max(1, share // _SLICE_BYTES) * _SLICE_BYTES


def _read(size: int, start: threading.Barrier, seconds: float, rounds: list[Reading]) -> None:
    memory = np.ones(size // 4, np.int32)
    slices = list(memory.reshape(-1, _SLICE_BYTES // 4))
    for _ in range(_ROUNDS):
        start.wait()
        rounds.append(_read_for(slices, seconds))


def _read_for(slices: list[np.ndarray[tuple[int], np.dtype[np.int32]]], seconds: float) -> Reading:
    """One thread reads slices, round and round, until the time is over."""
    n_read = 0
    began, began_cpu = time.perf_counter(), time.thread_time()
    while (elapsed := time.perf_counter() - began) < seconds:
        slices[n_read % len(slices)].max()
        n_read += 1
    busy = (time.thread_time() - began_cpu) / elapsed
    return Reading(n_read * _SLICE_BYTES / elapsed, busy > _QUIET)


def read_cache_bytes(root: Path = Path("/")) -> int:
    """Bytes of the last-level caches of all CPUs; 0 where the system does not say."""
    found: dict[str, int] = {}
    for index in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cache/index3"):
        # One cache is listed under each CPU that shares it.
        found[read_text(index / "shared_cpu_list")] = parse_cache_size(read_text(index / "size"))
    return sum(found.values())


def parse_cache_size(text: str) -> int:
    """Bytes of "32768K"; 0 for anything else."""
    text = text.strip()
    return int(text[:-1]) << 10 if text.endswith("K") and text[:-1].isdigit() else 0
