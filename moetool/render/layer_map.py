"""Which layers tolerate fewer experts, for people."""

from __future__ import annotations

import math

from rich.text import Text

from moetool.charts import Bar, BarChart
from moetool.lab.layer_map import LayerCost, LayerMap
from moetool.render.fitted import filled_columns
from moetool.render.tables import console, show
from moetool.render.text_charts import text_chart


def show_layer_map(found: LayerMap) -> None:
    """A row and a bar for each layer, all of them together, and which half tolerates it."""
    rows = [_cells(str(cost.layer), cost) for cost in found.layers]
    rows.append(_cells("all", found.together))
    known = [cost for cost in found.layers if math.isfinite(cost.kld.value)]
    bars = tuple(Bar(f"layer {cost.layer}", cost.kld.value, None) for cost in known)
    title = f"{found.keep} expert{'s' if found.keep != 1 else ''} instead of {found.own} in one layer"
    chart = text_chart(BarChart(title, "nats of mean KLD", bars), console().width) if bars else ()
    total = sum(cost.kld.value for cost in found.layers)
    lines = [
        f"KLD, same top: against all {found.own} experts, over {found.n_tokens} scored tokens; the weakest "
        "experts are dropped",
        f"One layer at a time they cost {total:.3g} nats in sum, all at once {found.together.kld.value:.3g}",
    ]
    if found.tolerant:
        lines.append(f"Least sensitive half: layers {_numbers(found.tolerant)}")
    show(
        filled_columns(("layer", "KLD", "95 %", "same top"), rows, left=set()),
        Text(),
        *(Text(line) for line in chart),
        Text(),
        *(Text(line) for line in lines),
    )


def _cells(name: str, cost: LayerCost) -> tuple[str, ...]:
    kld = cost.kld
    return name, f"{kld.value:.3g}", f"{kld.low:.3g} – {kld.high:.3g}", f"{100 * cost.same_top:.1f} %"


def _numbers(layers: tuple[int, ...]) -> str:
    return ", ".join(map(str, layers))
