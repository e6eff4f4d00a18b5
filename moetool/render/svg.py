"""Charts for a page: bars as boxes that follow its width, lines and dots as SVG. Colours come from the page's
style (`--c1` … `--c6`), so that they suit light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence

from moetool.charts import BarChart, Chart, DotChart, LineChart, StackChart
from moetool.render.html import Html, tag, together

N_COLOURS = 6
# Small enough that letters stay readable when a phone shrinks it.
_WIDTH, _HEIGHT = 380, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 20, 26, 40
_MARKS = 4


def draw(chart: Chart) -> Html:
    """A figure with its title, and all its numbers as text."""
    if isinstance(chart, BarChart):
        body = _bars(chart)
    elif isinstance(chart, StackChart):
        body = _stacks(chart)
    elif isinstance(chart, LineChart):
        body = _lines(chart)
    else:
        body = _dots(chart)
    return tag("figure", tag("figcaption", chart.title), body)


def nice_marks(most: float, n: int = _MARKS) -> list[float]:
    """0 and up to n + 1 round numbers above it, the last not below `most`."""
    if most <= 0:
        return [0.0, 1.0]
    rough = most / n
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(s * size for s in (1, 2, 2.5, 5, 10) if s * size >= rough * 0.999)
    return [i * step for i in range(math.ceil(most / step - 1e-9) + 1)]


def number(value: float) -> str:
    """Three digits that matter: 1234, 56.7, 0.89."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


# -- boxes --------------------------------------------------------------------------------------------


def _bars(chart: BarChart) -> Html:
    most = max(max(bar.value, *(bar.expected or (0.0,))) for bar in chart.bars) or 1.0
    rows = []
    for bar in chart.bars:
        parts = [tag("i", class_="bar", style=f"width:{100 * bar.value / most:.2f}%;background:var(--c1)")]
        said = number(bar.value)
        if bar.expected:
            low, high = bar.expected
            place = f"left:{100 * low / most:.2f}%;width:{100 * (high - low) / most:.2f}%"
            parts.append(tag("i", class_="expected", style=place))
            said += f" ({number(low)} – {number(high)})"
        rows.append(_row(bar.name, together(*parts), said))
    expected = [tag("i", class_="key expected"), "predicted"] if any(b.expected for b in chart.bars) else []
    unit = tag("p", chart.unit, *([" · ", *expected] if expected else []), class_="unit")
    return tag("div", unit, *rows, class_="bars")


def _stacks(chart: StackChart) -> Html:
    names = list(dict.fromkeys(name for stack in chart.stacks for name in stack.parts))
    most = max(sum(stack.parts.values()) for stack in chart.stacks) or 1.0
    rows = []
    for stack in chart.stacks:
        parts = [
            tag(
                "i",
                class_="part",
                title=f"{name} {number(stack.parts[name])} {chart.unit}",
                style=f"width:{100 * stack.parts[name] / most:.3f}%;background:{_colour(at)}",
            )
            for at, name in enumerate(names)
            if name in stack.parts
        ]
        rows.append(_row(stack.name, together(*parts), number(sum(stack.parts.values()))))
    return tag("div", tag("p", chart.unit, class_="unit"), *rows, _legend(names), class_="bars")


def _row(name: str, box: Html, said: str) -> Html:
    cells = (
        tag("span", name, class_="name"),
        tag("span", box, class_="track"),
        tag("span", said, class_="said"),
    )
    return tag("div", *cells, class_="row")


def _legend(names: Sequence[str]) -> Html:
    keys = [
        tag("span", tag("i", class_="key", style=f"background:{_colour(at)}"), name)
        for at, name in enumerate(names)
    ]
    return tag("p", *keys, class_="legend")


def _colour(at: int) -> str:
    return f"var(--c{at % N_COLOURS + 1})"


# -- SVG ----------------------------------------------------------------------------------------------


class _Plane:
    """Where a value stands in the picture."""

    def __init__(self, most_x: float, most_y: float) -> None:
        self.marks_x, self.marks_y = nice_marks(most_x), nice_marks(most_y)

    def x(self, value: float) -> float:
        return round(_LEFT + value / self.marks_x[-1] * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        return round(_HEIGHT - _BOTTOM - value / self.marks_y[-1] * (_HEIGHT - _TOP - _BOTTOM), 1)

    def picture(self, label_x: str, label_y: str, *inside: Html) -> Html:
        """Axes, grid and what is drawn."""
        left, right, bottom = self.x(0), self.x(self.marks_x[-1]), self.y(0)
        grid = [
            tag("line", x1=left, x2=right, y1=self.y(v), y2=self.y(v), class_="grid") for v in self.marks_y
        ]
        heights = [_word(left - 6, self.y(v) + 4, number(v), "end") for v in self.marks_y]
        widths = [_word(self.x(v), bottom + 16, number(v), "middle") for v in self.marks_x]
        labels = [
            _word(right, _HEIGHT - 6, label_x, "end", "label"),
            _word(left - 34, 12, label_y, "start", "label"),
        ]
        drawn = (*grid, *heights, *widths, *inside, *labels)
        return tag("svg", *drawn, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img")


def _word(x: float, y: float, text: str, anchor: str, class_: str | None = None) -> Html:
    return tag("text", text, x=x, y=y, text_anchor=anchor, class_=class_)


def _lines(chart: LineChart) -> Html:
    points = [point for line in chart.lines for point in line.points]
    plane = _Plane(max(x for x, _ in points), max(y for _, y in points))
    drawn = []
    for at, line in enumerate(chart.lines):
        steps = " ".join(
            f"{'L' if n else 'M'}{plane.x(x)} {plane.y(y)}" for n, (x, y) in enumerate(line.points)
        )
        drawn.append(tag("path", d=steps, class_="line", style=f"stroke:{_colour(at)}"))
        for x, y in line.points:
            said = tag("title", f"{line.name}: {number(y)} at {number(x)}")
            drawn.append(
                tag(
                    "g", said, tag("circle", cx=plane.x(x), cy=plane.y(y), r=3.5, style=f"fill:{_colour(at)}")
                )
            )
    return together(plane.picture(chart.x, chart.y, *drawn), _legend([line.name for line in chart.lines]))


def _dots(chart: DotChart) -> Html:
    plane = _Plane(max(dot.x for dot in chart.dots), max(dot.y for dot in chart.dots))
    drawn, names = [], []
    for at, dot in enumerate(chart.dots, 1):
        x, y = plane.x(dot.x), plane.y(dot.y)
        kind = "dot front" if dot.is_front else "dot"
        circle = tag("circle", cx=x, cy=y, r=9, class_=kind)
        drawn.append(tag("g", tag("title", dot.name), circle, _word(x, y + 4, str(at), "middle", kind)))
        figures = tag("small", f" {number(dot.y)} at {number(dot.x)} {chart.x}")
        names.append(tag("li", dot.name, figures, class_="front" if dot.is_front else None))
    front = [tag("p", "Filled: no other is as fast, as small and as true, and better in one.", class_="unit")]
    some = front if any(dot.is_front for dot in chart.dots) else []
    return together(plane.picture(chart.x, chart.y, *drawn), *some, tag("ol", *names))
