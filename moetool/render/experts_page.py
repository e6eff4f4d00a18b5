"""Which experts fire, as a page: what is wrong, a map of layers by experts, figures by layer, distances."""

from __future__ import annotations

from moetool.lab.examined import Examined
from moetool.render.experts import DISTANCES, diagnosis_lines, experts_facts, figure, uses_of
from moetool.render.html import Html, tag, together
from moetool.render.page import section, table, whole_page
from moetool.report.lab import of_examined

_WIDTH, _LABEL, _ROW = 1000, 46, 14
_GAP = 1
# Full colour from so many times even use on.
_HOT = 4.0


def make_experts_page(found: Examined) -> str:
    """The page of one profile."""
    facts = experts_facts(found)
    listed = [together(tag("dt", name), tag("dd", text)) for name, text in facts.items() if name != "Model"]
    sections = (
        *section("Figures", tag("dl", *listed)),
        *section("Use of experts", _heat_map(found)),
        *section("Diagnosis", tag("ul", *(tag("li", line) for line in diagnosis_lines(found.findings)))),
        *section("Distance between texts", _distances(found)),
        *section("Layers", _layers(found)),
    )
    subtitle = facts["Model"].removeprefix(found.model.name).strip()
    return whole_page("experts", found.model.name, subtitle, sections, of_examined(found))


def _heat_map(found: Examined) -> Html:
    n_most = max(layer.n_expert for layer in found.layers)
    step = (_WIDTH - _LABEL) / n_most
    rows = [_heat_row(found, at, step) for at in range(len(found.layers))]
    height = _ROW * len(found.layers) + 4
    picture = tag("svg", *rows, viewBox=f"0 0 {_WIDTH} {height}", role="img", class_="heat")
    said = "A row for each layer, a box for each expert: empty never used, full from 4 times even use on."
    return tag("figure", tag("p", said, class_="unit"), picture)


def _heat_row(found: Examined, at: int, step: float) -> Html:
    layer, y = found.layers[at], _ROW * at
    boxes = [
        tag(
            "g",
            tag("title", f"layer {layer.layer}, expert {expert}: {use:.2f} × even use"),
            tag(
                "rect",
                x=round(_LABEL + expert * step, 2),
                y=y,
                width=round(max(step - _GAP, step / 2), 2),
                height=_ROW - _GAP,
                class_="heat" if use else "never",
                fill_opacity=round(0.08 + 0.92 * min(1.0, use / _HOT), 2) if use else None,
            ),
        )
        for expert, use in enumerate(uses_of(found, at))
    ]
    label = tag("text", str(layer.layer), x=_LABEL - 8, y=y + _ROW - 3, text_anchor="end")
    return together(label, *boxes)


def _distances(found: Examined) -> Html:
    names = found.profile.texts
    if len(names) < 2:
        return Html("")
    rows = [
        (name, *("–" if at == other else f"{value:.3f}" for other, value in enumerate(row)))
        for at, (name, row) in enumerate(zip(names, found.distances.tolist(), strict=True))
    ]
    said = DISTANCES.partition(": ")[2]
    return together(tag("p", said, class_="unit"), table(("", *names), rows))


def _layers(found: Examined) -> Html:
    heads = (
        "layer",
        "experts",
        "entropy",
        "Gini",
        "top 10 %",
        "most used",
        "dead",
        "confidence",
        "margin",
        "repeated",
        "cache hits",
    )
    rows = [
        (
            str(layer.layer),
            f"{layer.n_used} of {layer.n_expert}",
            f"{layer.entropy:.3f}",
            f"{layer.gini:.3f}",
            f"{100 * layer.top_share:.1f} %",
            f"{layer.most}: {100 * layer.most_tokens:.1f} %",
            ", ".join(map(str, layer.dead)),
            figure(layer.confidence, "{:.3f}"),
            figure(layer.margin, "{:.4f}"),
            figure(None if layer.overlap is None else 100 * layer.overlap, "{:.1f} %"),
            ", ".join(f"{n}: {100 * hits:.0f} %" for n, hits in layer.cache),
        )
        for layer in found.layers
    ]
    return table(heads, rows)
