"""The page of a bench: what names say stays text, nothing is fetched, and a browser has no complaint."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from moetool.charts import DotChart, LineChart, make_charts
from moetool.render.page import make_page
from moetool.render.svg import nice_marks, number
from moetool.render.text_charts import text_chart

NASTY = '"><script>alert(1)</script><img src=http://x.example/p.png onerror=alert(1)> & \u202e\x1b[31m'
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def make_row(point: dict[str, str], n_gen: int, depth: int, speed: float, gib: float) -> dict[str, Any]:
    parts = {"weights": int(gib * 0.7 * 2**30), "kv": int(gib * 0.3 * 2**30)}
    use = {"device": "CPU", "bytes": int(gib * 2**30), "predicted_bytes": int(gib * 2**30), "parts": parts}
    return {
        "model_type": NASTY,
        "build_commit": "0c1e57098",
        "backends": "CPU",
        "test_time": "2026-11-22T09:00:00Z",
        "n_prompt": 0 if n_gen else 512,
        "n_gen": n_gen,
        "n_depth": depth,
        "n_threads": 2,
        "type_k": "f16",
        "type_v": "f16",
        "avg_ts": speed,
        "stddev_ts": 0.4,
        "median_ts": speed,
        "predicted_low_ts": speed * 0.8,
        "predicted_high_ts": speed * 1.2,
        "memory_bytes": int(gib * 2**30),
        "memory": [use],
        "point": point,
        "pareto": speed > 20,
        "kld_mean": 0.0012,
    }


def make_document() -> dict[str, Any]:
    rows = [
        make_row({"kv": kv, "name": NASTY} if kv == "q4_0" else {"kv": kv}, n_gen, depth, speed, gib)
        for kv, gib in (("f16", 4.1), ("q8_0", 3.7), ("q4_0", 3.4))
        for depth in (0, 4096, 8192)
        for n_gen, speed in ((0, 400 / (1 + depth / 9000)), (128, 24 / (1 + depth / 20000) * gib / 4))
    ]
    figure = {"value": 0.0123, "low": 0.011, "high": 0.014}
    kld = dict.fromkeys(("mean", "median", "p90", "p99", "p99_9", "same_top", "ppl_ratio"), figure)
    judged = {
        "point": {"kv": "q8_0"},
        "reference": NASTY,
        "estimated": True,
        "ppl": figure,
        "kld": kld | {"max": 1.5},
    }
    return {"rows": rows, "quality": [judged], "notes": [NASTY], "plan": None}


class Outline(HTMLParser):
    """Elements and their attributes, as a browser reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


def test_names_stay_text_and_nothing_is_fetched() -> None:
    page = make_page(make_document())
    elements = Outline(page).elements
    names = {name for name, _ in elements}
    assert not names & {"script", "img", "link", "iframe", "object", "form", "a", "image", "use"}
    keys = {key for _, attributes in elements for key in attributes}
    assert not {key for key in keys if key.startswith("on") or key in {"src", "href", "srcset", "xlink:href"}}
    assert not re.search(r"url\(|@import", page)
    assert page.count("alert(1)") >= 2  # the names are there, as text
    assert not re.search("[\x1b\u202e]", page)


def test_charts_follow_from_the_rows() -> None:
    charts = make_charts(make_document()["rows"])
    assert [chart.title for chart in charts] == [
        "Prompt speed over depth",
        "Decode speed over depth",
        "Memory",
        "Speed against memory",
        "Speed against divergence",
    ]
    lines = charts[1]
    assert isinstance(lines, LineChart)
    assert [line.name for line in lines.lines][:2] == ["kv f16", "kv q8_0"]
    assert [x for x, _ in lines.lines[0].points] == [0, 4096, 8192]
    dots = charts[-1]
    assert isinstance(dots, DotChart)
    assert [dot.is_front for dot in dots.dots] == [True, True, True]
    for chart in charts:
        assert not re.search("[\x1b\u202e]", "\n".join(text_chart(chart)))
    assert make_charts([]) == ()


@pytest.mark.parametrize(
    ("most", "marks"),
    [(0, [0, 1]), (7, [0, 2, 4, 6, 8]), (100, [0, 25, 50, 75, 100]), (0.012, [0, 0.005, 0.01, 0.015])],
)
def test_axes_have_round_numbers(most: float, marks: list[float]) -> None:
    assert nice_marks(most) == pytest.approx(marks)


def test_numbers_keep_three_digits() -> None:
    assert [number(v) for v in (0, 1234.5, 56.78, 0.00123456, 8)] == ["0", "1234", "56.8", "0.00123", "8"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: the page is not looked at")
def test_a_browser_draws_it_without_a_complaint(tmp_path: Path) -> None:
    document = copy.deepcopy(make_document())
    (tmp_path / "page.html").write_text(make_page(document))
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--dump-dom")
    done = subprocess.run(
        [str(CHROMIUM), *flags, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "page.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    assert done.stdout.count("<figure>") == 5
