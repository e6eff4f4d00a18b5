"""Two benchmarks side by side: which rows belong together, and when a difference is one."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from cli_fixture import Moetool
from documents import check_document

from moetool.bench.compare import compare, parse_rows, ratio_of
from moetool.errors import UsageError


def row(samples: list[float], n_prompt: int = 0, n_gen: int = 128, **fields: Any) -> dict[str, Any]:
    return {"n_prompt": n_prompt, "n_gen": n_gen, "n_depth": 0, "samples_ts": samples} | fields


def test_a_difference_within_the_noise_is_none_and_a_sure_one_is_told_with_its_interval() -> None:
    before = [row([100, 101, 99, 100, 102]), row([1000, 1100, 900], 512, 0)]
    after = [row([110, 111, 109, 110, 112]), row([1020, 1150, 930], 512, 0)]
    found = compare(before, after)
    assert found.decode is not None
    assert found.prompt is not None
    assert found.decode.verdict == "faster"
    assert found.decode.ratio == pytest.approx(1.0996, abs=1e-3)
    # Logarithms differ by 0.0950, standard error 0.00686, 7.9 degrees of freedom (t is 2.365 for 7).
    assert (found.decode.low, found.decode.high) == pytest.approx((1.0819, 1.1176), abs=2e-4)
    assert found.prompt.verdict == "no difference"
    assert compare(after, before).decode.verdict == "slower"  # type: ignore[union-attr]


def test_a_sure_difference_of_less_than_a_percent_is_none() -> None:
    assert ratio_of([([100.0, 100.01], [100.5, 100.51])]).verdict == "no difference"


def test_without_repetitions_nothing_is_known() -> None:
    found = compare([row([100])], [row([120])])
    assert found.decode is not None
    assert (found.decode.verdict, found.decode.low) == ("not known", None)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = random.Random(1)

    def draw(middle: float) -> list[float]:
        return [middle * rng.lognormvariate(0, 0.05) for _ in range(5)]

    hits = 0
    for _ in range(400):
        found = ratio_of([(draw(100), draw(110)), (draw(40), draw(44))])
        hits += found.low <= 1.1 <= found.high  # type: ignore[operator]
    assert 0.92 <= hits / 400 <= 0.98


def test_what_varies_within_a_file_tells_rows_apart_and_the_rest_is_compared() -> None:
    before = [row([10, 11], n_threads=n, type_k="f16", model_filename="a") for n in (1, 2)]
    after = [row([20, 21], n_threads=n, type_k="q8_0", model_filename="b") for n in (2, 4)]
    found = compare(before, after)
    assert [(pair.test, pair.setting) for pair in found.pairs] == [("tg128", "n_threads 2")]
    assert found.differences == ("model_filename: a → b", "type_k: f16 → q8_0")
    assert found.n_alone == 2


def test_samples_that_no_machine_has_make_numbers_all_the_same() -> None:
    found = compare([row([1e-300, 1e300])], [row([1e300, 1e-300])])
    assert found.pairs[0].ratio.verdict == "no difference"
    assert math.isfinite(compare([row([1e-300])], [row([1e300])]).pairs[0].ratio.ratio)


def test_rows_are_read_from_our_documents_json_lines_and_llama_benchs_array() -> None:
    rows = [row([1.0, 2.0]), row([3.0], 512, 0)]
    for text in (
        json.dumps({"moetool": 1, "data": {"rows": rows}}),
        json.dumps(rows),
        "\n".join(map(json.dumps, rows)),
    ):
        assert [r["samples_ts"] for r in parse_rows(text, "a.json")] == [[1.0, 2.0], [3.0]]


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "{}", "[1]", '[{"samples_ts": [0]}]', '{"data": null}', '[{"samples_ts": ["a"]}]']
)
def test_other_files_are_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"a\.json"):
        parse_rows(text, "a.json")


def test_the_command(moetool_here: Moetool, tmp_path: Path) -> None:
    one, other = tmp_path / "a.json", tmp_path / "b.jsonl"
    one.write_text(json.dumps([row([100, 101, 99])]))
    other.write_text(json.dumps(row([50, 51, 49])))
    done = moetool_here("bench", "--compare", str(one), str(other))
    assert done.code == 0
    assert "Decoding: slower by 50.0%" in done.out
    found = moetool_here("bench", "--compare", str(one), str(other), "-o", "json").document["data"]
    assert found["decode"]["verdict"] == "slower"
    check_document(found)
    other.write_text(json.dumps(row([50, 51, 49], 512, 0)))
    assert moetool_here("bench", "--compare", str(one), str(other)).code == 2
    assert moetool_here("bench", "--compare", str(one), str(tmp_path / "none")).code == 5
