"""Which settings to measure: axes with their values -> points, all together or one change at a time."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from moetool.errors import UsageError

# What is changed of the base, axis -> value as it was written; {} is the base itself.
Point = Mapping[str, str]
Mode = Literal["product", "each"]

# More are a mistake: each costs seconds.
MOST_POINTS = 256
_RANGE = re.compile(r"(\d{1,7})-(\d{1,7})(?:([+*])(\d{1,7}))?")


def make_points(axes: Mapping[str, Sequence[str]], mode: Mode = "product") -> tuple[Point, ...]:
    """Every combination of the axes' values, the last axis changing fastest; in the mode "each" the base, and
    then every value by itself. UsageError for more than MOST_POINTS."""
    if mode == "each":
        points: list[Point] = [{}, *({name: value} for name, values in axes.items() for value in values)]
    else:
        points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    if len(points) > MOST_POINTS:
        raise UsageError(
            f"That would be {len(points)} settings to measure",
            f"at most {MOST_POINTS}; see --sweep-mode each",
        )
    return tuple(points)


def parse_numbers(text: str, flag: str) -> tuple[int, ...]:
    """Whole numbers as llama-bench takes them: 1,2,4, ranges 1-4, 2-8+2 and 1-8*2. UsageError names the
    flag."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    numbers = [number for part in parts for number in _parse_part(part)]
    if not parts or any(not _parse_part(part) for part in parts):
        flag += "" if flag.endswith("=") else " "
        raise UsageError(
            f"{flag}{text} is not a list of numbers", f"write {flag}8 or {flag}4,8; also {flag}1-8*2"
        )
    if len(numbers) > MOST_POINTS:
        raise UsageError(f"{flag} {text} is more than {MOST_POINTS} numbers", "write steps: 1-1024*2")
    return tuple(dict.fromkeys(numbers))


def _parse_part(part: str) -> tuple[int, ...]:
    """The numbers of one part; none for what is not one."""
    if part.isdecimal() and len(part) < 8:
        return (int(part),)
    found = _RANGE.fullmatch(part)
    if found is None:
        return ()
    first, last, step = int(found[1]), int(found[2]), int(found[4] or 1)
    numbers: list[int] = []
    while first <= last and len(numbers) <= MOST_POINTS:
        numbers.append(first)
        following = first * step if found[3] == "*" else first + step
        if following <= first:
            return ()
        first = following
    return tuple(numbers)


def parse_pairs(texts: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """-pg 512,128, which may be repeated."""
    found = [re.fullmatch(r"\s*(\d{1,7})\s*,\s*(\d{1,7})\s*", text) for text in texts]
    for text, match in zip(texts, found, strict=True):
        if match is None:
            raise UsageError(f"-pg {text} is not a prompt and a generation", "write -pg 512,128")
    return tuple((int(match[1]), int(match[2])) for match in found if match)
