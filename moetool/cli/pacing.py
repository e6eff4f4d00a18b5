"""How fast each number of experts is, in turns with the model's own: a disturbed machine favours none.

Where two copies of the model fit, both are loaded and take turns: what another number takes is told by its
ratio to the model's own in the same moments. Where they do not, each number is measured there and back. What
the model's own number takes corrects what is predicted for the others (`lab.sparsity.correct`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from moetool.bench.report import BenchRow, Footprint, Predicted
from moetool.bench.speed import SpeedSamples, SpeedTest, Stopwatch
from moetool.cli.answer import load_engine, require_fit
from moetool.cli.bench_rows import (
    keep_samples,
    make_subject,
    memory_use,
    noise_notes,
    predicted,
    read_bench_host,
    run_s,
)
from moetool.cli.interrupt import CtrlC
from moetool.cli.measuring import Matrix, Setting, measure_settings
from moetool.cli.opening import Opened, plan_for
from moetool.engine.model import Engine
from moetool.lab.sparsity import AXIS, LONGEST_TEST, Anchor, choose_tests, correct, join_passes, pace
from moetool.machine import Machine
from moetool.machine.process import read_peak_rss
from moetool.plan import Plan, Wishes
from moetool.render.progress import work_progress

# Turns: as many as there is time for.
_LEAST_TURNS, _MOST_TURNS = 5, 15
_WARM = Stopwatch(1)
_ONCE = Stopwatch(1, warm_tokens=1)


@dataclass(frozen=True)
class Paced:
    """Rows of all numbers (two of each), what is to be known of them, and the plan of the model's own."""

    rows: tuple[BenchRow, ...]
    notes: tuple[str, ...]
    plan: Plan


