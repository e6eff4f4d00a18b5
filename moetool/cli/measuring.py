"""What `bench` does once its flags are read: plan every setting, load what they need, measure each test."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from moetool.bench.front import mark_front
from moetool.bench.matrix import Point
from moetool.bench.report import (
    Benchmark,
    BenchRow,
    DeviceUse,
    Footprint,
    Host,
    LoadTime,
    Predicted,
    Subject,
)
from moetool.bench.speed import NOISY, SpeedSamples, SpeedTest, Stopwatch
from moetool.cli.answer import load_engine, require_fit
from moetool.cli.interrupt import CtrlC
from moetool.cli.opening import Opened, plan_for, read_this_machine
from moetool.cli.recording import Measured, keep_measured
from moetool.cli.sweeping import at_point, show_point
from moetool.engine.devices import device_of_buffer, read_build
from moetool.engine.library import LLAMA_CPP_COMMIT
from moetool.engine.measured import BufferSize
from moetool.engine.model import Engine
from moetool.errors import DoesNotFit, EngineError, MoetoolError, UsageError
from moetool.machine import Machine
from moetool.machine.energy import EnergyMeters, read_meters
from moetool.machine.process import read_disk_bytes, read_peak_rss, reset_peak_rss
from moetool.plan import Plan, Wishes
from moetool.render.progress import work_progress
from moetool.speed import Load

# Of a file's bytes: a load that had to fetch more of them from the disk was cold, one that fetched less warm.
_COLD, _WARM = 0.5, 0.01


@dataclass(frozen=True)
class Matrix:
    """What is to be measured: each test under each point's change of the wishes."""

    wishes: Wishes
    points: tuple[Point, ...]
    tests: tuple[SpeedTest, ...]
    repetitions: int

    @property
    def n_ctx(self) -> int:
        """The context that the longest test needs."""
        return max(test.n_tokens + test.n_depth for test in self.tests)


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
    total_s = sum(run_s(s.plan, test) for s in settings for test in matrix.tests) * (matrix.repetitions + 1)
    rows: list[BenchRow] = []
    with CtrlC() as ctrl_c, work_progress("Measuring", total_s) as on_seconds:
        session = _Session(opened, matrix, read_meters(), ctrl_c.pressed, on_seconds)
        for group in by_load(settings):
            try:
                rows += session.measure_group(group)
            except EngineError as error:
                if len(settings) == 1:
                    raise
                notes.append(f"Not measured, {show_point(group[0].point)}: {error.message}")
    if not rows:
        raise EngineError("Nothing could be measured", "; ".join(notes))
    order = {id(test): at for at, test in enumerate(matrix.tests)}
    at_points = {tuple(point.items()): at for at, point in enumerate(matrix.points)}
    rows.sort(key=lambda row: (at_points[tuple(row.point.items())], order[id(row.samples.test)]))
    return Benchmark(mark_front(rows), (*notes, *noise_notes(rows)))


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


def run_s(plan: Plan, test: SpeedTest) -> float:
    """About how long one run takes, in seconds, or in tokens where no speed is known."""
    speed = plan.predict(load_of_test(plan, test))
    prompt = test.n_prompt / (speed.prompt_tok_s or 1.0)
    return prompt + test.n_gen / (speed.decode_tok_s or 1.0)


def load_of_test(plan: Plan, test: SpeedTest) -> Load:
    """What a test asks of the model."""
    return Load(n_prompt=test.n_prompt or 512, n_ubatch=plan.settings.n_ubatch, depth=test.n_depth)


