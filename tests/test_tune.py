"""`moetool tune`: what is tried, what wins, what is kept of it and when run uses it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from unittest import mock

import pytest
from cli_fixture import Moetool
from documents import check_document

from moetool.bench.matrix import Point
from moetool.bench.tuning import PLAN, Probes, choose, halve, join
from moetool.cli import tuning
from moetool.cli.opening import open_model, read_this_machine
from moetool.cli.tuned import subject_of
from moetool.engine.model import Engine
from moetool.errors import EngineError
from moetool.kept_tunings import Tuning, keep_tuning, parse_tuning, read_tuning
from moetool.plan import Plan, Wishes
from moetool.settings import Settings

THREADS = [{"threads": str(n)} for n in (1, 3, 4)]
UBATCHES = [{"ubatch": str(n)} for n in (128, 256, 1024)]
# Seconds of a turn, as a factor of the plan's 10.
FACTORS = {"threads": {"1": 0.8, "3": 1.2, "4": 1.5}, "ubatch": {"128": 1.1, "256": 0.9, "1024": 1.0}}


class Machine:
    """Takes as long as FACTORS say, give or take 2 %, and a percent more every ten probes."""

    def __init__(self, factors: Mapping[str, Mapping[str, float]] = FACTORS) -> None:
        self.rng = random.Random(1)
        self.factors = factors
        self.probed: list[Point] = []

    def measure(self, point: Point) -> float:
        self.probed.append(point)
        seconds = 10.0 * (1 + len(self.probed) / 1000) * self.rng.uniform(0.98, 1.02)
        for axis, value in point.items():
            seconds *= self.factors[axis][value]
        return seconds


def test_the_slow_are_dropped_and_what_gains_is_joined() -> None:
    machine = Machine()
    probes = Probes(machine.measure)
    better = halve(probes, [*THREADS, *UBATCHES])
    assert better == [{"threads": "1"}, {"ubatch": "256"}]
    assert len(probes.of({"threads": "4"})) == 2 < len(probes.of({"threads": "1"}))
    both = join(better)
    assert both == {"threads": "1", "ubatch": "256"}
    probes.take([both, PLAN] * 3)
    tuned = choose(probes, [*THREADS, *UBATCHES, both], [better[0], both])
    assert tuned.point == both
    assert tuned.gain is not None
    assert tuned.gain.ratio == pytest.approx(1 / 0.72, rel=0.03)
    assert tuned.tried[0][0] == PLAN


def test_what_is_only_noise_does_not_win() -> None:
    same = {axis: dict.fromkeys(values, 1.0) for axis, values in FACTORS.items()}
    for seed in range(20):
        machine = Machine(same)
        machine.rng.seed(seed)
        probes = Probes(machine.measure)
        better = halve(probes, [*THREADS, *UBATCHES])
        assert choose(probes, THREADS, better[:1]).point == PLAN


def test_when_time_is_up_what_was_measured_until_then_counts() -> None:
    machine = Machine()
    probes = Probes(machine.measure, lambda: len(machine.probed) < 9)
    halve(probes, [*THREADS, *UBATCHES])
    assert len(machine.probed) == 9
    assert choose(probes, THREADS, []).point == PLAN
    assert choose(Probes(machine.measure), THREADS, []).is_cut_short
    once = Probes(machine.measure)
    once.take([PLAN, {"threads": "1"}])
    tuned = choose(once, THREADS, [{"threads": "1"}])
    assert (tuned.point, tuned.gain, tuned.is_cut_short) == (PLAN, None, True)


def test_of_one_axis_only_the_best_change_is_joined() -> None:
    assert join([{"ubatch": "256"}, {"threads": "1"}, {"ubatch": "128"}]) == {"ubatch": "256", "threads": "1"}


def test_the_latest_tuning_of_a_model_on_a_machine_counts(tmp_path: Path) -> None:
    path = tmp_path / "home" / "tunings.jsonl"
    first = Tuning("here", "m", 10, ("CPU",), "2026-01-31T12:00:00Z", {"threads": "1"}, 1.2)
    assert read_tuning(path, first.subject) is None
    second = Tuning("here", "m", 10, ("CPU",), "2026-02-01T12:00:00Z", {}, 1.0)
    other = Tuning("there", "m", 10, ("CPU",), "2026-02-02T12:00:00Z", {"threads": "9"}, 1.1)
    for one in (first, second, other):
        keep_tuning(path, one)
    assert read_tuning(path, first.subject) == second
    assert read_tuning(path, other.subject) == other
    with path.open("a") as file:
        file.write('{"changes": 3}\n[]\nx\n')
    assert read_tuning(path, first.subject) == second
    assert parse_tuning("{}") is None


def test_run_follows_what_tune_found_but_for_what_is_fixed(moetool_here: Moetool, tmp_path: Path) -> None:
    done = moetool_here("tune", "demo", "--budget", "1", "--ctx", "256", "-o", "json")
    assert done.code == 0
    check_document(done.document["data"])
    first = done.document["data"]["tried"][0]
    assert first["changes"] == {}
    assert first["turn_s"] > 0
    kept = tmp_path / "cache" / "moetool" / "tunings.jsonl"
    # What was cut short leaves an earlier tuning alone.
    assert kept.exists() != done.document["data"]["cut_short"]
    line = asdict(Tuning(*subject_of(open_model("demo"), read_this_machine()), "", {}, 1.0))

    def run(*flags: str, **changes: str) -> tuple[int, int, str]:
        kept.write_text(json.dumps(line | {"when": "2026-01-31T12:00:00Z", "changes": changes}))
        done = moetool_here("run", "demo", "Hi", "-n", "1", "--ctx", "256", "-o", "json", *flags)
        settings = done.document["data"]["plan"]["settings"]
        return settings["n_threads"], settings["n_ubatch"], done.err

    told = "Tuned on 2026-01-31: threads 1, ubatch 64.\n"
    assert run(threads="1", ubatch="64") == (1, 64, told)
    assert run("-q", threads="1", ubatch="64")[2] == ""
    assert run("-t", "2", threads="1", ubatch="64")[:2] == (2, 64)
    assert run("-t", "2", threads="x", sails="3", ubatch="0") == (2, 512, "")


def test_a_change_that_llama_cpp_does_not_take_leaves_no_engine_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The plan is loaded again after it, never computed with on what was freed."""
    opened: list[Engine] = []

    @contextmanager
    def load(_opened: object, plan: Plan, _cancelled: object) -> Iterator[object]:
        if not plan.settings.repack:
            raise EngineError("cannot")
        engine = mock.Mock(settings=plan.settings, n_vocab=9)
        opened.append(engine)
        yield engine
        engine.decode.side_effect = AssertionError("freed")

    plans = {repack: mock.Mock(settings=Settings(repack=repack)) for repack in (True, False)}
    monkeypatch.setattr(tuning, "load_engine", load)
    monkeypatch.setattr(tuning, "plan_for", lambda _o, _m, wishes: plans[wishes.repack is not False])
    with ExitStack() as stack:
        prober = tuning._Prober(
            mock.Mock(), mock.Mock(), Wishes(), tuning._Probe(4, 4), bool, lambda _: None, stack
        )
        found = [prober.measure(point) for point in (PLAN, {"repack": "0"}, {"repack": "0"}, PLAN)]
        plans[True] = plans[False]
        with pytest.raises(EngineError):
            prober.measure(PLAN)
    assert [seconds < math.inf for seconds in found] == [True, False, False, True]
    assert len(opened) == 2


def test_a_budget_is_a_number_of_seconds(moetool_here: Moetool) -> None:
    done = moetool_here("tune", "demo", "--budget", "nan")
    assert (done.code, done.out) == (2, "")
    assert "--budget cannot be nan" in done.err
