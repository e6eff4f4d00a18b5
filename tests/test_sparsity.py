"""Numbers of experts a token: what a model can have, what they give and cost, what is kept and offered."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from cli_fixture import Moetool
from test_plan import DEMO, HEADERS, MOE, machine

from moetool.anatomy import Anatomy, make_anatomy
from moetool.anatomy.sizes import params_active_with
from moetool.bench.speed import SpeedSamples, SpeedTest
from moetool.errors import EngineError, UsageError
from moetool.frontier import (
    Frontier,
    FrontierPoint,
    Interval,
    TextScore,
    cheapest,
    counts_that_matter,
    offer,
    unbeaten,
)
from moetool.gguf import open_header
from moetool.kept_frontiers import KeptFrontier, keep_frontier, parse_frontier, read_frontier
from moetool.lab.sparsity import Anchor, choose_chunks, choose_tests, correct, pace
from moetool.plan import Wishes, make_alternatives, make_plan


def published(name: str, **metadata: Any) -> Anatomy:
    """A published model, with some of its metadata changed (a dot is written as two underscores)."""
    header = open_header(next(HEADERS.glob(f"{name}*.hdr")))
    changed = {f"{header.arch}.{key}": value for key, value in metadata.items()}
    return make_anatomy(replace(header, metadata={**header.metadata, **changed}))


# --- what a model can have ----------------------------------------------------------------------------------


def test_it_is_known_which_architectures_renormalise() -> None:
    # norm_w of build_moe_ffn: qwen3moe always, olmoe never, deepseek2 and its kin as their file says.
    assert MOE.routing.is_renormed
    assert published("gpt-oss").routing.is_renormed
    assert not published("OLMoE").routing.is_renormed
    assert published("DeepSeek-V3.1").routing.is_renormed
    assert not published("DeepSeek-V3.1", expert_weights_norm=False).routing.is_renormed


def test_groups_limit_how_many_experts_can_be_chosen() -> None:
    model = published("DeepSeek-V3.1")  # 8 groups of 32, of which a token looks into 4
    assert (model.n_expert, model.routing.most) == (256, 128)
    with pytest.raises(UsageError, match="may choose among 128"):
        make_plan(model, machine(1024), Wishes(experts=129))


def test_numbers_that_llama_cpp_would_not_take_are_refused_before_it_is_asked() -> None:
    stated = published("Qwen3-30B", expert_used_count=(8,) * 48)
    assert not stated.routing.unfit
    with pytest.raises(UsageError, match="states a number for each layer"):
        make_plan(stated, machine(64), Wishes(experts=4))
    assert make_plan(stated, machine(64), Wishes(experts=8)).fits
    header = open_header(next(HEADERS.glob("Qwen3-30B*.hdr")))
    bare = {key: v for key, v in header.metadata.items() if not key.endswith("expert_feed_forward_length")}
    with pytest.raises(UsageError, match="how wide an expert is"):
        make_plan(make_anatomy(replace(header, metadata=bare)), machine(64), Wishes(experts=4))


def test_a_number_for_each_layer_is_run_only_where_the_graph_follows_it() -> None:
    mixed = published("Qwen3-30B", expert_used_count=(8, *(4,) * 47))
    with pytest.raises(EngineError, match="or end the process"):
        make_plan(mixed, machine(64), Wishes())
    nemotron = published("Nemotron-3-Nano")
    counts = tuple(6 - index % 2 for index in range(len(nemotron.layers)))
    assert make_plan(published("Nemotron-3-Nano", expert_used_count=counts), machine(64), Wishes()).fits


def test_the_numbers_that_matter_go_from_one_to_twice_the_models_own() -> None:
    assert counts_that_matter(2, 8) == (1, 2, 3, 4)
    assert counts_that_matter(8, 128) == (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16)
    assert counts_that_matter(8, 9) == (1, 2, 3, 4, 5, 6, 7, 8)
    assert counts_that_matter(1, 16) == (1, 2)


def test_active_parameters_follow_the_number() -> None:
    assert params_active_with(DEMO, 2) == DEMO.n_params_active
    # An expert of the demo model: three matrices of 256 × 256 in each of 4 layers.
    assert params_active_with(DEMO, 3) - DEMO.n_params_active == 4 * 3 * 256 * 256


def test_tests_and_chunks_fit_into_the_time_there_is() -> None:
    assert choose_tests(5000, 800, 32, 150) == (512, 128)
    n_prompt, n_gen = choose_tests(100, 10, 88, 400)
    assert 88 * (n_prompt / 100 + n_gen / 10) <= 400
    assert choose_tests(1, 1, 88, 1) == (128, 16)
    assert choose_chunks(100, 512, 10, 512) == 10
    assert choose_chunks(1, 512, 10, 1) == 2  # one chunk has no interval


def test_a_machine_that_slows_down_meanwhile_favours_no_number() -> None:
    test = SpeedTest(0, 10)
    pace_of_machine = (1, 1, 2, 3, 1)
    own = SpeedSamples(test, tuple(100 * p for p in pace_of_machine))
    other = SpeedSamples(test, tuple(80 * p for p in pace_of_machine))
    steady = SpeedSamples(test, (100,) * 20)
    assert pace(steady, own, other).samples_ns == (80,) * 5


def test_what_the_own_number_took_corrects_what_is_predicted_of_others() -> None:
    def tok_s(experts: int, rest_s: float, each_s: float) -> float:
        return 1 / (rest_s + each_s * experts)

    # All of it read from memory, which is 20 % slower than was thought: everything is.
    slow = Anchor(8, tok_s(8, 0.02, 0.0025), tok_s(8, 0.02, 0.0025) / 1.2)
    assert correct(slow, 4, tok_s(4, 0.02, 0.0025)) == pytest.approx(tok_s(4, 0.02, 0.0025) / 1.2, rel=1e-9)
    # A tiny model, nearly all of whose time was thought to be overhead, and a quarter of it is: what experts
    # take stays as it was thought.
    tiny = Anchor(2, tok_s(2, 720e-6, 31e-6), tok_s(2, 155e-6, 31e-6))
    for experts in (1, 3, 4):
        predicted = correct(tiny, experts, tok_s(experts, 720e-6, 31e-6))
        assert predicted == pytest.approx(tok_s(experts, 155e-6, 31e-6), rel=0.03)
    assert correct(tiny, 2, 1.0) == tiny.measured_tok_s
    assert correct(Anchor(2, 1.0, 1000.0), 1, 1.0001) > 0


# --- what they give and cost --------------------------------------------------------------------------------


def point(experts: int, tok_s: float, kld: float | None = None) -> FrontierPoint:
    ppl = Interval(7.0, 6.0, 8.0)
    divergence = Interval(kld, kld * 0.9, kld * 1.1) if kld is not None else None
    whole = TextScore("", 1000, ppl, divergence, None if kld is None else 0.96)
    return FrontierPoint(experts, 10**9 * experts, tok_s, 10 * tok_s, tok_s, None, whole)


FRONTIER = Frontier(8, (point(4, 30, 0.1), point(6, 24, 0.01), point(8, 20), point(12, 15, 0.005)))


def test_the_cheapest_number_that_is_fast_enough_is_recommended() -> None:
    picks = [cheapest(FRONTIER, speed) for speed in (10, 20, 21, 25, 31)]
    assert [pick.experts if pick else None for pick in picks] == [8, 8, 6, 4, None]


def test_only_a_real_gain_at_little_divergence_is_offered() -> None:
    best = offer(FRONTIER)
    assert best is not None
    assert best.experts == 6
    assert offer(Frontier(8, (point(6, 20.5, 0.01), point(8, 20)))) is None
    assert offer(Frontier(8, (point(4, 30, 0.1), point(8, 20)))) is None
    unread = replace(point(6, 30), whole=None)
    assert offer(Frontier(8, (unread, point(8, 20)))) is None


def test_slower_and_less_true_is_beaten() -> None:
    assert unbeaten(FRONTIER.points) == {4, 6, 8}


def test_the_planner_offers_it_as_one_of_its_choices_and_does_not_choose_it() -> None:
    plan = make_plan(MOE, machine(64), Wishes())
    assert all(other.experts is None for other in make_alternatives(plan))
    others = make_alternatives(plan, FRONTIER)
    offered = [other for other in others if other.experts]
    assert [(o.experts, o.kld, round(o.gain or 0, 3)) for o in offered] == [(6, 0.01, 0.2)]
    assert offered[0].plan.settings.experts == 6
    # It gives other answers: what fits beside it is judged as without it.
    assert [(o.is_pick, o.is_front) for o in others[:-1]] == [
        (o.is_pick, o.is_front) for o in make_alternatives(plan)
    ]
    asked = make_plan(MOE, machine(64), Wishes(experts=4))
    assert all(other.experts is None for other in make_alternatives(asked, FRONTIER))


# --- what is kept -------------------------------------------------------------------------------------------


def kept(digest: str = "d" * 64, when: str = "2026-11-22T12:00:00Z") -> KeptFrontier:
    return KeptFrontier(digest, 1000, "here", ("CPU",), when, FRONTIER)


def test_the_latest_frontier_of_the_same_bytes_is_found(tmp_path: Path) -> None:
    path = tmp_path / "home" / "frontiers.jsonl"
    for one in (kept(), kept("e" * 64), kept(when="2026-11-23T12:00:00Z")):
        keep_frontier(path, one)
    path.write_text(path.read_text() + "{damaged\n[]\n")
    found = read_frontier(path, 1000, lambda: "d" * 64)
    assert found == kept(when="2026-11-23T12:00:00Z")
    assert read_frontier(path, 1000, lambda: "f" * 64) is None
    # A model of another size is not even hashed.
    assert read_frontier(path, 999, lambda: pytest.fail("hashed")) is None
    assert read_frontier(tmp_path / "none", 1000, lambda: "") is None


@pytest.mark.parametrize("speed", [0, -1, "fast", None, True and float("nan")])
def test_an_edited_frontier_that_cannot_be_is_left(speed: object) -> None:
    raw = asdict(kept())
    raw["frontier"]["points"][0]["decode_tok_s"] = speed
    assert parse_frontier(json.dumps(raw)) is None


# --- the command --------------------------------------------------------------------------------------------


def test_a_frontier_is_measured_kept_quoted_and_never_chosen(moetool_here: Moetool, tmp_path: Path) -> None:
    words = "What color is spinach? The color of spinach is green. "
    (tmp_path / "colors.txt").write_text(words * 160)
    (tmp_path / "sums.txt").write_text("38 + 16 = 54. 54 + 7 = 61. The answer is 61. " * 160)
    texts = ("--text", "colors.txt", "--text", "sums.txt")
    before = moetool_here("run", "demo", "Hello", "--experts", "1", "--max-tokens", "1")
    assert before.err.startswith("1 expert a token instead of 2; what that costs was not measured: moetool s")
    done = moetool_here(
        "sparsity", "demo", "--experts", "1", *texts, "--budget", "1", "-t", "1", "-o", "json"
    )
    data = done.document["data"]
    one, own = data["frontier"]
    assert (one["experts"], own["experts"], data["own"]) == (1, 2, 2)
    assert one["n_params_active"] < own["n_params_active"]
    assert one["whole"]["kld"]["value"] > 0.01
    assert own["whole"]["kld"] is None
    assert [score["text"] for score in one["texts"]] == ["colors", "sums"]
    n_tokens = one["whole"]["n_tokens"]
    assert n_tokens == sum(score["n_tokens"] for score in one["texts"])
    mean = sum(score["kld"]["value"] * score["n_tokens"] for score in one["texts"]) / n_tokens
    assert one["whole"]["kld"]["value"] == pytest.approx(mean, rel=1e-6)
    # As many turns as the model's own number had.
    assert len({len(row["samples_ns"]) for row in data["bench"]["rows"]}) == 1
    quoted = moetool_here("run", "demo", "Hello", "--experts", "1", "--max-tokens", "1")
    assert f"KLD {one['whole']['kld']['value']:.3g}" in quoted.err
    assert "experts" not in moetool_here("run", "demo", "Hello", "--max-tokens", "1").err


def test_without_room_for_two_copies_numbers_are_measured_there_and_back(
    moetool_here: Moetool, tmp_path: Path
) -> None:
    (tmp_path / "sums.txt").write_text("38 + 16 = 54. 54 + 7 = 61. The answer is 61. " * 160)
    asked = ("--experts", "1", "--text", "sums.txt", "--budget", "1", "-t", "1", "--min-tok-s", "1")
    done = moetool_here("sparsity", "demo", *asked, "--ram", "20M", "--reserve", "0", "-o", "json")
    data = done.document["data"]
    rows = data["bench"]["rows"]
    # Two passes of as many runs, and loads that are told.
    assert {(len(row["samples_ns"]) % 2, row["load_s"] is None) for row in rows} == {(0, False)}
    assert [point["experts"] for point in data["frontier"]] == [1, 2]
    assert data["pick"] == 2


def test_models_without_a_choice_are_refused(moetool_here: Moetool, tmp_path: Path) -> None:
    assert "1 to 8" in moetool_here("sparsity", "demo", "--experts", "9").err
    assert "cannot be nan" in moetool_here("sparsity", "demo", "--min-tok-s", "nan").err
    (tmp_path / "short.txt").write_text("Hello")
    assert "too few for two chunks" in moetool_here("sparsity", "demo", "--text", "short.txt").err
    assert moetool_here("sparsity", "demo", "--text", "none.txt").code == 5
