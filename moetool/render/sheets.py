"""Bench rows as CSV, Markdown, JSON lines and SQL, in llama-bench's shapes."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from typing import Any

from moetool.bench.report import Benchmark, BenchRow, row_fields
from moetool.render.bench import varying
from moetool.render.plain import notice, safe_line
from moetool.render.units import show_bytes, show_count


def print_csv(benchmark: Benchmark) -> None:
    """One line a row, every value quoted as llama-bench does; samples stay in the JSON."""
    sheets = _flat(benchmark.rows)
    writer = csv.writer(sys.stdout, quoting=csv.QUOTE_ALL, lineterminator="\n")
    sys.stdout.write(",".join(sheets[0]) + "\n")
    writer.writerows([_text(value) for value in sheet.values()] for sheet in sheets)
    _tell(benchmark)


def print_jsonl(benchmark: Benchmark) -> None:
    """One object a line, as llama-bench's."""
    for row in benchmark.rows:
        sys.stdout.write(json.dumps(row_fields(row)) + "\n")
    _tell(benchmark)


def print_sql(benchmark: Benchmark) -> None:
    """llama-bench's table with our columns behind its own: `… -o sql | sqlite3 results.db`."""
    sheets = _flat(benchmark.rows)
    columns = [f"  {_name(name)} {_sql_type(name, sheets)}" for name in sheets[0]]
    lines = ["CREATE TABLE IF NOT EXISTS llama_bench (", ",\n".join(columns), ");", ""]
    names = ", ".join(map(_name, sheets[0]))
    for sheet in sheets:
        values = ", ".join(map(_literal, sheet.values()))
        lines.append(f"INSERT INTO llama_bench ({names}) VALUES ({values});")
    sys.stdout.write("\n".join(lines) + "\n")
    _tell(benchmark)


def print_markdown(benchmark: Benchmark) -> None:
    """llama-bench's table."""
    rows = benchmark.rows
    varied = varying(rows)
    heads = ("model", "size", "params", "backend", *varied, "threads", "test", "t/s", "predicted", "memory")
    left = {"model", "backend"}
    lines = [
        f"| {' | '.join(heads)} |",
        f"| {' | '.join('---' if head in left else '---:' for head in heads)} |",
    ]
    for at, row in enumerate(rows):
        predicted = "?" if row.predicted.tok_s is None else f"{row.predicted.tok_s:.2f}"
        cells = (
            safe_line(row.subject.kind).replace("|", "\\|"),
            show_bytes(row.subject.size_bytes),
            show_count(row.subject.n_params),
            row.host.backends,
            *(column[at] for column in varied.values()),
            str(row.settings.n_threads),
            row.samples.test.name,
            f"{row.samples.mean_tok_s:.2f} ± {row.samples.sd_tok_s:.2f}",
            predicted,
            show_bytes(row.footprint.measured_bytes),
        )
        lines.append(f"| {' | '.join(cells)} |")
    host = rows[0].host
    sys.stdout.write("\n".join(lines) + f"\n\nbuild: {host.commit} (llama-cpp-python {host.package})\n")
    _tell(benchmark)


def _tell(benchmark: Benchmark) -> None:
    for note in benchmark.notes:
        notice(note)


def _flat(rows: Sequence[BenchRow]) -> list[dict[str, Any]]:
    """The fields of all rows, the same in each, without lists of samples; memory as "CPU=123;CUDA0=456"."""
    sheets = []
    for row in rows:
        fields = row_fields(row)
        fields["memory"] = ";".join(f"{use['device']}={use['bytes']}" for use in fields["memory"])
        sheets.append({name: value for name, value in fields.items() if not isinstance(value, list)})
    names = dict.fromkeys(name for sheet in sheets for name in sheet)
    return [{name: sheet.get(name) for name in names} for sheet in sheets]


def _text(value: object) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else safe_line(str(value))


# Fields without a value in the first rows.
_REALS = ("_ts", "_s", "_error", "_per_token")


def _sql_type(name: str, sheets: Sequence[dict[str, Any]]) -> str:
    kinds = {type(sheet[name]) for sheet in sheets} - {type(None)}
    if not kinds:
        return "REAL" if name.endswith(_REALS) else "INTEGER"
    return "TEXT" if str in kinds else "REAL" if float in kinds else "INTEGER"


def _name(name: str) -> str:
    """A column's name as SQL takes it, whoever made it up."""
    return name if name.isidentifier() else '"' + name.replace('"', '""') + '"'


def _literal(value: object) -> str:
    if value is None:
        return "NULL"
    return "'" + _text(value).replace("'", "''") + "'"