# --- measuring ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Session:
    """Measuring under way: the model, what is measured of it, and what the user sees and may stop."""

    opened: Opened
    matrix: Matrix
    meters: EnergyMeters
    is_cancelled: Callable[[], bool]
    on_seconds: Callable[[float], None]

    def measure_group(self, group: Sequence[Setting]) -> list[BenchRow]:
        """All tests of the settings that share a load."""
        first = group[0].plan
        loads: list[LoadTime] = []
        reset_peak_rss()
        read_before = read_disk_bytes()
        with load_engine(self.opened, first, self.is_cancelled) as engine:
            loads.append(self._load_time(engine, read_before))
            if not loads[0].is_cold:
                return [row for s in group for row in self._measure(engine, s, loads)]
        # Once more, from memory now.
        with load_engine(self.opened, first, self.is_cancelled) as engine:
            loads.append(LoadTime(engine.load_s, None, is_cold=False))
            return [row for s in group for row in self._measure(engine, s, loads)]

    def _load_time(self, engine: Engine, read_before: int | None) -> LoadTime:
        read_after = read_disk_bytes()
        if read_before is None or read_after is None:
            return LoadTime(engine.load_s, None, None)
        n_bytes = read_after - read_before
        share = n_bytes / max(1, self.opened.anatomy.weights_bytes)
        return LoadTime(engine.load_s, n_bytes, True if share > _COLD else False if share < _WARM else None)

    def _measure(self, engine: Engine, setting: Setting, loads: Sequence[LoadTime]) -> list[BenchRow]:
        plan = setting.plan
        if plan.settings != engine.settings:
            reset_peak_rss()
            engine.change_context(plan.settings)
        stopwatch = Stopwatch(
            self.matrix.repetitions,
            on_run=lambda test: self.on_seconds(run_s(plan, test)),
            energy_j=self.meters.read_j,
        )
        rows = []
        for test in self.matrix.tests:
            when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            samples = stopwatch.measure(engine, test)
            keep_samples(plan, samples)
            use = Footprint(memory_use(plan, engine.buffers), read_peak_rss(), tuple(loads))
            rows.append(self._row(setting, samples, use, when))
        return rows

    def _row(self, setting: Setting, samples: SpeedSamples, use: Footprint, test_time: str) -> BenchRow:
        plan, anatomy = setting.plan, self.opened.anatomy
        return BenchRow(
            subject=Subject(
                filename=str(self.opened.model.paths[0]),
                kind=f"{anatomy.name} {anatomy.quant}",
                size_bytes=anatomy.weights_bytes,
                n_params=anatomy.n_params,
            ),
            host=read_bench_host(plan),
            settings=plan.settings,
            n_cpu_moe=plan.n_layers_experts_in_ram,
            footprint=use,
            samples=samples,
            test_time=test_time,
            predicted=predicted(plan, samples.test),
            point=setting.point,
        )


def keep_samples(plan: Plan, samples: SpeedSamples) -> None:
    """Let later predictions learn from a test of a prompt or of a generation alone."""
    test, tok_s = samples.test, samples.median_tok_s
    load = load_of_test(plan, test)
    if not test.n_gen:
        keep_measured(plan, Measured(load, prompt_tok_s=tok_s), "bench")
    elif not test.n_prompt:
        keep_measured(plan, Measured(load, decode_tok_s=tok_s), "bench")


def memory_use(plan: Plan, buffers: Sequence[BufferSize]) -> tuple[DeviceUse, ...]:
    """By device: what the plan says, and the buffers that llama.cpp has made."""
    made: dict[str, int] = {}
    for buffer in buffers:
        device = device_of_buffer(buffer.buffer)
        made[device] = made.get(device, 0) + buffer.n_bytes
    promised = {row.device: row.total_bytes for row in plan.memory}
    names = dict.fromkeys((*promised, *made))
    return tuple(DeviceUse(name, promised.get(name, 0), made.get(name, 0)) for name in names)


def read_bench_host(plan: Plan) -> Host:
    """What computed."""
    build, settings = read_build(), plan.settings
    gpus = [device for device in plan.machine.devices if device.name in settings.devices]
    return Host(
        cpu_name=plan.machine.cpu_name,
        gpu_names=", ".join(device.description for device in gpus),
        backends=",".join(_backends(build.backends, settings.devices)),
        commit=LLAMA_CPP_COMMIT,
        package=build.llama_cpp_python,
    )


def _backends(built: Sequence[str], devices: Sequence[str]) -> list[str]:
    """What may have computed: the build's back ends, "RPC" only where a worker did ("RPC[address]" is another
    name of it)."""
    local = [name for name in dict.fromkeys(built) if not name.startswith("RPC")]
    return [*local, "RPC"] if any(name.startswith("RPC") for name in devices) else local


def predicted(plan: Plan, test: SpeedTest) -> Predicted:
    """What was predicted of a test; of a prompt with a generation after it, from both."""
    speed = plan.predict(load_of_test(plan, test))
    if not test.n_gen:
        return Predicted(speed.prompt_tok_s, speed.prompt_low, speed.prompt_high)
    if not test.n_prompt:
        return Predicted(speed.decode_tok_s, speed.decode_low, speed.decode_high)
    return Predicted(
        _together(test, speed.prompt_tok_s, speed.decode_tok_s),
        _together(test, speed.prompt_low, speed.decode_low),
        _together(test, speed.prompt_high, speed.decode_high),
    )


def _together(test: SpeedTest, prompt_tok_s: float | None, decode_tok_s: float | None) -> float | None:
    if not prompt_tok_s or not decode_tok_s:
        return None
    return test.n_tokens / (test.n_prompt / prompt_tok_s + test.n_gen / decode_tok_s)


def noise_notes(rows: Sequence[BenchRow]) -> tuple[str, ...]:
    """What must be said of rows whose repetitions differ much."""
    noisy = [row for row in rows if row.samples.variation > NOISY]
    if not noisy:
        return ()
    worst = max(noisy, key=lambda row: row.samples.variation)
    return (
        f"{len(noisy)} of {len(rows)} rows are noisy: repetitions differ by up to "
        f"{worst.samples.variation:.0%} ({worst.samples.test.name}, coefficient of variation). "
        "Close what else runs, or take the medians of more with -r.",
    )
