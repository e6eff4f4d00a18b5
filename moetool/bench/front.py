"""Which settings none beats: as fast in every test, as small, as true to the model, and better in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from moetool.bench.report import BenchRow

# A figure of a setting in `BenchRow.extra` that counts here: how far its answers are from the reference's.
DIVERGENCE = "kld_mean"


def mark_front(rows: Sequence[BenchRow]) -> tuple[BenchRow, ...]:
    """The rows with `is_pareto` told, all of a setting alike; unchanged where there is one setting only."""
    settings: dict[tuple[tuple[str, str], ...], list[BenchRow]] = {}
    for row in rows:
        settings.setdefault(_key(row.point), []).append(row)
    if len(settings) < 2:
        return tuple(rows)
    merits = {key: _merits(of_setting) for key, of_setting in settings.items()}
    beaten = {
        key: any(_beats(other, mine) for name, other in merits.items() if name != key)
        for key, mine in merits.items()
    }
    return tuple(replace(row, is_pareto=not beaten[_key(row.point)]) for row in rows)


def _key(point: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(point.items())


def _merits(rows: Sequence[BenchRow]) -> dict[str, float]:
    """What is good about a setting, by name, each the more the better."""
    merits = {row.samples.test.name: row.samples.median_tok_s for row in rows}
    merits["memory"] = -rows[0].footprint.measured_bytes
    divergence = rows[0].extra.get(DIVERGENCE)
    if isinstance(divergence, int | float):
        merits["divergence"] = -divergence
    return merits


def _beats(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    if one.keys() != other.keys():
        return False
    return one != other and all(one[name] >= other[name] for name in one)
