"""What `/set` can change in a chat: a table of names, how each value is read, and what it changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from moetool.cli.think import Think
from moetool.errors import UsageError
from moetool.generate import Limits
from moetool.settings import Sampling


@dataclass(frozen=True)
class Knobs:
    """How the next answer is drawn and when it ends."""

    sampling: Sampling
    limits: Limits
    think: Think | None = None


@dataclass(frozen=True)
class Knob:
    """One name: `parse` reads a value (ValueError for none), `get` and `put` find it among the others."""

    takes: str
    parse: Callable[[str], Any]
    get: Callable[[Knobs], Any]
    put: Callable[[Knobs, Any], Knobs]


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not (math.isfinite(value) and low <= value <= high):
            raise ValueError(text)
        return value

    return parse


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return parse


def _whole_or_none(low: int, high: int) -> Callable[[str], int | None]:
    whole = _whole(low, high)
    return lambda text: None if text == "none" else whole(text)


def _sampling(field: str, takes: str, parse: Callable[[str], Any]) -> Knob:
    return Knob(
        takes,
        parse,
        lambda knobs: getattr(knobs.sampling, field),
        lambda knobs, value: replace(knobs, sampling=replace(knobs.sampling, **{field: value})),
    )


KNOBS: dict[str, Knob] = {
    "temperature": _sampling("temperature", "0 or more; 0 takes the likeliest token", _number(0, 100)),
    "top-k": _sampling("top_k", "0 or more; 0 is off", _whole(0, 1 << 30)),
    "top-p": _sampling("top_p", "0 to 1", _number(0, 1)),
    "min-p": _sampling("min_p", "0 to 1", _number(0, 1)),
    "repeat-penalty": _sampling("repeat_penalty", "0.01 or more; 1 is off", _number(0.01, 100)),
    "seed": _sampling("seed", "a whole number", _whole(0, (1 << 32) - 2)),
    "think": Knob(
        "show, hide or off",
        Think,
        lambda knobs: (knobs.think or Think.show).value,
        lambda knobs, value: replace(knobs, think=value),
    ),
    "max-tokens": Knob(
        "1 or more, or none",
        _whole_or_none(1, 1 << 30),
        lambda knobs: knobs.limits.max_tokens,
        lambda knobs, value: replace(knobs, limits=replace(knobs.limits, max_tokens=value)),
    ),
}


def set_knob(knobs: Knobs, argument: str) -> tuple[str, Knobs]:
    """The setting that "NAME VALUE" means, and `knobs` with it. Raises UsageError."""
    name, _, text = argument.replace("=", " ", 1).partition(" ")
    name = name.replace("_", "-")
    knob = KNOBS.get(name)
    if knob is None:
        raise UsageError(f"There is no setting {name!r}", f"there are {', '.join(KNOBS)}")
    try:
        return name, knob.put(knobs, knob.parse(text.strip().lower()))
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{name} cannot be {text.strip() or 'empty'!r}", f"it takes {knob.takes}") from error


def shown_value(knobs: Knobs, name: str) -> str:
    """A setting's value, as it would be typed."""
    value = KNOBS[name].get(knobs)
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def knob_lines(knobs: Knobs) -> list[str]:
    """Every setting and its value, one a line."""
    return [f"{name:<15} {shown_value(knobs, name):<12} {knob.takes}" for name, knob in KNOBS.items()]