def measure_speed(
    opened: Opened, machine: Machine, wishes: Wishes, counts: Sequence[int], budget_s: float
) -> Paced:
    """Measure `counts`, the model's own number among them, in about so many seconds."""
    own = opened.anatomy.n_expert_used
    plans = _plans(opened, machine, wishes, counts)
    speed = plans[own].speed
    n_pairs = 2 * max(1, len(counts) - 1)
    n_runs = n_pairs * (_LEAST_TURNS + 1)
    n_prompt, n_gen = choose_tests(speed.prompt_tok_s or 100.0, speed.decode_tok_s or 10.0, n_runs, budget_s)
    tests = (SpeedTest(n_prompt, 0), SpeedTest(0, n_gen))
    turn_s = n_pairs * sum(run_s(plans[own], test) for test in tests)
    n_turns = max(_LEAST_TURNS, min(_MOST_TURNS, int(budget_s / turn_s) - 1))
    two = replace(plans[own].wishes, draft=opened.anatomy)
    notes: list[str] = []
    if plan_for(opened, machine, two).fits:
        rows = _in_turns(opened, plans, tests, n_turns)
    else:
        rows, notes = _there_and_back(opened, plans, tests, (n_turns + 1) // 2)
    own_rows = [row for row in rows if row.point[AXIS] == str(own)]
    for row in own_rows:
        keep_samples(plans[own], row.samples)
    found = tuple(_corrected(row, own_rows, own) for row in rows)
    return Paced(found, (*notes, *noise_notes(found, "--budget")), plans[own])


def _plans(opened: Opened, machine: Machine, wishes: Wishes, counts: Sequence[int]) -> dict[int, Plan]:
    found = {}
    for count in counts:
        found[count] = plan_for(opened, machine, replace(wishes, n_ctx=LONGEST_TEST, experts=count))
        require_fit(found[count], opened.model.name)
    return found


# --- in turns -----------------------------------------------------------------------------------------------


def _in_turns(
    opened: Opened, plans: Mapping[int, Plan], tests: Sequence[SpeedTest], n_turns: int
) -> list[BenchRow]:
    """Rows of all numbers; what the others took beside the model's own is told in its middle pace."""
    own = opened.anatomy.n_expert_used
    others = [count for count in plans if count != own] or [own]
    total_s = 2 * (n_turns + 1) * len(others) * sum(run_s(plans[own], test) for test in tests)
    beside: dict[int, list[tuple[SpeedSamples, SpeedSamples]]] = {}
    made: dict[int, _Made] = {}
    with (
        CtrlC() as ctrl_c,
        work_progress("Measuring", total_s) as on_seconds,
        load_engine(opened, plans[own], ctrl_c.pressed) as mine,
    ):
        made[own] = _Made.of(opened, plans[own], mine)
        for count in others:
            with load_engine(opened, plans[count], ctrl_c.pressed) as other:
                made[count] = made.get(count) or _Made.of(opened, plans[count], other)
                turns = _Turns(mine, other, n_turns, lambda test: on_seconds(2 * run_s(plans[own], test)))
                beside[count] = [turns.measure(test) for test in tests]
    rows = []
    for at in range(len(tests)):
        together = _join([pairs[at][0] for pairs in beside.values()])
        rows.append(made[own].row(together))
        rows += [made[n].row(pace(together, *pairs[at])) for n, pairs in beside.items() if n != own]
    return sorted(rows, key=lambda row: (int(row.point[AXIS]), tests.index(row.samples.test)))


def _join(samples: Sequence[SpeedSamples]) -> SpeedSamples:
    first = samples[0]
    return replace(
        first,
        samples_ns=tuple(ns for one in samples for ns in one.samples_ns),
        first_ns=tuple(ns for one in samples for ns in one.first_ns),
    )


@dataclass(frozen=True)
class _Turns:
    """Two engines that take turns."""

    mine: Engine
    other: Engine
    n_turns: int
    on_turn: Callable[[SpeedTest], None]

    def measure(self, test: SpeedTest) -> tuple[SpeedSamples, SpeedSamples]:
        """What each took, turn by turn."""
        found: tuple[list[SpeedSamples], list[SpeedSamples]] = ([], [])
        for engine in (self.mine, self.other):
            _WARM.measure(engine, SpeedTest(test.n_prompt, min(1, test.n_gen)))
        self.on_turn(test)
        for number in range(self.n_turns):
            # Each goes first as often as the other.
            for at in (0, 1) if number % 2 else (1, 0):
                found[at].append(_ONCE.measure((self.mine, self.other)[at], test))
            self.on_turn(test)
        return _join(found[0]), _join(found[1])


@dataclass(frozen=True)
class _Made:
    """What rows of one number say besides their times."""

    opened: Opened
    plan: Plan
    footprint: Footprint
    when: str

    @classmethod
    def of(cls, opened: Opened, plan: Plan, engine: Engine) -> _Made:
        use = Footprint(memory_use(plan, engine.buffers), read_peak_rss(), ())
        return cls(opened, plan, use, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def row(self, samples: SpeedSamples) -> BenchRow:
        plan = self.plan
        return BenchRow(
            subject=make_subject(self.opened),
            host=read_bench_host(plan),
            settings=plan.settings,
            n_cpu_moe=plan.n_layers_experts_in_ram,
            footprint=self.footprint,
            samples=samples,
            test_time=self.when,
            predicted=predicted(plan, samples.test),
            point={AXIS: str(plan.settings.experts)},
        )


# --- one after the other ------------------------------------------------------------------------------------


def _there_and_back(
    opened: Opened, plans: Mapping[int, Plan], tests: Sequence[SpeedTest], n_each: int
) -> tuple[list[BenchRow], list[str]]:
    """Rows of all numbers, each measured twice, in this order and in the other; and what could not be."""
    settings = [Setting({AXIS: str(count)}, plan) for count, plan in plans.items()]
    matrix = Matrix(Wishes(), tuple(s.point for s in settings), tuple(tests), n_each)
    rows: list[BenchRow] = []
    notes: list[str] = []
    for order in (settings, settings[::-1]):
        more, problems = measure_settings(opened, make_subject(opened), order, matrix)
        rows, notes = [*rows, *more], [*notes, *problems]
    return list(join_passes(rows)), notes


# --- predictions --------------------------------------------------------------------------------------------


def _corrected(row: BenchRow, own_rows: Sequence[BenchRow], own: int) -> BenchRow:
    """A row of another number with its prediction corrected by what the model's own took."""
    mine = next(one for one in own_rows if one.samples.test == row.samples.test)
    experts, expected, anchor_tok_s = int(row.point[AXIS]), row.predicted, mine.predicted.tok_s
    if experts == own or anchor_tok_s is None or not (expected.tok_s and expected.low and expected.high):
        return row
    anchor = Anchor(own, anchor_tok_s, mine.samples.median_tok_s)
    middle = correct(anchor, experts, expected.tok_s)
    factor = middle / expected.tok_s
    return replace(row, predicted=Predicted(middle, expected.low * factor, expected.high * factor))
