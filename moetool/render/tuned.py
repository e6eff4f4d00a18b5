"""What `tune` has tried and found, for people."""

from __future__ import annotations

from rich.text import Text

from moetool.bench.tuning import ANSWER_TOKENS, PROMPT_TOKENS, Tuned
from moetool.render.fitted import filled_columns
from moetool.render.plain import safe_line
from moetool.render.tables import show, show_command


def show_tuned(tuned: Tuned, name: str) -> None:
    """Every change with the seconds of a turn, what was chosen, and what to type."""
    plan_s = tuned.tried[0][1] if tuned.tried else float("nan")
    rows = [
        (
            "▸" if point == tuned.point else "",
            ", ".join(f"{axis} {value}" for axis, value in point.items()) or "the plan",
            f"{seconds:.3g}",
            f"{plan_s / seconds:.2f} ×",
        )
        for point, seconds in tuned.tried
    ]
    turn = f"turn s: {PROMPT_TOKENS} tokens read, {ANSWER_TOKENS} written; in the middle of the probes"
    if tuned.is_cut_short:
        verdict = "There was no time to make sure that anything is faster than the plan: give more --budget."
    elif tuned.gain is None:
        verdict = "Nothing that was tried is surely faster than the plan."
    else:
        low, high = tuned.gain.low or tuned.gain.ratio, tuned.gain.high or tuned.gain.ratio
        verdict = (
            f"A turn is {tuned.gain.ratio:.2f} × as fast as planned ({low:.2f} – {high:.2f}); run uses this"
            " from now on."
        )
    show(
        filled_columns(("", "change", "turn s", "as fast"), rows, left={"", "change"}),
        Text(),
        Text(turn),
        Text(safe_line(verdict)),
        Text(),
    )
    show_command("moetool", "run", name)
