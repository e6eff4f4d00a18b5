"""Tables without lines that fit the screen: figures stay whole, and on a narrow one rows are paragraphs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

# What stands where there is nothing to say.
NOTHING = ("–", "")
# Blanks between columns; and names longer than this may go on below.
_GAP, _LONGEST_NAME = 2, 16


def columns(heads: Sequence[str], left: Collection[str]) -> Table:
    """A table with these heads, no lines, and numbers to the right. What is too wide goes on below."""
    table = Table(box=None, pad_edge=False)
    for head in heads:
        table.add_column(head, justify="left" if head in left else "right", overflow="fold")
    return table


def filled_columns(
    heads: Sequence[str], rows: Sequence[Sequence[RenderableType]], left: Collection[str]
) -> Fitted:
    """The same with its rows, without columns in which nothing stands, and fitted to the screen."""
    kept = [at for at in range(len(heads)) if any(row[at] not in NOTHING for row in rows)]
    fitted = tuple(tuple(row[at] for at in kept) for row in rows)
    return Fitted(tuple(heads[at] for at in kept), fitted, frozenset(left))


@dataclass(frozen=True)
class Fitted:
    """A table whose words stay whole; where there is no room for them side by side, a paragraph a row."""

    heads: tuple[str, ...]
    rows: tuple[tuple[RenderableType, ...], ...]
    left: frozenset[str]

    def __rich_console__(self, screen: Console, options: ConsoleOptions) -> RenderResult:
        needs = [
            _need(head, [row[at] for row in self.rows], screen, options) for at, head in enumerate(self.heads)
        ]
        least = [min(n.word, _LONGEST_NAME) if n.head in self.left else n.word for n in needs]
        room = options.max_width - _GAP * (len(needs) - 1)
        if sum(least) > room:
            for row in self.rows:
                yield Text("\n  ".join(_filled_lines(self._phrases(row), options.max_width - 2)))
            return
        table = columns(self.heads, self.left)
        for column, width in zip(table.columns, _widths(least, needs, room), strict=True):
            column.width = width
        for row in self.rows:
            table.add_row(*row)
        yield table

    def _phrases(self, row: Sequence[RenderableType]) -> Iterator[str]:
        """Heads and what stands below them; a mark without a head stands before the first."""
        mark = ""
        for head, cell in zip(self.heads, row, strict=True):
            text = str(cell) if isinstance(cell, str | Text) else ""  # bars are for tables
            if text in NOTHING:
                continue
            if head:
                yield f"{mark}{head} {text}"
            mark = "" if head else f"{text} "


@dataclass(frozen=True)
class _Need:
    """Letters of a column's longest word, its longest text, the longest word of its head, and the longest of
    all."""

    head: str
    word: int
    text: int
    head_word: int
    whole: int


def _need(head: str, cells: Sequence[RenderableType], screen: Console, options: ConsoleOptions) -> _Need:
    found = [Measurement.get(screen, options, cell) for cell in cells]
    word, longest = max(one.minimum for one in found), max(one.maximum for one in found)
    is_text = isinstance(cells[0], str | Text)
    of_head = Measurement.get(screen, options, head)
    return _Need(head, word, longest if is_text else word, of_head.minimum, max(longest, of_head.maximum))


def _widths(least: Sequence[int], needs: Sequence[_Need], room: int) -> list[int]:
    """What each column gets of the room: the words of its head, then whole texts, then bars and whole heads;
    where there is not enough, whoever lacks most comes first."""
    widths = list(least)
    for wanted in (
        [max(need.word, need.head_word) for need in needs],
        [max(need.text, need.head_word) for need in needs],
        [need.whole for need in needs],
    ):
        while sum(widths) < room:
            lacking = [want - width for want, width in zip(wanted, widths, strict=True)]
            if max(lacking) <= 0:
                break
            widths[lacking.index(max(lacking))] += 1
    return widths


def _filled_lines(phrases: Iterable[str], width: int) -> Iterator[str]:
    """Phrases side by side, as many as there is room for."""
    line = ""
    for phrase in phrases:
        longer = f"{line} · {phrase}" if line else phrase
        if line and cell_len(longer) > width:
            yield line
            longer = phrase
        line = longer
    yield line
