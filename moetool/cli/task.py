"""What an answer must look like: what is enforced while it is written, what is checked when it is done."""

from __future__ import annotations

from dataclasses import dataclass

from moetool.constrain import Constraint, Judge, Refusal, parse_schema_loosely
from moetool.errors import OutputInvalid
from moetool.render.plain import notice


@dataclass(frozen=True)
class Task:
    """What the answer must look like, and how often it may be tried anew.

    constraint: what is enforced while decoding, None for free text. judge: what checks the finished answer,
    None where decoding has enforced all of it. left_out: what of a schema only the judge enforces.
    """

    constraint: Constraint | None = None
    judge: Judge | None = None
    left_out: tuple[Refusal, ...] = ()
    retries: int = 0


def best_effort_task(schema: str, retries: int) -> Task:
    """A schema of which decoding enforces what it can, and the finished answer is checked against all."""
    constraint, left_out = parse_schema_loosely(schema)
    return Task(constraint, Judge(constraint), left_out, retries)


def show_left_out(task: Task) -> None:
    """Name what is checked only at the end."""
    for refusal in task.left_out:
        notice(f"Checked only at the end: {refusal.reason}")


def invalid_answer(task: Task, text: str) -> OutputInvalid | None:
    """Why a whole answer is not what was asked for, with the places at fault; None when it is."""
    faults = task.judge.faults(text) if task.judge is not None else ()
    if not faults:
        return None
    return OutputInvalid(
        f"The answer breaks its schema: {'; '.join(faults)}: {text[-200:]!r}",
        "try again with --retries and a --temperature above 0",
    )
