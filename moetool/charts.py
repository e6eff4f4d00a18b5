"""Results as charts: what is drawn, whoever draws it. Knows no colours, no width, no HTML.

Made from the document of `bench` (its `rows`), so that a page can be drawn again from a kept document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]

MIB, GIB = 1 << 20, 1 << 30
# Beyond so many, names and colours no longer tell lines apart.
MOST_LINES = 6


@dataclass(frozen=True)
class Line:
    """Points (x, y), by ascending x."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class LineChart:
    """Values over a quantity."""

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Bar:
    """A value, and the range in which it was expected (None: nothing was)."""

    name: str
    value: float
    expected: tuple[float, float] | None


@dataclass(frozen=True)
class BarChart:
    """Values side by side."""

    title: str
    unit: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Stack:
    """A whole of named parts."""

    name: str
    parts: Mapping[str, float]


@dataclass(frozen=True)
class StackChart:
    """Wholes side by side, with the same parts in the same order."""

    title: str
    unit: str
    stacks: tuple[Stack, ...]


@dataclass(frozen=True)
class Dot:
    """One setting: where it stands, and whether none beats it."""

    name: str
    x: float
    y: float
    is_front: bool


@dataclass(frozen=True)
class DotChart:
    """Settings between two quantities."""

    title: str
    x: str
    y: str
    dots: tuple[Dot, ...]


Chart = LineChart | BarChart | StackChart | DotChart


def make_charts(rows: Sequence[Row]) -> tuple[Chart, ...]:
    """All that the rows are enough for: speed (over depth, where there are several), memory by device, and
    speed against memory (with divergence, where it was measured) for several settings."""
    charts: list[Chart] = []
    for unit, of_kind in (("prompt", _prompts(rows)), ("decode", _generations(rows))):
        if of_kind:
            charts.append(_speed(unit, of_kind))
    charts += _memory(rows)
    charts += _front(rows)
    return tuple(charts)


def setting_name(row: Row) -> str:
    """What a row's setting changes of the base: "kv q8_0, threads 2"."""
    point = row.get("point") or {}
    return ", ".join(f"{name} {value}" for name, value in point.items()) or "as planned"


def test_name(row: Row) -> str:
    """llama-bench's short name of a row's test."""
    parts = [f"{kind}{row[name]}" for kind, name in (("pp", "n_prompt"), ("tg", "n_gen")) if row[name]]
    depth = f" @ d{row['n_depth']}" if row["n_depth"] else ""
    return "+".join(parts) + depth


def _prompts(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["n_prompt"] and not row["n_gen"]]


def _generations(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["n_gen"] and not row["n_prompt"]]


def _speed(kind: str, rows: Sequence[Row]) -> Chart:
    if len({row["n_depth"] for row in rows}) < 2:
        bars = [Bar(_name_of(row, rows), row["median_ts"], _expected(row)) for row in rows]
        return BarChart(f"{kind.capitalize()} speed", "tokens/s", tuple(bars))
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        name = _name_of({**row, "n_depth": 0}, rows)
        lines.setdefault(name, []).append((row["n_depth"], row["median_ts"]))
    drawn = tuple(Line(name, tuple(sorted(points))) for name, points in lines.items())[:MOST_LINES]
    return LineChart(f"{kind.capitalize()} speed over depth", "tokens in context", "tokens/s", drawn)


def _name_of(row: Row, rows: Sequence[Row]) -> str:
    """What tells a row from the others: its setting, its test, or both."""
    settings = {setting_name(other) for other in rows}
    tests = {(other["n_prompt"], other["n_gen"]) for other in rows}
    if len(settings) < 2:
        return test_name(row)
    return setting_name(row) if len(tests) < 2 else f"{setting_name(row)}, {test_name(row)}"


def _expected(row: Row) -> tuple[float, float] | None:
    low, high = row.get("predicted_low_ts"), row.get("predicted_high_ts")
    return None if low is None or high is None else (low, high)


def _first_of_settings(rows: Sequence[Row]) -> list[Row]:
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(setting_name(row), row)
    return list(first.values())


def _size_unit(most_bytes: float) -> tuple[int, str]:
    """Small models would be nothing in GiB."""
    return (GIB, "GiB") if most_bytes >= GIB / 2 else (MIB, "MiB")


def _memory(rows: Sequence[Row]) -> list[Chart]:
    """A bar for each device of each setting, in the parts that llama.cpp made there."""
    settings = _first_of_settings(rows)
    uses = [(row, use) for row in settings for use in row.get("memory") or () if use["bytes"]]
    if not uses:
        return []
    size, unit = _size_unit(max(use["bytes"] for _, use in uses))
    stacks = []
    for row, use in uses:
        parts = use.get("parts") or {"all": use["bytes"]}
        name = use["device"] if len(settings) < 2 else f"{use['device']} · {setting_name(row)}"
        stacks.append(Stack(name, {part: n / size for part, n in parts.items() if n}))
    return [StackChart("Memory", unit, tuple(stacks))]


def _front(rows: Sequence[Row]) -> list[Chart]:
    """Speed against memory, and against divergence where it was measured: what none beats is marked."""
    rows = _generations(rows) or _prompts(rows)
    settings = _first_of_settings(rows)
    if len(settings) < 2:
        return []
    size, unit = _size_unit(max(row["memory_bytes"] for row in settings))
    speed = f"{test_name(settings[0])}, tokens/s"
    dots = [_dot(row, row["memory_bytes"] / size) for row in settings]
    charts: list[Chart] = [DotChart("Speed against memory", unit, speed, tuple(dots))]
    if all(row.get("kld_mean") is not None for row in settings):
        dots = [_dot(row, row["kld_mean"]) for row in settings]
        charts.append(DotChart("Speed against divergence", "mean KLD, nats", speed, tuple(dots)))
    return charts


def _dot(row: Row, x: float) -> Dot:
    return Dot(setting_name(row), x, row["median_ts"], bool(row.get("pareto")))
