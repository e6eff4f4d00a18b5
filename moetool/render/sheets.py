"""Bench rows as CSV and Markdown, in llama-bench's shapes."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence

from moetool.bench.report import BenchRow, row_fields
from moetool.render.plain import safe_line
from moetool.render.units import show_bytes, show_count


def print_csv(rows: Sequence[BenchRow]) -> None:
    """One line a row, every value quoted as llama-bench does; lists of samples stay in the JSON."""
    sheets = [{k: v for k, v in row_fields(row).items() if not isinstance(v, list)} for row in rows]
    writer = csv.DictWriter(sys.stdout, list(sheets[0]), quoting=csv.QUOTE_ALL, lineterminator="\n")
    sys.stdout.write(",".join(sheets[0]) + "\n")
    writer.writerows(
        {k: safe_line(str(v)) if isinstance(v, str) else v for k, v in s.items()} for s in sheets
    )


def print_markdown(rows: Sequence[BenchRow]) -> None:
    """llama-bench's table."""
    lines = [
        "| model | size | params | backend | threads | test | t/s | predicted |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        predicted = "?" if row.predicted_tok_s is None else f"{row.predicted_tok_s:.2f}"
        cells = (
            safe_line(row.model_type).replace("|", "\\|"),
            show_bytes(row.model_size_bytes),
            show_count(row.model_n_params),
            row.backends,
            str(row.settings.n_threads),
            row.samples.test.name,
            f"{row.samples.mean_tok_s:.2f} ± {row.samples.sd_tok_s:.2f}",
            predicted,
        )
        lines.append(f"| {' | '.join(cells)} |")
    sys.stdout.write("\n".join(lines) + "\n")
