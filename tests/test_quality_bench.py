"""`moetool bench --quality` on the demo model: llama-perplexity's figures, references, the page."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_fixture import Moetool
from documents import check_document

from moetool.assets import quality_text_path
from moetool.charts import make_charts
from moetool.cli.judging import read_text
from moetool.render.page import make_page
from moetool.render.text_charts import text_chart

# llama-perplexity -m demo.gguf -f text.txt --chunks 4 (llama.cpp 0c1e57098, KV cache f16), of this beginning
# of the shipped text.
TEXT_BYTES, LLAMA_PERPLEXITY = 4500, 8.7298


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(quality_text_path().read_bytes()[:TEXT_BYTES])
    return path


def test_perplexity_is_llama_perplexitys_and_nothing_is_as_near_to_a_model_as_itself(
    moetool_here: Moetool, text: Path, tmp_path: Path
) -> None:
    command = ("bench", "demo", "-p", "0", "-n", "0", "--text", str(text), "-o", "json")
    done = moetool_here(*command, "--ref", "demo", "--save-ref", "demo.ref")
    assert done.code == 0, done.err
    data = done.document["data"]
    check_document(data)
    [judged] = data["quality"]
    assert judged["ppl"]["value"] == pytest.approx(LLAMA_PERPLEXITY, rel=1e-3)
    assert (judged["reference"], judged["n_chunks"], judged["n_tokens"]) == ("demo", 4, 4 * 255)
    assert judged["kld"]["mean"]["value"] == judged["kld"]["max"] == 0
    assert judged["kld"]["same_top"]["value"] == 1

    # Of what was kept: the text comes from the file, and the estimate is nothing, too.
    done = moetool_here("bench", "demo", "-p", "0", "-n", "0", "--ref", "demo.ref", "-o", "json")
    [again] = done.document["data"]["quality"]
    assert (judged["estimated"], again["estimated"]) == (False, True)
    assert again["ppl"] == judged["ppl"]
    assert again["kld"]["mean"]["value"] < 1e-6
    assert Path(tmp_path, "demo.ref").stat().st_size < 0.02 * 4 * (255 * 2 * (1536 + 4) + 4 * 512)


def test_settings_are_held_against_the_first_and_shown_on_a_page(
    moetool_here: Moetool, text: Path, tmp_path: Path
) -> None:
    flags = ("--text", str(text), "--sweep", "kv=f16,q4_0", "--html", "page.html")
    done = moetool_here("bench", "demo", "-p", "16", "-n", "4", "-r", "1", *flags, "-o", "json")
    assert done.code == 0, done.err
    data = done.document["data"]
    check_document(data)
    assert [row["kld_mean"] == 0 for row in data["rows"]] == [True, True, False, False]
    assert 1e-5 < data["rows"][-1]["kld_mean"] < 0.1
    assert [judged["reference"] for judged in data["quality"]] == ["itself", "the first setting"]
    assert (tmp_path / "page.html").read_text() == make_page(data)
    for chart in make_charts(data["rows"]):
        assert len(text_chart(chart)) > 2


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--text", "nowhere.txt"), 5, "There is no file nowhere.txt"),
        (("--text", "short.txt"), 2, "too few for two chunks of 512"),
        (("--text", "."), 2, "Cannot read ."),
        (("--quality", "--ref", "broken.ref"), 1, "reference file is damaged"),
        (("--quality", "--ref", "nowhere.gguf"), 5, "nowhere.gguf"),
        (("--quality", "--save-ref", "short.txt"), 2, "is there already, and is no reference"),
        (("--quality", "--save-ref", "new.ref", "--html", "./new.ref"), 2, "name the same file"),
        (("--quality", "-o", "csv"), 2, "There is nothing to measure"),
        (("--text", "short.txt", "--html", "short.txt"), 2, "short.txt is what is read"),
        (("--quality", "--html", "nowhere/page.html"), 2, "There is no folder nowhere"),
    ],
)
def test_what_cannot_be_is_said(
    moetool_here: Moetool, tmp_path: Path, flags: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "short.txt").write_text("Too short.")
    (tmp_path / "broken.ref").write_bytes(b"moetoolref\0\1" + bytes(100))
    done = moetool_here("bench", "demo", "-p", "0", "-n", "0", *flags)
    assert done.code == code, done.err
    assert said in done.err
    assert not done.out


def test_bytes_that_llama_cpp_would_die_of_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"a\xf7\xbf\xbf\xbfz\n")
    assert read_text(tmp_path / "bytes") == "a\ufffd\ufffd\ufffd\ufffdz"
