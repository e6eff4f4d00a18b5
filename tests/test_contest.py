"""`moetool compare`: models side by side in one context, and a verdict that says what it rests on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from cli_fixture import Moetool
from hub_fixture import HubWorld
from quant_repo import HEADERS, quant_file, vocabulary
from test_plan import machine

from moetool.anatomy import make_anatomy
from moetool.contest import Contender, MeasuredSpeed, measured_speed, verdict
from moetool.gguf import open_header
from moetool.kept_qualities import KeptQuality, keep_quality, read_qualities
from moetool.machine import Machine, to_json
from moetool.plan import Wishes, make_plan
from moetool.quality import expected_loss
from moetool.speed import Calibration, make_target

NOTHING = MeasuredSpeed(None, None, 0)


def contender(name: str, here: Machine, speed: MeasuredSpeed = NOTHING) -> Contender:
    anatomy = make_anatomy(open_header(HEADERS / f"{name}.gguf.hdr"))
    return Contender(name, make_plan(anatomy, here, Wishes(n_ctx=8192)), expected_loss(anatomy), speed)


def test_35b_a3b_or_27b_dense_for_my_24_gb() -> None:
    here = machine(32, 24)
    sparse, dense = (contender(f"{name}-Q4_K_M", here) for name in ("Qwen3.5-35B-A3B", "Gemma-3-27B"))
    found = verdict([sparse, dense])
    assert found.code == "a-trade"
    assert found.text.startswith("Gemma-3-27B-Q4_K_M is the larger by √(total × active), a rule of thumb")
    assert "Qwen3.5-35B-A3B-Q4_K_M decodes" in found.text and "predicted" in found.text
    assert found.text.endswith("tokens a second are enough, Qwen3.5-35B-A3B-Q4_K_M if not.")


def test_what_was_measured_goes_before_what_was_predicted() -> None:
    here = machine(32, 24)
    sparse, dense = (
        contender(f"{name}-Q4_K_M", here, MeasuredSpeed(rate, None, 1))
        for name, rate in (("Qwen3.5-35B-A3B", 8.0), ("Gemma-3-27B", 4.0))
    )
    assert "2 × as fast (8 against 4 tokens a second, measured)" in verdict([sparse, dense]).text
    assert "slower than most people read" in verdict([sparse, dense]).text
    assert verdict([replace(sparse, speed=MeasuredSpeed(4.1, None, 1)), dense]).code == "one-is-best"


def test_the_largest_is_held_against_the_largest_that_is_faster() -> None:
    here = machine(32, 24)
    names = ("OLMoE-1B-7B", "Qwen3.5-35B-A3B", "Gemma-3-27B")
    tiny, sparse, dense = (
        contender(f"{name}-Q4_K_M", here, MeasuredSpeed(rate, None, 1))
        for name, rate in zip(names, (1200.0, 40.0, 4.0), strict=True)
    )
    text = verdict([tiny, sparse, dense]).text
    assert f"Take {sparse.label}: {dense.label} would be slower" in text
    assert "(40 against 4 tokens" in text and tiny.label not in text
    assert "(1200 against 40 tokens" in verdict([tiny, replace(sparse, quality=tiny.quality)]).text


def test_what_does_not_fit_is_out_of_the_question() -> None:
    small = machine(8, 4)
    sparse, dense = (contender(f"{name}-Q4_K_M", small) for name in ("OLMoE-1B-7B", "Gemma-3-27B"))
    assert verdict([sparse, dense]).text == "Only OLMoE-1B-7B-Q4_K_M fits here."
    assert verdict([dense, dense]).code == "none-fits"


def test_runs_of_the_very_file_in_the_very_place_are_its_measured_speed() -> None:
    plan = contender("OLMoE-1B-7B-Q4_K_M", machine(32, 24)).plan
    target = make_target(plan.anatomy, plan.settings, plan.machine)
    runs = [Calibration(target, 1.0, rate, None, None) for rate in (20.0, 30.0, 90.0)]
    other = Calibration(replace(target, n_threads=99), 1.0, 500.0, 1.0, 500.0)
    assert measured_speed([*runs, other], target) == MeasuredSpeed(30.0, None, 3)


def test_a_file_beside_a_repo_on_the_hub_and_what_was_measured_of_it(
    moetool_here: Moetool, world: HubWorld, tmp_path: Path
) -> None:
    files = {"model-Q4_K_M.gguf": quant_file("Qwen3-30B-A3B", "Q4_K_M", vocabulary(20_000))}
    world.server.put("org/model-GGUF", files)  # type: ignore[arg-type]
    desk = tmp_path / "desk.json"
    desk.write_text(json.dumps(to_json(machine(64, 24))))
    (tmp_path / "short.txt").write_text("What is 12 + 7? The answer is 19.\n" * 40)
    short = ("--text", str(tmp_path / "short.txt"), "--ctx", "128")
    assert moetool_here("bench", "demo", "-p", "0", "-n", "0", *short).code == 0
    where = {"HF_ENDPOINT": world.server.url}
    names = ("demo", "org/model-GGUF:Q4_K_M")
    done = moetool_here("compare", *names, "--machine", str(desk), **where)
    assert done.code == 0, done.err
    assert "perplexity " in done.out and "on short.txt" in done.out
    assert max(map(len, done.out.splitlines())) <= 160
    data = moetool_here("compare", *names, "--machine", str(desk), "-o", "json", **where).document["data"]
    assert data["n_ctx"] == 1024  # the demo model was not trained for more
    assert {model["settings"]["n_ctx"] for model in data["models"]} == {1024}
    assert [len(model["measured_quality"]) for model in data["models"]] == [1, 0]
    assert data["verdict"]["text"] in " ".join(done.out.split())
    assert moetool_here("compare", "demo").code == 2
    assert moetool_here("compare", "demo", "missing.gguf").code == 5


def test_of_a_text_the_latest_measurement_counts(tmp_path: Path) -> None:
    path = tmp_path / "qualities.jsonl"
    first = KeptQuality("d", "a.txt", 100, 1536, "2026-01-01", 7.5)
    for quality in (first, replace(first, ppl=7.6), replace(first, text="b.txt", kld=0.1, reference="F32")):
        keep_quality(path, quality)
    with path.open("a") as file:
        file.write('{"digest": "d", "ppl": NaN}\nnonsense\n')
    assert [quality.ppl for quality in read_qualities(path, "d") if quality.text == "a.txt"] == [7.6]
    assert len(read_qualities(path, "d")) == 2
    assert read_qualities(path, "e") == read_qualities(tmp_path / "none", "d") == ()
