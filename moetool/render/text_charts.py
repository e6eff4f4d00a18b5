"""Charts as lines of text, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from moetool.charts import BarChart, Chart, DotChart, LineChart, StackChart
from moetool.render.plain import safe_line
from moetool.render.svg import nice_marks, number

# Letters of the longest bar and of a plane, where there is room for them.
_BAR, _DOTS, _ROWS = 40, 56, 12
_LEAST = 10
_FILLS = "█▒▓░▚▞"
_LONGEST_NAME = 28


def text_chart(chart: Chart, width: int = 80) -> list[str]:
    """A title, and lines below it; bars and planes are no wider than `width` letters."""
    if isinstance(chart, BarChart):
        lines = _bars([(bar.name, bar.value) for bar in chart.bars], width)
        return [f"{chart.title}, {chart.unit}", *lines]
    if isinstance(chart, StackChart):
        return _stacks(chart, width)
    if isinstance(chart, LineChart):
        return _lines(chart, width)
    return _dots(chart, width)


def _name(text: str, width: int) -> str:
    text = safe_line(text)
    return (text if len(text) <= width else text[: width - 1] + "…").ljust(width)


def _width(names: Sequence[str]) -> int:
    return min(_LONGEST_NAME, max(map(len, names)))


def _bars(rows: Sequence[tuple[str, float]], width: int, most: float | None = None) -> list[str]:
    most = most or max(value for _, value in rows) or 1.0
    names_width = _width([name for name, _ in rows])
    longest = _longest(width, names_width, [number(value) for _, value in rows])
    return [
        f"  {_name(name, names_width)}  {_bar(value / most, longest)} {number(value)}" for name, value in rows
    ]


def _longest(width: int, names_width: int, numbers: Sequence[str]) -> int:
    """Letters of the longest bar between names and numbers."""
    return max(_LEAST, min(_BAR, width - names_width - max(map(len, numbers)) - 5))


def _bar(share: float, longest: int) -> str:
    """In eighths of a letter."""
    eighths = round(share * longest * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _lines(chart: LineChart, width: int) -> list[str]:
    """A bar for each point: what falls with depth is seen at once, and the figures stand beside it."""
    most = max(y for line in chart.lines for _, y in line.points)
    found = [f"{chart.title}, {chart.y}"]
    for line in chart.lines:
        found += [f" {safe_line(line.name)}", *_bars([(number(x), y) for x, y in line.points], width, most)]
    return found


def _stacks(chart: StackChart, width: int) -> list[str]:
    names = list(dict.fromkeys(name for stack in chart.stacks for name in stack.parts))
    fills = {name: _FILLS[at % len(_FILLS)] for at, name in enumerate(names)}
    most = max(sum(stack.parts.values()) for stack in chart.stacks) or 1.0
    sums = [number(sum(stack.parts.values())) for stack in chart.stacks]
    names_width = _width([stack.name for stack in chart.stacks])
    longest = _longest(width, names_width, sums)
    found = [f"{chart.title}, {chart.unit}: " + ", ".join(f"{fill} {name}" for name, fill in fills.items())]
    for stack, said in zip(chart.stacks, sums, strict=True):
        drawn, done = "", 0.0
        for name in names:
            done += stack.parts.get(name, 0.0)
            drawn += fills[name] * (round(done / most * longest) - len(drawn))
        found.append(f"  {_name(stack.name, names_width)}  {drawn} {said}")
    return found


def _dots(chart: DotChart, width: int) -> list[str]:
    """Numbers on a plane; the settings below it, those that none beats marked."""
    most_x = nice_marks(max(dot.x for dot in chart.dots))[-1]
    most_y = nice_marks(max(dot.y for dot in chart.dots))[-1]
    left = len(number(most_y))
    n_columns = max(_LEAST, min(_DOTS, width - left - len(number(most_x)) - 5))
    plane = [[" "] * (n_columns + 3) for _ in range(_ROWS)]
    for at, dot in enumerate(chart.dots, 1):
        row = _ROWS - 1 - round(dot.y / most_y * (_ROWS - 1))
        column = round(dot.x / most_x * n_columns)
        for offset, letter in enumerate(str(at)):
            plane[row][column + offset] = letter
    found = [f"{chart.title}: {chart.y}, over {chart.x}"]
    for number_of_row, row_letters in enumerate(plane):
        head = number(most_y) if number_of_row == 0 else "0" if number_of_row == _ROWS - 1 else ""
        found.append(f"  {head:>{left}} │{''.join(row_letters).rstrip()}")
    found.append(f"  {'':>{left}} └{'─' * n_columns} {number(most_x)}")
    for at, dot in enumerate(chart.dots, 1):
        mark = "▸" if dot.is_front else " "
        found.append(f" {mark}{at:>2} {safe_line(dot.name)}: {number(dot.y)} at {number(dot.x)} {chart.x}")
    return found
