"""What an answer must look like: what is enforced while it is written, what is checked when it is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moetool.errors import ContextFull, Interrupted, MoetoolError, OutputInvalid
from moetool.generate import CONTEXT, END_OF_TEXT, INTERRUPTED, Stats
from moetool.render.plain import notice

# Most answers are free text, which waits for no grammar's room.
if TYPE_CHECKING:
    from moetool.constrain import Constraint, Judge, Refusal


@dataclass(frozen=True)
class Task:
    """What the answer must look like, and how often it may be tried anew.

    constraint: what is enforced while decoding, None for free text. judge: what checks the finished answer,
    None where decoding has enforced all of it. left_out: what of a schema only the judge enforces.
    by_llama: llama.cpp's own sampler enforces the constraint, a GBNF grammar.
    """

    constraint: Constraint | None = None
    judge: Judge | None = None
    left_out: tuple[Refusal, ...] = ()
    retries: int = 0
    by_llama: bool = False


def best_effort_task(schema: str, retries: int) -> Task:
    """A schema of which decoding enforces what it can, and the finished answer is checked against all."""
    from moetool.constrain import Judge, parse_schema_loosely

    constraint, left_out = parse_schema_loosely(schema)
    return Task(constraint, Judge(constraint), left_out, retries)


def show_left_out(task: Task) -> None:
    """Name what is checked only at the end."""
    for refusal in task.left_out:
        notice(f"Checked only at the end: {refusal.reason}")


def problem_of(task: Task, stats: Stats, text: str) -> MoetoolError | None:
    """What makes an answer a failure although text was generated; None when it is one."""
    return _cut_off(stats, text) or _invalid(task, text)


def _cut_off(stats: Stats, text: str) -> MoetoolError | None:
    """Why an answer is not whole."""
    if stats.finish_reason == INTERRUPTED:
        return Interrupted("Interrupted")
    if stats.complete is False:
        return OutputInvalid(
            f"The answer broke off before it was whole ({stats.finish_reason}): {text[-200:]!r}",
            "drop --stop, or stop at something else"
            if stats.finish_reason == END_OF_TEXT
            else "allow more with --max-tokens or --ctx",
        )
    # Under a grammar the answer is whole, and `_closing_line` says how it ended.
    if stats.finish_reason == CONTEXT and stats.complete is None:
        return ContextFull("The context is full, the answer is cut off", "ask for a larger one with --ctx")
    return None


def _invalid(task: Task, text: str) -> OutputInvalid | None:
    """Why a whole answer is not what was asked for, with the places at fault; None when it is."""
    faults = task.judge.faults(text) if task.judge is not None else ()
    if not faults:
        return None
    return OutputInvalid(
        f"The answer breaks its schema: {'; '.join(faults)}: {text[-200:]!r}",
        "raise --retries" if task.retries else "try again with --retries and a --temperature above 0",
    )
