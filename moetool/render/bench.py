"""What bench measured, as one screen: rows with the prediction beside them, loads, and what must be known."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from moetool.bench.report import QUALITY_FIELDS, Benchmark, BenchRow, row_fields
from moetool.render.fitted import NOTHING, filled_columns
from moetool.render.plain import notice, safe_line
from moetool.render.tables import show
from moetool.render.units import show_bytes, show_count, show_range

# Field -> its head: shown where rows differ in it.
VARYING = {
    "n_gpu_layers": "ngl",
    "n_cpu_moe": "n_cpu_moe",
    "experts": "experts",
    "repack": "repack",
    "n_batch": "n_batch",
    "n_ubatch": "n_ubatch",
    "type_k": "type_k",
    "type_v": "type_v",
}


def varying(rows: Sequence[BenchRow]) -> dict[str, list[str]]:
    """Head -> the rows' cells, of those settings in which they differ."""
    fields = [row_fields(row) for row in rows]
    found = {head: [_cell(row[name]) for row in fields] for name, head in VARYING.items()}
    return {head: cells for head, cells in found.items() if len(set(cells)) > 1}


def _cell(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else "own" if value is None else str(value)


def show_bench(benchmark: Benchmark) -> None:
    """llama-bench's columns, with the prediction beside the measurement; notes go to stderr."""
    rows = benchmark.rows
    varied = varying(rows)
    extra = list(dict.fromkeys(n for row in rows for n in row.extra if n not in QUALITY_FIELDS))
    heads = ("", "model", "size", "params", "backend", *varied, "threads", "test", "t/s", "predicted")
    heads += ("memory", "first token", "J/token", *extra)
    cells = [
        (
            "▸" if row.is_pareto else "",
            safe_line(row.subject.kind),
            show_bytes(row.subject.size_bytes),
            show_count(row.subject.n_params),
            row.host.backends,
            *(column[at] for column in varied.values()),
            str(row.settings.n_threads),
            row.samples.test.name,
            f"{row.samples.mean_tok_s:.2f} ± {row.samples.sd_tok_s:.2f}",
            show_range(row.predicted.low, row.predicted.high),
            show_bytes(row.footprint.measured_bytes),
            _seconds(row.samples.ttft_s),
            _figure(row.samples.energy_j_per_token),
            *(_figure(row.extra.get(name)) for name in extra),
        )
        for at, row in enumerate(rows)
    ]
    lines = [Text(line) for line in _lines(rows)]
    show(filled_columns(heads, cells, left={"", "model", "backend", "test"}), Text(), *lines)
    for note in benchmark.notes:
        notice(note)


def _lines(rows: Sequence[BenchRow]) -> list[str]:
    lines = [_load_line(rows[0])] if rows[0].footprint.loads else []
    if any(row.is_pareto for row in rows):
        lines.append("▸ no other setting here is as fast in every test, as small, and better in one")
    return lines


def _load_line(row: BenchRow) -> str:
    """How long loading took, and from where."""
    footprint = row.footprint
    cold, warm = footprint.load_s(is_cold=True), footprint.load_s(is_cold=False)
    parts = [f"{cold:.2f} s from the disk"] if cold is not None else []
    parts += [f"{warm:.2f} s from memory"] if warm is not None else []
    if not parts:
        parts = [f"{footprint.loads[0].seconds:.2f} s, the file partly in memory"]
    resident = (
        f" · at most {show_bytes(footprint.peak_rss_bytes)} resident" if footprint.peak_rss_bytes else ""
    )
    return f"Loaded in {', '.join(parts)}{resident}"


def _seconds(value: float | None) -> str:
    return NOTHING[0] if value is None else f"{value:.2f} s"


def _figure(value: float | str | None) -> str:
    if value is None:
        return NOTHING[0]
    return safe_line(value) if isinstance(value, str) else f"{value:.4g}"
