"""Threads to compute with: all that pay, fewer while other programs have some of the cores."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from moetool.machine.load import CoreWatch, threads_beside

# Between two looks: many ticks of the system's clock, so that the figure means something.
_WINDOW_S = 0.5


class SharedCores:
    """How many of `n_threads` to use now. `least` is the smallest number that was ever chosen.

    llama.cpp's threads wait for each other some hundred times a token, and they wait spinning. With one busy
    program more than there are cores free, each wait can last until the system has given that program its
    turn: on two cores beside one such program two threads decoded a 0.1 GB model at 87 tokens a second, one
    thread at 278 (234 with the machine to themselves). Spinning for a shorter time (GOMP_SPINCOUNT) helps in
    neither case: 31 to 157 beside the program, 70 to 280 alone.
    """

    def __init__(
        self,
        n_threads: int,
        watch: CoreWatch,
        n_cpus: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`watch` has begun to look some time ago, `n_cpus` are those that this process may use."""
        self._n_most = n_threads
        self._watch = watch
        self._n_cpus = n_cpus or _read_n_cpus()
        self._clock = clock
        self._next = 0.0
        self.n_threads = n_threads
        self.least = n_threads

    def has_changed(self) -> bool:
        """Look again if it is time for it; whether `n_threads` is another number than before."""
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + _WINDOW_S
        others = self._watch.look()
        if others is None:
            return False
        before, self.n_threads = self.n_threads, threads_beside(self._n_most, self._n_cpus, others)
        self.least = min(self.least, self.n_threads)
        return self.n_threads != before


def _read_n_cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows do not say; there nobody counts either
        return os.cpu_count() or 1
