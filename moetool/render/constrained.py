"""What a grammar costs and gains, for people."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.text import Text

from moetool.bench.constrained import ConstrainedRow
from moetool.render.fitted import filled_columns
from moetool.render.tables import show


def show_constrained(rows: Sequence[ConstrainedRow]) -> None:
    """A line for each schema, and the middle of all."""
    heads = ("schema", "tokens", "forced", "JSON tok/s", "free tok/s", "as fast", "from – to", "choice µs")
    cells = [
        (
            row.schema,
            str(row.n_tokens),
            str(row.n_forced),
            f"{row.json_tok_s:.1f}",
            f"{row.free_tok_s:.1f}",
            f"{row.gain:.2f} ×",
            f"{min(row.gains):.2f} – {max(row.gains):.2f}",
            f"{row.choice_us:.0f}",
        )
        for row in rows
    ]
    middle = statistics.median(row.gain for row in rows)
    told = (
        f"JSON under a schema is written {middle:.2f} × as fast as free text (the middle of these schemas)."
    )
    show(filled_columns(heads, cells, left={"schema"}), Text(), Text(told))
