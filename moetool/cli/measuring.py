"""What `bench` does once its flags are read: plan every setting, load what they need, measure each test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from moetool.bench.front import mark_front
from moetool.bench.matrix import Point
from moetool.bench.report import Benchmark, BenchRow, Footprint, LoadTime, Subject
from moetool.bench.speed import SpeedTest, Stopwatch
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
from moetool.cli.opening import Opened, plan_for, read_this_machine
from moetool.cli.priced import show_price
from moetool.cli.sweeping import at_point, show_point
from moetool.engine.model import Engine
from moetool.errors import DoesNotFit, EngineError, MoetoolError, UsageError
from moetool.machine import Machine
from moetool.machine.energy import read_meters
from moetool.machine.process import read_disk_bytes, read_peak_rss, reset_peak_rss
from moetool.plan import Plan, Wishes
from moetool.render.progress import work_progress

# Of a file's bytes: a load that had to fetch more of them from the disk was cold, one that fetched less warm.
_COLD, _WARM = 0.5, 0.01

Extra = Mapping[str, float | int | str | None]


def nothing_else(_engine: Engine, _plan: Plan) -> Extra:
    """No figures of a setting besides its speed and memory."""
    return {}


@dataclass(frozen=True)
class Matrix:
    """What is to be measured: each test under each point's change of the wishes. `examine` finds out what
    else is wanted of a setting while it is loaded: further figures, by the name of their column. A prompt is
    warmed up by `warm_tokens` of it (None: all)."""

    wishes: Wishes
    points: tuple[Point, ...]
    tests: tuple[SpeedTest, ...]
    repetitions: int
    examine: Callable[[Engine, Plan], Extra] = nothing_else
    warm_tokens: int | None = None

    @property
    def n_ctx(self) -> int:
        """The context that the longest test needs."""
        return max((test.n_tokens + test.n_depth for test in self.tests), default=0)


@dataclass(frozen=True)
class Setting:
    """One point, planned."""

    point: Point
    plan: Plan


def measure_all(opened: Opened, matrix: Matrix, rpc: str | None = None) -> Benchmark:
    """Measure every test under every setting that can be; the others become notes. Raises what is wrong with
    the first of them when none can be."""
    machine = read_this_machine(rpc=rpc, measure="again")
    settings, notes = plan_points(opened, machine, matrix)
    if matrix.wishes.experts is not None:
        show_price(settings[0].plan, opened)
    rows, failures = measure_settings(opened, make_subject(opened), settings, matrix)
    plans = {id(setting.plan.settings): setting.plan for setting in settings}
    for row in rows:
        keep_samples(plans[id(row.settings)], row.samples)
    return replace(finish(rows, matrix, [*notes, *failures]), plan=settings[0].plan)


def finish(rows: Sequence[BenchRow], matrix: Matrix, notes: Sequence[str]) -> Benchmark:
    """The rows in the order in which they were asked for, the best of them marked, and what is to be said."""
    tests = {id(test): at for at, test in enumerate(matrix.tests)}
    points = {tuple(point.items()): at for at, point in enumerate(matrix.points)}
    ordered = sorted(rows, key=lambda row: (points[tuple(row.point.items())], tests[id(row.samples.test)]))
    return Benchmark(mark_front(ordered), (*notes, *noise_notes(ordered)))


# --- planning -----------------------------------------------------------------------------------------------


def plan_points(opened: Opened, machine: Machine, matrix: Matrix) -> tuple[list[Setting], list[str]]:
    """The points that can be, planned, and a sentence for each other one. Two points that come to the same
    settings are measured once."""
    planned: list[Setting] = []
    notes: list[str] = []
    first: MoetoolError | None = None
    wishes = _long_enough(matrix)
    for point in matrix.points:
        try:
            plan = plan_for(opened, machine, at_point(wishes, point))
            require_fit(plan, opened.model.name)
        except (UsageError, DoesNotFit) as error:
            first = first or error
            notes.append(f"Not measured, {show_point(point)}: {error.message}")
            continue
        same = next((s for s in planned if s.plan.settings == plan.settings), None)
        if same is None:
            planned.append(Setting(point, plan))
        else:
            notes.append(f"{show_point(point)} comes to the same settings as {show_point(same.point)}")
    if first is not None and not planned:
        raise first
    return planned, notes


def _long_enough(matrix: Matrix) -> Wishes:
    wishes = matrix.wishes
    if wishes.n_ctx is not None and 0 < wishes.n_ctx < matrix.n_ctx:
        raise UsageError(
            f"--ctx {wishes.n_ctx} is too short for a test of {matrix.n_ctx} tokens", "leave --ctx out"
        )
    return replace(wishes, n_ctx=wishes.n_ctx or matrix.n_ctx)


def by_load(settings: Sequence[Setting]) -> list[list[Setting]]:
    """The settings in groups that share a loaded model."""
    groups: dict[tuple[object, ...], list[Setting]] = {}
    for setting in settings:
        groups.setdefault(setting.plan.settings.load_part, []).append(setting)
    return list(groups.values())


# --- measuring ----------------------------------------------------------------------------------------------


def measure_settings(
    opened: Opened, subject: Subject, settings: Sequence[Setting], matrix: Matrix
) -> tuple[list[BenchRow], list[str]]:
    """Rows of all tests under all settings, and a sentence for each setting that llama.cpp could not load.
    EngineError when it could load none."""
    total_s = sum(run_s(s.plan, test) for s in settings for test in matrix.tests) * (matrix.repetitions + 1)
    rows: list[BenchRow] = []
    notes: list[str] = []
    with CtrlC() as ctrl_c, work_progress("Measuring", total_s) as on_seconds:
        session = _Session(opened, subject, matrix, ctrl_c.pressed, on_seconds)
        groups = by_load(settings)
        for group in groups:
            try:
                for row in session.measure_group(group):
                    rows.append(row)  # one by one: what was measured before an error stays
            except EngineError as error:
                if not rows and group is groups[-1]:
                    raise
                done = {id(row.settings) for row in rows}
                left = [setting for setting in group if id(setting.plan.settings) not in done]
                notes += [f"Not measured, {show_point(s.point)}: {error.message}" for s in left]
    return rows, notes


@dataclass(frozen=True)
class _Session:
    """Measuring under way: the model, what is measured of it, and what the user sees and may stop."""

    opened: Opened
    subject: Subject
    matrix: Matrix
    is_cancelled: Callable[[], bool]
    on_seconds: Callable[[float], None]

    def measure_group(self, group: Sequence[Setting]) -> Iterator[BenchRow]:
        """All tests of the settings that share a load."""
        with self._loaded(group[0].plan) as (engine, load):
            if not load.is_cold:
                for setting in group:
                    yield from self._measure(engine, setting, (load,))
                return
        # Once more, from memory now.
        with self._loaded(group[0].plan) as (engine, warm):
            for setting in group:
                yield from self._measure(engine, setting, (load, warm))

    @contextmanager
    def _loaded(self, plan: Plan) -> Iterator[tuple[Engine, LoadTime]]:
        reset_peak_rss()
        before = read_disk_bytes()
        with load_engine(self.opened, plan, self.is_cancelled) as engine:
            after = read_disk_bytes()
            if before is None or after is None:
                yield engine, LoadTime(engine.load_s, None, None)
                return
            share = (after - before) / max(1, self.opened.anatomy.weights_bytes)
            is_cold = True if share > _COLD else False if share < _WARM else None
            yield engine, LoadTime(engine.load_s, after - before, is_cold)

    def _measure(self, engine: Engine, setting: Setting, loads: tuple[LoadTime, ...]) -> Iterator[BenchRow]:
        plan = setting.plan
        if plan.settings != engine.settings:
            reset_peak_rss()
            engine.change_context(plan.settings)
        stopwatch = Stopwatch(
            self.matrix.repetitions,
            on_run=lambda test: self.on_seconds(run_s(plan, test)),
            energy_j=read_meters().read_j,
            warm_tokens=self.matrix.warm_tokens,
        )
        measured = []
        for test in self.matrix.tests:
            when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            measured.append((stopwatch.measure(engine, test), when))
        use = Footprint(memory_use(plan, engine.buffers), read_peak_rss(), loads)
        extra = self.matrix.examine(engine, plan)
        for samples, when in measured:
            yield BenchRow(
                subject=self.subject,
                host=read_bench_host(plan),
                settings=plan.settings,
                n_cpu_moe=plan.n_layers_experts_in_ram,
                footprint=use,
                samples=samples,
                test_time=when,
                predicted=predicted(plan, samples.test),
                point=setting.point,
                extra=extra,
            )
