"""Predictions corrected by what was measured: whose runs count, how much, and the file they are kept in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cli_fixture import Moetool
from hypothesis import given, settings
from hypothesis import strategies as st

from moetool.kept_runs import N_KEPT, keep_run, parse_run, read_runs, run_document
from moetool.speed import Calibration, Speed, Target, calibrate, weigh

SPEED = Speed(100.0, 75.0, 130.0, 1000.0, 500.0, 1600.0)
TARGET = Target("here", "Qwen3", 18_000_000_000, "qwen3moe", "Q4_K_M", ("CPU",), 8)


def run(ratio: float, **more: object) -> Calibration:
    target = replace(TARGET, **more)  # type: ignore[arg-type]
    return Calibration(target, 100.0, 100.0 * ratio, 1000.0, 500.0)


def test_without_runs_nothing_changes() -> None:
    assert calibrate(SPEED, TARGET, []) == SPEED


def test_runs_of_the_same_file_come_close_to_what_was_measured() -> None:
    speed = calibrate(SPEED, TARGET, [run(0.7)])
    assert speed.decode_tok_s == pytest.approx(70, rel=0.03)
    assert speed.prompt_tok_s == pytest.approx(500, rel=0.03)
    assert "2 measurements on this machine" in speed.basis
    assert calibrate(SPEED, TARGET, [run(0.7)] * 3).decode_tok_s == pytest.approx(70, rel=0.01)


def test_one_disturbed_run_does_not_rule() -> None:
    speed = calibrate(SPEED, TARGET, [run(1.0), run(1.02), run(0.05)])
    assert speed.decode_tok_s == pytest.approx(100, rel=0.03)


@pytest.mark.parametrize(
    "other",
    [
        {"model": "Llama"},
        {"weights_bytes": 4_000_000_000},
        {"arch": "llama"},
        {"quant": "Q8_0"},
        {"devices": ("CPU", "CUDA0")},
        {"n_threads": 1},
    ],
)
def test_the_less_a_run_shares_the_less_it_counts(other: dict[str, object]) -> None:
    assert weigh(replace(TARGET, **other), TARGET) < weigh(TARGET, TARGET)  # type: ignore[arg-type]
    near = calibrate(SPEED, TARGET, [run(0.5)]).decode_tok_s
    far = calibrate(SPEED, TARGET, [run(0.5, **other)]).decode_tok_s
    assert near < far < 100  # type: ignore[operator]


@pytest.mark.parametrize(
    "stranger",
    [
        {"fingerprint": "elsewhere"},
        {"model": "demo", "weights_bytes": 8_000_000},  # lies in the CPU's caches
        {"devices": ("CUDA0",)},  # other kernels, other memory
    ],
)
def test_runs_that_say_nothing_change_nothing_however_many(stranger: dict[str, object]) -> None:
    assert calibrate(SPEED, TARGET, [run(4.0, **stranger)] * 50) == SPEED


def test_a_model_of_another_size_says_less_the_further_it_is() -> None:
    sizes = [run(2.0, model="other", weights_bytes=TARGET.weights_bytes // factor) for factor in (2, 8, 40)]
    speeds = [calibrate(SPEED, TARGET, [one]).decode_tok_s or 0.0 for one in sizes]
    assert 200 > speeds[0] > speeds[1] > speeds[2] > 100


def test_many_runs_of_others_do_not_drown_the_file_itself() -> None:
    others = [run(0.5, model=f"other {i}", arch="llama", quant="Q8_0") for i in range(5)]
    assert calibrate(SPEED, TARGET, [*others, run(0.9)]).decode_tok_s == pytest.approx(90, rel=0.03)


@settings(deadline=None)
@given(ratios=st.lists(st.floats(0.2, 5.0), min_size=1, max_size=8))
def test_calibration_stays_within_what_was_measured_and_narrows(ratios: list[float]) -> None:
    speed = calibrate(SPEED, TARGET, [run(ratio) for ratio in ratios])
    assert speed.decode_tok_s is not None
    assert min(*ratios, 1.0) * 99.9 <= speed.decode_tok_s <= max(*ratios, 1.0) * 100.1
    assert speed.decode_high / speed.decode_low <= 130 / 75  # type: ignore[operator]


def test_an_unknown_speed_stays_unknown() -> None:
    unknown = Speed(None, None, None, None, None, None, missing="no bandwidth")
    speed = calibrate(unknown, TARGET, [run(1.0)])
    assert speed.decode_tok_s is None
    assert speed.missing == "no bandwidth"


# --- the file -----------------------------------------------------------------------------------------------


def test_runs_are_kept_as_lines_that_a_person_can_read(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "runs.jsonl"
    partial = Calibration(TARGET, 100.0, 90.0)
    keep_run(path, run(0.7), "2026-01-31T12:00:00Z", "bench")
    keep_run(path, partial, "2026-01-31T12:01:00Z", "run")
    assert read_runs(path) == (run(0.7), partial)
    first = json.loads(path.read_text().splitlines()[0])
    assert (first["when"], first["command"], first["measured_decode_tok_s"]) == (
        "2026-01-31T12:00:00Z",
        "bench",
        70.0,
    )


def test_only_the_latest_runs_count(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    for i in range(N_KEPT + 5):
        keep_run(path, run(1.0 + i), "", "run")
    runs = read_runs(path)
    assert len(runs) == N_KEPT
    assert runs[-1].measured_decode_tok_s == pytest.approx(100.0 * (N_KEPT + 5))


def test_a_missing_or_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    assert read_runs(path) == ()
    path.write_bytes(b'\xff\xfe\n{}\n[]\nnull\n{"fingerprint": 1}\n' + b"[" * 100_000 + b"\n")
    assert read_runs(path) == ()
    keep_run(path, run(0.7), "", "run")
    assert read_runs(path) == (run(0.7),)
    keep_run(tmp_path / "runs.jsonl" / "below a file", run(0.7), "", "run")  # cannot be written: no error


@pytest.mark.parametrize("value", [True, "90", 0, -1.0, 1e300, None, [1]])
def test_rates_that_cannot_be_are_no_rates(value: object) -> None:
    document = run_document(run(0.7)) | {"measured_decode_tok_s": value}
    parsed = parse_run(json.dumps(document))
    assert parsed is not None
    assert parsed.measured_decode_tok_s is None
    assert parsed.measured_prompt_tok_s == 500.0


def test_what_bench_measures_corrects_the_next_plan(moetool_here: Moetool, tmp_path: Path) -> None:
    assert moetool_here("bench", "demo", "-p", "16", "-n", "4", "-r", "1", "-t", "1").code == 0
    lines = (tmp_path / "cache" / "moetool" / "runs.jsonl").read_text().splitlines()
    runs = [json.loads(line) for line in lines]
    assert [(run["command"], run["quant"], run["n_threads"]) for run in runs] == [("bench", "Q8_0", 1)] * 2
    assert runs[0]["measured_prompt_tok_s"] > 0
    assert runs[1]["measured_decode_tok_s"] > 0
    speed = moetool_here("plan", "demo", "-t", "1", "-o", "json").document["data"]["speed"]
    assert "calibrated by 2 measurements on this machine" in speed["basis"]
    assert speed["decode_tok_s"] == pytest.approx(runs[1]["measured_decode_tok_s"], rel=0.1)
