"""`bench --header-only` of a large model: two parts of it, and a line through them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from moetool.anatomy import Anatomy
from moetool.bench.extrapolate import Line
from moetool.bench.report import Benchmark, BenchRow, DeviceUse, Footprint
from moetool.bench.speed import SpeedSamples, SpeedTest
from moetool.cli.bench_rows import make_subject, predicted
from moetool.cli.header_only import (
    UNKNOWN,
    HeaderOf,
    free_ram,
    measure_made_up,
    ram_for_copies,
    stand_in,
    with_tests,
)
from moetool.cli.measuring import Matrix, Setting, finish, plan_points
from moetool.cli.opening import plan_for
from moetool.cli.sweeping import at_point
from moetool.errors import DoesNotFit
from moetool.machine import Machine
from moetool.memory import make_placement
from moetool.plan import Plan, Wishes
from moetool.standin import Samples, choose_samples, first_layers

# What the larger part should take, with what llama.cpp copies of it: more would only take longer.
_ENOUGH_BYTES = 2 << 30
# How many times the layers between both parts may lie beyond the larger one: noise grows as much.
_FARTHEST = 10


@dataclass(frozen=True)
class Parts:
    """Which parts of a model stand for it, and how all of it would be placed."""

    plan: Plan
    samples: Samples


def choose_parts(found: HeaderOf, machine: Machine, wishes: Wishes) -> Parts:
    """Two parts to make up. DoesNotFit where there is room for none, or where the model's layers would lie in
    several places: then two parts say nothing of the rest."""
    plan = plan_for(stand_in(found), machine, replace(wishes, n_ctx=wishes.n_ctx or 1024))
    return Parts(plan, _choose(found, plan, machine))


def measure_parts(found: HeaderOf, chosen: Parts, machine: Machine, matrix: Matrix) -> Benchmark:
    """Rows of the whole model, extrapolated."""
    whole = stand_in(found)
    base, samples = chosen.plan, chosen.samples
    parts = [replace(found, header=first_layers(found.header, n)) for n in (samples.small, samples.large)]
    matrix = with_tests(stand_in(parts[1]), machine, matrix)
    measured: list[list[BenchRow]] = []
    failures: dict[str, None] = {}  # the parts fail alike: once is enough
    for part in parts:
        settings, notes = plan_points(stand_in(part), machine, matrix)
        of_part, failed = measure_made_up(part, settings, matrix)
        failures |= dict.fromkeys(failed)
        measured.append(of_part)
    plans = [
        Setting(
            s.point, plan_for(whole, machine, replace(at_point(matrix.wishes, s.point), n_ctx=matrix.n_ctx))
        )
        for s in settings
    ]
    sizes = (stand_in(parts[0]).anatomy, stand_in(parts[1]).anatomy)
    rows = [
        _extrapolated(found, plan.plan, sizes, pair, samples)
        for plan in plans
        for pair in _pairs(plan, *measured)
    ]
    told = (
        f"{found.name} was not made up whole, which takes long or does not fit: its first {samples.small} "
        f"and {samples.large} of {base.anatomy.n_layer} layers were measured, the rest is a straight line"
        f"{_error_phrase(rows)}."
    )
    does_not = () if base.fits else (f"{found.name} does not fit into this machine's memory as planned.",)
    return finish(rows, matrix, [*found.notes, *notes, *failures, told, *does_not, UNKNOWN])


def _choose(found: HeaderOf, plan: Plan, machine: Machine) -> Samples:
    homes = make_placement(plan.anatomy, plan.settings, machine.devices)
    if len({*homes.layers}) > 1 or plan.n_layers_experts_in_ram:
        raise DoesNotFit(
            f"{found.name} cannot be made up whole in RAM, and parts do not stand for it: it would lie in "
            "several places",
            "-ngl 0 tells how fast it would be in RAM alone",
        )
    weights = plan.anatomy.weights_bytes
    growth = 1 + ram_for_copies(plan, machine) / weights
    room = int(0.8 * free_ram(machine, plan.wishes) / growth)
    most = int(_ENOUGH_BYTES / growth)
    while most < room:
        samples = choose_samples(plan.anatomy, most)
        if samples and _reach(samples, plan.anatomy.n_layer) <= _FARTHEST:
            return samples
        most += most // 2
    if samples := choose_samples(plan.anatomy, room):
        return samples
    hint = "close what else runs" if plan.wishes.ram_bytes is None else "give --ram more"
    raise DoesNotFit(f"There is no room in RAM to make up even a part of {found.name}", hint)


def _reach(samples: Samples, n_layer: int) -> float:
    return (n_layer - samples.large) / (samples.large - samples.small)


def _pairs(
    setting: Setting, small: Sequence[BenchRow], large: Sequence[BenchRow]
) -> Iterator[tuple[BenchRow, BenchRow]]:
    """The rows of both parts under one setting, test by test."""
    for one in small:
        for other in large:
            if one.point == other.point == setting.point and one.samples.test is other.samples.test:
                yield one, other


def _extrapolated(
    found: HeaderOf,
    plan: Plan,
    sizes: tuple[Anatomy, Anatomy],
    pair: tuple[BenchRow, BenchRow],
    samples: Samples,
) -> BenchRow:
    small, large = pair
    test = small.samples.test
    times = [statistics.median(row.samples.samples_ns) for row in pair]
    line = Line((size_for(sizes[0], test), times[0]), (size_for(sizes[1], test), times[1]))
    size = size_for(plan.anatomy, test)
    whole_ns = round(line.at(size))
    errors = [_spread(row.samples) for row in pair]
    share = line.error_at(size, *errors) / whole_ns if len(small.samples.samples_ns) > 1 else None
    return replace(
        large,
        subject=make_subject(stand_in(found), found.name),
        settings=plan.settings,
        footprint=Footprint(_memory(plan, small, large), 0, ()),
        samples=SpeedSamples(test, (whole_ns,), (whole_ns,) if test.n_prompt and not test.n_gen else ()),
        predicted=predicted(plan, test),
        extra={
            "sampled_layers": f"{samples.small}, {samples.large} of {plan.anatomy.n_layer}",
            "extrapolation_error": share,
        },
    )


def size_for(anatomy: Anatomy, test: SpeedTest) -> float:
    """What a test's time grows with: the bytes that a token reads, or the parameters that it passes."""
    return anatomy.bytes_per_token if test.n_gen else anatomy.n_params_active


def _spread(samples: SpeedSamples) -> float:
    """By how much repetitions differ from their middle, in nanoseconds."""
    return (max(samples.samples_ns) - min(samples.samples_ns)) / 2


def _memory(plan: Plan, small: BenchRow, large: BenchRow) -> tuple[DeviceUse, ...]:
    """What llama.cpp should take by device: how it grew from part to part as the prediction grew."""
    before = {use.device: use for use in small.footprint.memory}
    promised = {row.device: row.total_bytes for row in plan.memory}
    found = []
    for use in large.footprint.memory:
        other = before.get(use.device)
        whole = promised.get(use.device, 0)
        if other is None or other.predicted_bytes == use.predicted_bytes:
            found.append(DeviceUse(use.device, whole, use.measured_bytes))
            continue
        line = Line((other.predicted_bytes, other.measured_bytes), (use.predicted_bytes, use.measured_bytes))
        found.append(DeviceUse(use.device, whole, round(line.at(whole))))
    return tuple(found)


def _error_phrase(rows: Sequence[BenchRow]) -> str:
    shares = [row.extra["extrapolation_error"] for row in rows]
    known = [share for share in shares if isinstance(share, float)]
    return f" (their noise alone makes up to ±{max(known):.0%} of it)" if known else ""
