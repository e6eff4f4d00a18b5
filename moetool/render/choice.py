"""The table of a model's quants: what each takes, how fast it should be, what it loses, which is picked."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from moetool.choice import Choice, Option
from moetool.plan import Plan
from moetool.render.plain import safe_line
from moetool.render.plan import device_bytes, placement_phrase, quality_band
from moetool.render.tables import console, error_console, machine_phrase, model_phrase, show, show_command
from moetool.render.units import show_bytes, show_gib, show_range

_HEADS = ("", "quant", "file GiB", "VRAM", "RAM", "decode tok/s", "expected loss", "placement")
_LEFT = {"", "quant", "expected loss", "placement"}
# The last column is folded into several lines; it is left out where it would be narrower than this.
_LEAST_PLACEMENT = 14


@dataclass(frozen=True)
class HeaderCost:
    """What reading the headers took."""

    fetched_bytes: int
    n_requests: int
    seconds: float


def show_choice(
    choice: Choice, cost: HeaderCost, notes: Sequence[str], next_command: Sequence[str], *, on_stderr: bool
) -> None:
    """The table, the sentence why, what it rests on, and what to type next, if anything."""
    screen = error_console() if on_stderr else console()
    show(*_parts(choice, cost, notes, screen.width), on_stderr=on_stderr)
    if next_command:
        show_command(*next_command)


def _parts(choice: Choice, cost: HeaderCost, notes: Sequence[str], width: int) -> Iterator[RenderableType]:
    plan = choice.nearest.plan
    model = model_phrase(plan.anatomy).replace(f", {plan.anatomy.quant},", ",", 1)
    yield Text(safe_line(f"{plan.anatomy.name}   {model}"), style="bold")
    yield Text(safe_line(f"This machine   {machine_phrase(plan.machine)}"))
    yield Text(f"Context        {plan.settings.n_ctx_seq} tokens, KV cache {_cache_types(plan)}")
    yield Text()
    yield from _table(choice, width)
    yield Text()
    yield Text(safe_line(_verdict(choice)), style="bold")
    yield from (Text(f"· {safe_line(remedy.text)}") for remedy in choice.remedies)
    yield from (Text(safe_line(note), style="yellow") for note in notes)
    yield Text(_basis(plan, cost), style="dim")


def _cache_types(plan: Plan) -> str:
    return f"{plan.settings.type_k}/{plan.settings.type_v}"


def _table(choice: Choice, width: int) -> Iterator[RenderableType]:
    """The quants; on a narrow screen without the last columns: numbers stay whole, and it is said."""
    rows = [("▸" if option is choice.pick else "", *_cells(option)) for option in choice.options]
    n_shown = _columns_that_fit(rows, width)
    table = Table(box=None, pad_edge=False)
    for head in _HEADS[:n_shown]:
        table.add_column(head, justify="left" if head in _LEFT else "right", no_wrap=head != "placement")
    for option, row in zip(choice.options, rows, strict=True):
        style = "bold" if option is choice.pick else "" if option.is_front else "dim"
        table.add_row(*row[:n_shown], style=style)
    yield table
    if n_shown < len(_HEADS):
        yield Text(f"(this screen is too narrow for: {', '.join(_HEADS[n_shown:])})", style="dim")


def _columns_that_fit(rows: Sequence[tuple[str, ...]], width: int) -> int:
    """How many columns, from the first on, there is room for, with two blanks between them."""
    cells = [max(map(cell_len, column)) for column in zip(_HEADS, *rows, strict=True)]
    needed = [*cells[:-1], min(cells[-1], _LEAST_PLACEMENT)]
    return sum(total <= width + 2 for total in itertools.accumulate(cell + 2 for cell in needed))


def _cells(option: Option) -> tuple[str, ...]:
    label, size = safe_line(option.label), show_gib(option.candidate.file_bytes)
    loss = quality_band(option.quality)
    if not option.fits:
        return label, size, "–", "–", "–", loss, f"does not fit: {safe_line(option.reason.text)}"
    speed = option.plan.speed
    return (
        label,
        size,
        show_gib(device_bytes(option.plan)[0]),
        show_gib(device_bytes(option.plan)[1]),
        show_range(speed.decode_low, speed.decode_high),
        loss,
        placement_phrase(option.plan),
    )


def _verdict(choice: Choice) -> str:
    if choice.pick is None:
        return f"Nothing fits. {choice.why.text}."
    return f"Picked {choice.pick.label}: {choice.why.text}."


def _basis(plan: Plan, cost: HeaderCost) -> str:
    read = f"{show_bytes(cost.fetched_bytes)} of headers read in {cost.seconds:.1f} s"
    if not cost.n_requests:
        read = "Headers from this disk"
    speed = plan.speed.missing or plan.speed.basis
    checked = [reason.text for reason in plan.reasons if reason.code == "dry-run"]
    memory = checked[0] if checked else "memory by llama.cpp's rules, not yet by its allocator"
    return f"{read}; {memory}. Speed basis: {speed}."
