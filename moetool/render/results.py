"""All that bench measured, on one screen: rows, quality of settings, charts of what can be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from moetool.bench.report import Benchmark, Judged, row_fields
from moetool.charts import BarChart, StackChart, make_charts
from moetool.eval import Figure
from moetool.render.bench import show_bench
from moetool.render.fitted import filled_columns
from moetool.render.plain import safe_line
from moetool.render.tables import console, show
from moetool.render.text_charts import text_chart


def show_results(benchmark: Benchmark) -> None:
    """Tables and charts; notes go to stderr."""
    if benchmark.rows:
        show_bench(benchmark)
    if benchmark.judged:
        show_judged(benchmark)
    show_charts([row_fields(row) | {"point": dict(row.point)} for row in benchmark.rows])


def show_judged(benchmark: Benchmark) -> None:
    """Perplexity, divergence and agreement of each setting, with 95 % intervals."""
    heads = (
        "setting",
        "against",
        "perplexity",
        "KLD mean",
        "median",
        "90 %",
        "99 %",
        "99.9 %",
        "max",
        "same top",
    )
    rows = [_cells(judged) for judged in benchmark.judged]
    first = benchmark.judged[0].quality
    said = f"{first.n_tokens} tokens scored in {first.n_chunks} chunks of {first.n_ctx}; in brackets 95 %"
    show(
        Text(),
        filled_columns(heads, rows, left={"setting", "against"}),
        Text(),
        Text(f"{said} intervals over chunks"),
        *_estimated(benchmark),
    )


def _estimated(benchmark: Benchmark) -> list[Text]:
    if not any(judged.is_estimated for judged in benchmark.judged):
        return []
    return [
        Text("Divergence is estimated from what was kept: the mean without bias, the median a little low")
    ]


def _cells(judged: Judged) -> tuple[str, ...]:
    setting = ", ".join(f"{name} {value}" for name, value in judged.point.items())
    against = safe_line(judged.reference or "")
    quality, kld = judged.quality, judged.quality.kld
    ppl = _with_range(quality.ppl, "{:.4f}")
    if kld is None:
        return (setting, against, ppl, *[""] * 7)
    return (
        setting,
        against,
        ppl,
        _with_range(kld.mean, "{:.3g}"),
        *(f"{figure.value:.3g}" for figure in (kld.median, kld.p90, kld.p99, kld.p99_9)),
        f"{kld.max:.3g}",
        f"{kld.same_top.value:.2%}",
    )


def _with_range(figure: Figure, form: str) -> str:
    if math.isinf(figure.value):
        return "infinite"
    low, high = form.format(figure.low), form.format(figure.high)
    return f"{form.format(figure.value)} [{low} – {high}]"


def show_charts(rows: Sequence[Mapping[str, Any]]) -> None:
    """Charts that compare something; a single bar says no more than the table."""
    for chart in make_charts(rows):
        is_single = isinstance(chart, BarChart) and len(chart.bars) < 2
        is_single |= isinstance(chart, StackChart) and len(chart.stacks) < 2
        if not is_single:
            show(Text(), *(Text(line) for line in text_chart(chart, console().width)))
