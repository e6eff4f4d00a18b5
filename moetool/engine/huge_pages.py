"""Weights on huge pages: streaming through them for each token then waits less for translated addresses.

Worth 1 - 6 % of a token on a virtual machine. Linux gives them to who asks, and not to pages of a file.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from moetool.machine.procfs import read_text

# Two huge pages of most processors: in less there may be no place for a whole one.
_LEAST_BYTES = 4 << 20
_MAPS = Path("/proc/self/maps")
_ANONYMOUS = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw-p 0+ 00:00 0 *$", re.M)

Range = tuple[int, int]


class NewMemory:
    """The memory that llama.cpp takes between the making of this and a call of `advise_huge`."""

    def __init__(self) -> None:
        self._before: Sequence[Range] | None = _read_ranges()

    def advise_huge(self) -> None:
        """Ask the system (Linux; elsewhere nothing happens) to lay it on huge pages. What is written already
        is not moved at once, so only the first call, before the weights are read, does anything."""
        before, self._before = self._before, None
        advice = getattr(mmap, "MADV_HUGEPAGE", None)
        if before is None or advice is None:
            return
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for start, end in without(_read_ranges(), before):
            madvise(start, end - start, advice)  # a refusal changes nothing


def _read_ranges() -> list[Range]:
    return parse_ranges(read_text(_MAPS))


def parse_ranges(maps_text: str) -> list[Range]:
    """Where the writable memory without a file and a name lies, from /proc/self/maps."""
    return [(int(start, 16), int(end, 16)) for start, end in _ANONYMOUS.findall(maps_text)]


def without(ranges: Iterable[Range], others: Iterable[Range]) -> list[Range]:
    """The large parts of `ranges` that are in none of `others`: the system joins neighbours."""
    left = [part for part in ranges if _is_large(*part)]
    for low, high in others:
        parts = [part for start, end in left for part in ((start, min(end, low)), (max(start, high), end))]
        left = [part for part in parts if _is_large(*part)]
    return left


def _is_large(start: int, end: int) -> bool:
    return end - start >= _LEAST_BYTES
