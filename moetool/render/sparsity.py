"""What each number of experts gives and costs, for people."""

from __future__ import annotations

import math

from rich.text import Text

from moetool.charts import Dot, DotChart
from moetool.frontier import Frontier, FrontierPoint, Interval, offer, unbeaten
from moetool.lab.sparsity import Sparsity
from moetool.render.fitted import filled_columns
from moetool.render.plain import notice, safe_line
from moetool.render.tables import console, show, show_command
from moetool.render.text_charts import text_chart
from moetool.render.units import show_count, show_rate


def show_sparsity(found: Sparsity, name: str) -> None:
    """The frontier, how it was measured, a chart, what is recommended, what to type; notes go to stderr."""
    frontier = found.frontier
    show(
        filled_columns(_heads(frontier), _rows(frontier), left={""}),
        Text(),
        *(Text(line) for line in _explained(found)),
        *_chart(frontier),
        Text(),
        Text(safe_line(_verdict(found))),
    )
    pick = found.pick or offer(frontier)
    if pick is not None and pick.experts != frontier.own:
        show_command("moetool", "run", name, "--experts", str(pick.experts))
    for note in found.benchmark.notes:
        notice(note)


def _heads(frontier: Frontier) -> tuple[str, ...]:
    by_text = [f"KLD {safe_line(score.text)}" for score in frontier.points[0].texts]
    heads = ("", "experts", "active", "decode tok/s", "predicted", "prompt tok/s", "predicted", "perplexity")
    return (*heads, "KLD", "95 %", "same top", *by_text)


def _rows(frontier: Frontier) -> list[tuple[str, ...]]:
    best = unbeaten(frontier.points)
    return [_cells(frontier, point, is_best=point.experts in best) for point in frontier.points]


def _cells(frontier: Frontier, point: FrontierPoint, *, is_best: bool) -> tuple[str, ...]:
    whole = point.whole
    return (
        "▸" if is_best else "",
        f"{point.experts} (own)" if point.experts == frontier.own else str(point.experts),
        show_count(point.n_params_active),
        show_rate(point.decode_tok_s),
        show_rate(point.predicted_decode_tok_s),
        show_rate(point.prompt_tok_s),
        show_rate(point.predicted_prompt_tok_s),
        f"{whole.ppl.value:.4g}" if whole else "",
        f"{whole.kld.value:.3g}" if whole and whole.kld else "–",
        _range(whole.kld) if whole and whole.kld else "–",
        f"{100 * whole.same_top:.1f} %" if whole and whole.same_top is not None else "–",
        *(f"{score.kld.value:.3g}" if score.kld else "–" for score in point.texts),
    )


def _range(interval: Interval) -> str:
    return f"{interval.low:.3g} – {interval.high:.3g}"


def _explained(found: Sparsity) -> list[str]:
    """What stands in the table, in the order of its columns."""
    tests = dict.fromkeys(row.samples.test.name for row in found.benchmark.rows)
    n_runs = min(len(row.samples.samples_ns) for row in found.benchmark.rows)
    lines = [
        "▸ no other number is as fast in both tests and as true to the model's own, and better in one",
        f"Speed: {' and '.join(tests)}, the middle of {n_runs} turns; predicted of the others: with what the "
        f"model's own {found.frontier.own} took",
    ]
    whole = found.frontier.points[0].whole
    if whole is not None:
        lines.append(
            f"KLD, same top: against {found.frontier.own} experts, over {whole.n_tokens} scored tokens"
            + (f" of {found.n_texts} texts" if found.n_texts > 1 else "")
        )
    anatomy = found.benchmark.plan.anatomy if found.benchmark.plan else None
    if anatomy is not None and not anatomy.routing.is_renormed:
        lines.append("This architecture does not renormalise the weights of fewer or more experts.")
    return lines


def _chart(frontier: Frontier) -> list[Text]:
    best = unbeaten(frontier.points)
    dots = [
        Dot(_experts(point.experts), point.kld, point.decode_tok_s, point.experts in best)
        for point in frontier.points
        if point.kld is not None and math.isfinite(point.kld)
    ]
    if len(dots) < 2 or not any(dot.x for dot in dots):
        return []
    chart = DotChart("Speed against divergence", "nats of mean KLD", "decode tok/s", tuple(dots))
    return [Text(), *(Text(line) for line in text_chart(chart, console().width))]


def _verdict(found: Sparsity) -> str:
    frontier, wish = found.frontier, found.min_tok_s
    if wish is not None and found.pick is None:
        return f"No number that was measured decodes {wish:g} tok/s."
    if found.pick is not None:
        return f"For {wish:g} tok/s, {_priced(frontier, found.pick)}."
    point = offer(frontier)
    if point is None:
        return f"Nothing is clearly faster at little divergence: keep the model's own {frontier.own} experts."
    return f"Worth a thought: {_priced(frontier, point)}. Never chosen unasked; plan offers it from now on."


def _priced(frontier: Frontier, point: FrontierPoint) -> str:
    if point.experts == frontier.own:
        return f"the model's own {frontier.own} experts are enough"
    gain, kld = frontier.gain(point), point.kld
    parts = [f"{100 * gain:+.0f} % decode speed" if gain is not None else "", f"KLD {kld:.3g}" if kld else ""]
    return f"{_experts(point.experts)} instead of {frontier.own}: {', '.join(filter(None, parts))}"


def _experts(count: int) -> str:
    return f"{count} expert{'s' if count != 1 else ''}"
