"""Two benchmarks side by side, for people."""

from __future__ import annotations

from rich.text import Text

from moetool.bench.compare import Comparison, Ratio
from moetool.render.fitted import filled_columns
from moetool.render.plain import notice, safe_line
from moetool.render.tables import show

_STYLES = {"faster": "green", "slower": "red"}


def show_comparison(found: Comparison, before: str, after: str) -> None:
    """A line for each pair, then the verdicts."""
    heads = ("test", "setting", "before t/s", "after t/s", "after / before", "95 % interval", "")
    rows = [
        (
            pair.test,
            safe_line(pair.setting),
            f"{pair.before_tok_s:.2f}",
            f"{pair.after_tok_s:.2f}",
            f"{pair.ratio.ratio:.3f}",
            _interval(pair.ratio),
            pair.ratio.verdict,
        )
        for pair in found.pairs
    ]
    lines = [Text(f"before {safe_line(before)}, after {safe_line(after)}")]
    lines += [Text(safe_line(difference)) for difference in found.differences]
    verdicts = [_verdict("Prompts", found.prompt), _verdict("Decoding", found.decode)]
    table = filled_columns(heads, rows, left={"test", "setting", ""})
    show(*lines, Text(), table, Text(), *(line for line in verdicts if line is not None))
    if found.n_alone:
        notice(f"{found.n_alone} rows have no partner in the other file.")


def _interval(ratio: Ratio) -> str:
    return "–" if ratio.low is None else f"{ratio.low:.3f} – {ratio.high:.3f}"


def _verdict(what: str, ratio: Ratio | None) -> Text | None:
    if ratio is None:
        return None
    verdict = ratio.verdict
    if verdict == "not known":
        return Text(f"{what}: not known, nothing was repeated (-r)")
    if verdict == "no difference":
        return Text(f"{what}: no difference ({_interval(ratio)})")
    by = f"{abs(ratio.ratio - 1):.1%}"
    return Text(f"{what}: {verdict} by {by} ({_interval(ratio)})", style=_STYLES[verdict])
