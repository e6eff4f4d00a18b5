"""Documents of measured speed and quality, as moetool/data/*.schema.json describe them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from moetool.finite import finite
from moetool.report.plans import of_plan

if TYPE_CHECKING:
    from moetool.bench.compare import Comparison, Ratio
    from moetool.bench.constrained import ConstrainedRow
    from moetool.bench.report import Benchmark, Judged
    from moetool.bench.tuning import Tuned
    from moetool.plan import Plan


def of_bench(benchmark: Benchmark, file_name: str = "") -> dict[str, Any]:
    """The bench document (bench.schema.json); a row's `point` says what its setting changes of the base.
    `plan` is that of the first setting."""
    from moetool.bench.report import row_fields

    rows = [row_fields(row) | {"point": dict(row.point)} for row in benchmark.rows]
    return {
        "schema": "moetool-bench-1",
        "rows": rows,
        "quality": [_of_judged(judged) for judged in benchmark.judged],
        "notes": list(benchmark.notes),
        "plan": of_plan(benchmark.plan, file_name) if benchmark.plan else None,
    }


def _of_judged(judged: Judged) -> dict[str, Any]:
    about = {
        "point": dict(judged.point),
        "reference": judged.reference,
        "estimated": judged.is_estimated,
    }
    return about | {name: finite(value) for name, value in asdict(judged.quality).items()}


def of_comparison(found: Comparison) -> dict[str, Any]:
    """What two benchmarks differ by (bench-compare.schema.json); ratios are of the second to the first."""
    return {
        "schema": "moetool-bench-compare-1",
        "pairs": [asdict(pair) | {"ratio": _of_ratio(pair.ratio)} for pair in found.pairs],
        "prompt": _of_ratio(found.prompt),
        "decode": _of_ratio(found.decode),
        "differences": list(found.differences),
        "rows_alone": found.n_alone,
    }


def _of_ratio(ratio: Ratio | None) -> dict[str, Any] | None:
    return None if ratio is None else asdict(ratio) | {"verdict": ratio.verdict}


def of_constrained(rows: Sequence[ConstrainedRow]) -> dict[str, Any]:
    """Writing under schemas beside free text (bench-constrained.schema.json); `gain` is how many times as
    fast."""
    return {
        "schema": "moetool-bench-constrained-1",
        "constrained": [asdict(row) | {"gain": row.gain} for row in rows],
    }


def of_tuned(plan: Plan, tuned: Tuned) -> dict[str, Any]:
    """What tuning has found (tune.schema.json): what to change of the plan, by how much faster a turn is, all
    that was tried, and the settings of the plan."""
    return {
        "schema": "moetool-tune-1",
        "changes": dict(tuned.point),
        "gain": None if tuned.gain is None else asdict(tuned.gain),
        "cut_short": tuned.is_cut_short,
        "tried": [{"changes": dict(point), "turn_s": finite(seconds)} for point, seconds in tuned.tried],
        "plan": asdict(plan.settings),
    }
