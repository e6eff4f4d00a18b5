"""Cores that other programs use: what the system counts, and how many threads are left to compute with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from moetool.assets import demo_model_path
from moetool.engine.model import Engine
from moetool.engine.threads import SharedCores
from moetool.machine.load import CoreWatch, parse_busy_ticks, threads_beside
from moetool.settings import Settings

STAT = """cpu  1000 20 300 9000 40 5 6 0 0 0
cpu0 400 10 100 4000 10 1 2 0 0 0
cpu1 600 10 200 5000 30 4 4 9 0 0
intr 12345 0 0
"""


def test_only_the_cpus_that_we_may_use_are_counted_and_idling_is_not() -> None:
    assert parse_busy_ticks(STAT, {0, 1}) == 513 + 818
    assert parse_busy_ticks(STAT, {1}) == 818
    assert parse_busy_ticks("", {0}) == 0


@pytest.mark.parametrize(
    ("n_threads", "n_cpus", "others", "left"),
    [
        (2, 2, 0.0, 2),
        (2, 2, 0.4, 2),  # two threads that lack a core for 0.4 of the time do 1.2 of one's work
        (2, 2, 0.67, 1),  # what a busy program gets beside two threads
        (2, 2, 1.0, 1),
        (2, 2, 2.0, 1),
        (16, 16, 0.1, 16),  # nobody: the system itself
        (16, 16, 0.5, 15),
        (16, 16, 1.0, 15),
        (16, 16, 3.2, 12),
        (8, 16, 7.0, 8),  # the others have cores of their own
        (8, 16, 9.0, 7),
        (1, 1, 1.0, 1),
    ],
)
def test_threads_beside_other_programs(n_threads: int, n_cpus: int, others: float, left: int) -> None:
    assert threads_beside(n_threads, n_cpus, others) == left


class Scripted(CoreWatch):
    """A watch that sees what it is told to."""

    def __init__(self, seen: list[float | None]) -> None:
        super().__init__(lambda: 0.0)
        self._seen: Iterator[float | None] = iter(seen)

    def look(self) -> float | None:
        return next(self._seen)


def test_threads_go_when_a_program_comes_and_come_back_when_it_ends() -> None:
    now = [0.0]
    cores = SharedCores(4, Scripted([0.0, 1.0, None, 0.0]), 4, lambda: now[0])
    found = []
    for at in (0.0, 0.1, 0.6, 0.7, 1.2, 1.8):  # looks at 0, 0.6, 1.2 and 1.8 seconds
        now[0] = at
        found.append((cores.has_changed(), cores.n_threads))
    assert found == [(False, 4), (False, 4), (True, 3), (False, 3), (False, 3), (True, 4)]
    assert cores.least == 3


def test_a_watch_counts_what_others_took_since_the_last_look() -> None:
    readings = iter([10.0, 10.0, None, 1e9])
    watch = CoreWatch(lambda: next(readings))
    assert watch.look() == 0.0
    assert watch.look() is None
    assert (watch.look() or 0) > 1e3


def test_the_engine_computes_with_the_threads_that_are_left() -> None:
    settings = Settings(n_ctx=64, n_threads=2, n_threads_batch=2)
    with Engine([demo_model_path()], settings, "qwen3moe") as engine:
        assert engine.n_threads == 2
        engine.share_cores(SharedCores(2, Scripted([2.0]), 2))
        engine.decode([1, 2])
        assert engine.n_threads == 1
        assert not engine.had_its_threads
