"""Tables on screens of every width: what stands in a cell is never cut in the middle of a word."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from moetool.charts import Dot, DotChart
from moetool.render.fitted import filled_columns
from moetool.render.text_charts import text_chart

HEADS = ("", "model", "size", "experts", "decode tok/s", "perplexity", "95 %", "nothing")
ROWS = [
    ("▸", "moetool demo Q8_0", "7.61 MiB", "2 (own)", "12345", "502.7615", "0.513 – 0.671", "–"),
    ("", "moetool demo Q8_0", "7.61 MiB", "4", "5362", "476.6", "–", ""),
]


def shown(width: int) -> list[str]:
    screen = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    screen.print(filled_columns(HEADS, ROWS, left={"", "model"}))
    assert isinstance(screen.file, io.StringIO)
    return [line.rstrip() for line in screen.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [120, 80, 60, 40, 25])
def test_figures_stay_whole_on_every_screen(width: int) -> None:
    lines = shown(width)
    assert all(len(line) <= width for line in lines)
    words = " ".join(lines).split()
    for row in ROWS:
        assert all(word in words for cell in row for word in cell.split() if cell != "–")
    assert "nothing" not in words
    assert words.count("7.61") == 2
    if width == 120:
        assert len(lines) == 1 + len(ROWS)
    if width <= 40:  # paragraphs, in which heads stand before figures
        assert lines[0] == "▸ model moetool demo Q8_0"
        assert "  size 7.61 MiB" in lines[1]


def test_charts_are_no_wider_than_the_screen() -> None:
    dots = (Dot("a", 0.1, 5000, is_front=True), Dot("b", 0.9, 20, is_front=False))
    for width in (120, 60, 40):
        lines = text_chart(DotChart("Speed", "nats", "tok/s", dots), width)
        assert max(map(len, lines)) <= width
