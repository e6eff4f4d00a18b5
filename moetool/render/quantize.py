"""What a quantization makes of a model, and what an importance matrix has seen, for people."""

from __future__ import annotations

from rich.text import Text

from moetool.lab.imatrix import Imatrix
from moetool.lab.quant_plan import QuantPlan, RoleRow
from moetool.render.fitted import filled_columns
from moetool.render.plain import safe_line
from moetool.render.tables import facts_table, show, show_command
from moetool.render.units import show_bytes, show_count, show_share

_SHOWN_TENSORS = 4
_SHOWN_EXPERTS = 8


def show_quant_plan(plan: QuantPlan, imatrix: Imatrix | None) -> None:
    """Sizes by role before and after, types, and what they rest on."""
    facts = {
        "Recipe": f"{plan.recipe}, {plan.basis}",
        "File": f"{show_bytes(plan.source_bytes)} → {show_bytes(plan.file_bytes)} ({plan.file_bytes} bytes),"
        f" {plan.bits_per_weight:.2f} bits a weight",
    }
    if plan.expected_kld is not None:
        facts["Expected"] = f"mean KL divergence about {plan.expected_kld:.2g} from the source"
    heads = ("role", "parameters", "before", "after", "bits", "types")
    rows = [_row(row) for row in plan.rows]
    show(facts_table(facts), Text(), filled_columns(heads, rows, left={"role", "types"}))
    for line in unseen_lines(imatrix) if imatrix else ():
        show(Text(safe_line(line), style="yellow"))


def _row(row: RoleRow) -> tuple[str, ...]:
    types = [
        quant.name if n == row.n_params else f"{quant.name} {show_share(n / row.n_params)}"
        for quant, n in row.types
    ]
    bits = 8 * row.after_bytes / row.n_params
    sizes = (show_bytes(row.before_bytes), show_bytes(row.after_bytes))
    return row.role, show_count(row.n_params), *sizes, f"{bits:.2f}", ", ".join(types)


def show_next(source: str, target: str) -> None:
    """What to type now: a file that was written can be judged."""
    show(Text())
    show_command("moetool", "bench", target, "--quality", "--ref", source, "-p", "0", "-n", "0")


def show_imatrix(imatrix: Imatrix, target: str) -> None:
    """What was collected, and of which experts nothing."""
    counts = [inputs.counts for inputs in imatrix.entries.values() if len(inputs.counts) > 1]
    facts = {
        "Read": f"{imatrix.n_chunks} chunks of {imatrix.chunk_tokens} tokens",
        "Inputs": f"of {len(imatrix.entries)} weight matrices",
    }
    if counts:
        seen = sorted(int(count) for row in counts for count in row)
        facts["Experts"] = (
            f"seen by {seen[0]} to {seen[-1]} tokens each, {seen[len(seen) // 2]} in the middle"
        )
    show(
        facts_table(facts), *(Text(safe_line(line), style="yellow") for line in unseen_lines(imatrix)), Text()
    )
    show_command("moetool", "quantize", "SRC", "DST", "--bpw", "4.5", "--imatrix", target)


def unseen_lines(imatrix: Imatrix) -> tuple[str, ...]:
    """Of which experts nothing is known, and what that means."""
    unseen = imatrix.unseen()
    if not unseen:
        return ()
    parts = []
    for name, experts in list(unseen.items())[:_SHOWN_TENSORS]:
        numbers = ", ".join(map(str, experts[:_SHOWN_EXPERTS])) + (
            ", …" if len(experts) > _SHOWN_EXPERTS else ""
        )
        parts.append(f"{len(experts)} of {name} ({numbers})")
    more = f"; and of {len(unseen) - _SHOWN_TENSORS} more tensors" if len(unseen) > _SHOWN_TENSORS else ""
    return (
        f"! Experts that no token came to: {'; '.join(parts)}{more}. Their weights are rounded as if no input"
        " mattered more than another; more text, or other text, would tell.",
    )
