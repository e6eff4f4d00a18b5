"""Which experts fire, on a terminal: figures, a map of layers by experts, distances, what is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.text import Text

from moetool.lab.diagnosis import Finding
from moetool.lab.examined import Examined
from moetool.lab.figures import LayerFigures
from moetool.render.fitted import Fitted, filled_columns
from moetool.render.plain import safe_line
from moetool.render.tables import facts_table, show

# From so many times even use on: a letter that stands out the more, and its colour.
_LEVELS = ((3.0, "█", "red"), (1.5, "▓", "yellow"), (0.5, "▒", "cyan"), (0.0, "░", "blue"))
_LEGEND = "Use of each expert: blank never, ░ below 0.5, ▒ about 1, ▓ from 1.5, █ from 3 times even use"
_EXPERTS = "experts"
DISTANCES = (
    "Distance between texts: Jensen–Shannon divergence of the use of experts in bits, mean of the layers;"
    " short texts look farther apart than they are"
)
_WIDEST_CELL = 3
_SHOWN_FINDINGS = 3


def show_experts(found: Examined) -> None:
    """One screen, or one line a layer."""
    show(facts_table(experts_facts(found)), Text(), Text(_LEGEND, style="dim"), _map(found))
    if len(found.profile.texts) > 1:
        show(Text(), Text(DISTANCES), _distances(found))
    style = "yellow" if found.findings else "green"
    show(Text(), *(Text(safe_line(line), style=style) for line in diagnosis_lines(found.findings)))


# -- figures ------------------------------------------------------------------------------------------


def experts_facts(found: Examined) -> dict[str, str]:
    """What all layers have in common, by name."""
    layers, profile = found.layers, found.profile
    texts = zip(profile.texts, profile.n_tokens, strict=True)
    n_used = _range_of([layer.n_used for layer in layers], "{:.0f}")
    n_expert = _range_of([layer.n_expert for layer in layers], "{:.0f}")
    facts = {
        "Model": f"{found.model.name}   {found.model.arch}, {found.model.quant},"
        f" {n_used} of {n_expert} experts in {len(layers)} layers",
        "Read": f"{', '.join(f'{name} {n} tokens' for name, n in texts)}; {found.seconds:.1f} s",
        "Balance": f"entropy {_range_of([layer.entropy for layer in layers])} (1: even),"
        f" Gini {_range_of([layer.gini for layer in layers])} (0: even), the most used tenth gets"
        f" {_range_of([100 * layer.top_share for layer in layers], '{:.0f}')} % of the choices",
    }
    confident = [layer.confidence for layer in layers if layer.confidence is not None]
    margins = [layer.margin for layer in layers if layer.margin is not None]
    if confident:
        facts["Confidence"] = (
            f"{_range_of(confident)} (0: as if by lot, 1: nothing for the others);"
            f" last chosen before first left out by {_range_of(margins, '{:.3f}')} of the gate"
        )
    overlaps = [layer.overlap for layer in layers if layer.overlap is not None]
    if overlaps:
        facts["Repetition"] = (
            f"{_range_of([100 * overlap for overlap in overlaps], '{:.0f}')} % of a token's experts were the"
            f" token's before{_cache_phrase(layers)}"
        )
    pairs = [(pair, layer.layer) for layer in layers for pair in layer.pairs]
    if pairs:
        pair, layer_number = max(pairs, key=lambda item: item[0].lift)
        facts["Together"] = (
            f"experts {pair.first} and {pair.second} of layer {layer_number}: for {pair.count} tokens,"
            f" {pair.lift:.1f} × as often as by chance"
        )
    if found.answer is not None:
        facts["Answer"] = found.answer
    return facts


def _cache_phrase(layers: Sequence[LayerFigures]) -> str:
    """Of the sizes that all layers have, with the mean of their hits."""
    sizes = [n for n, _ in layers[0].cache if all(n in dict(layer.cache) for layer in layers)]
    hits = [f"{n}: {100 * sum(dict(layer.cache)[n] for layer in layers) / len(layers):.0f} %" for n in sizes]
    return f"; hits of a cache of the last used experts of a layer, {', '.join(hits)}" if hits else ""


def _range_of(values: Sequence[float], form: str = "{:.2f}") -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} – {high}"


def figure(value: float | None, form: str = "{:.2f}") -> str:
    """A figure that may be unknown."""
    return "–" if value is None or math.isnan(value) else form.format(value)


# -- the map ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heat:
    """How often each expert of a layer was used, by even use: as wide as there is room for. Where there is
    none for all, one letter stands for several, and the most used of them counts."""

    uses: tuple[float, ...]

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> Iterator[Text]:
        row = Text(no_wrap=True)
        for use in fold(self.uses, options.max_width):
            letter, style = level(use)
            row.append(letter * min(_WIDEST_CELL, max(1, options.max_width // len(self.uses))), style=style)
        yield row

    def __rich_measure__(self, _console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(8, len(self.uses)), min(_WIDEST_CELL * len(self.uses), options.max_width))


def fold(uses: Sequence[float], width: int) -> list[float]:
    """At most `width` values: the largest of each few neighbours."""
    step = math.ceil(len(uses) / max(1, width))
    return [max(uses[at : at + step]) for at in range(0, len(uses), step)]


def level(use: float) -> tuple[str, str]:
    """The letter and the colour for a use."""
    return next(((letter, style) for least, letter, style in _LEVELS if use > least), (" ", ""))


def uses_of(found: Examined, at: int) -> tuple[float, ...]:
    """How often each expert of a layer was used, in times of even use."""
    figures = found.layers[at]
    counts = found.profile.counts[:, at, : figures.n_expert].sum(axis=0)
    return tuple((counts * figures.n_expert / max(1, int(counts.sum()))).tolist())


def _map(found: Examined) -> Fitted:
    heads = ("layer", _EXPERTS, "entropy", "top 10 %", "most used", "dead", "confidence", "repeated")
    rows = [
        (
            str(layer.layer),
            Heat(uses_of(found, at)),
            f"{layer.entropy:.2f}",
            f"{100 * layer.top_share:.0f} %",
            f"{layer.most}: {100 * layer.most_tokens:.0f} %",
            str(len(layer.dead) or "–"),
            figure(layer.confidence),
            figure(None if layer.overlap is None else 100 * layer.overlap, "{:.0f} %"),
        )
        for at, layer in enumerate(found.layers)
    ]
    return filled_columns(heads, rows, left={_EXPERTS})


def _distances(found: Examined) -> Fitted:
    names = [safe_line(name) for name in found.profile.texts]
    rows = [
        (name, *("–" if at == other else f"{value:.3f}" for other, value in enumerate(row)))
        for at, (name, row) in enumerate(zip(names, found.distances.tolist(), strict=True))
    ]
    return filled_columns(("", *names), rows, left={""})


# -- what is wrong ------------------------------------------------------------------------------------


def diagnosis_lines(findings: Sequence[Finding]) -> list[str]:
    """Sentences; of what is wrong in many layers the first few."""
    if not findings:
        return ["No router has collapsed, no expert is dead, no gate is uniform."]
    lines = []
    for code in dict.fromkeys(finding.code for finding in findings):
        alike = [finding for finding in findings if finding.code == code]
        lines += [f"! {finding.text}." for finding in alike[:_SHOWN_FINDINGS]]
        more = [str(finding.layer) for finding in alike[_SHOWN_FINDINGS:]]
        if more:
            lines.append(f"! … and the like in layer{'s' * (len(more) > 1)} {', '.join(more)}.")
    return lines
