"""`moetool plan` for a model on this disk: plan, hold it against llama.cpp's allocator, show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moetool.cli.priced import known_frontier, place_of, show_price
from moetool.errors import DoesNotFit

if TYPE_CHECKING:
    from moetool.cli.opening import Opened
    from moetool.machine import Machine
    from moetool.plan import Alternative, Plan, Wishes


@dataclass(frozen=True)
class Asked:
    """What `plan` was asked for: the wishes, the least speed, the program to print for ("" none), the draft
    model's name, the addresses of workers, the machine's file, and whether the answer is a document."""

    wishes: Wishes
    min_tok_s: float | None = None
    emit: str = ""
    draft: str = ""
    rpc: str = ""
    machine: str = ""
    as_json: bool = False


def plan_local(name: str, read_machine: Callable[[], Machine], asked: Asked, *, is_here: bool) -> None:
    """Plan and print; with `is_here` the machine is this one, and llama.cpp's allocator is asked. Raises
    DoesNotFit, once it was shown what would."""
    from moetool.cli.opening import check_by_dry_run, open_model, plan_for

    opened = open_model(name)
    plan = plan_for(opened, read_machine(), asked.wishes)
    if is_here and plan.fits:
        plan = check_by_dry_run(plan, opened.model.paths)
    show_price(plan, opened)
    problem = refusal_of(plan, opened.model.name)
    if asked.emit:
        print_emitted(plan, asked, str(opened.model.paths[0].absolute()))
    elif asked.as_json:
        _print_document(plan, opened, problem)
        return
    else:
        _show(plan, opened, name, asked)
    if problem:
        raise problem


def refusal_of(plan: Plan, name: str) -> DoesNotFit | None:
    """The error for a plan that does not fit, with what would in its hint."""
    if plan.fits:
        return None
    from moetool.plan import remedies

    missing = "; ".join(reason.text for reason in plan.reasons if reason.code == "does-not-fit")
    hint = "; ".join(remedy.text for remedy in remedies(plan))
    return DoesNotFit(f"{name} does not fit here: {missing}", hint or "a smaller quant, or another machine")


def print_emitted(plan: Plan, asked: Asked, path: str = "", repo: str = "", quant: str = "") -> None:
    """The plan for another program; nothing when it does not fit."""
    if not plan.fits:
        return
    import typer

    from moetool.cli.opening import open_model
    from moetool.emit import Source, emit

    draft_path = str(open_model(asked.draft).model.paths[0].absolute()) if asked.draft else ""
    text = emit(plan, asked.emit, Source(path, repo, quant, draft_path, asked.rpc))
    if not asked.as_json:
        typer.echo(text)
        return
    from moetool.cli.boundary import print_result

    print_result("plan", {"target": asked.emit, "text": text})


def _print_document(plan: Plan, opened: Opened, problem: DoesNotFit | None) -> None:
    from moetool.cli.boundary import print_result
    from moetool.plan import remedies
    from moetool.report.plans import of_plan

    file_name = opened.model.paths[0].name
    others = _alternatives(plan, opened)
    print_result("plan", of_plan(plan, file_name, others, tuple(remedies(plan))), problem)


def _alternatives(plan: Plan, opened: Opened) -> tuple[Alternative, ...]:
    """What else could be had of a plan that fits; with what was measured on this machine of other numbers of
    experts."""
    from moetool.plan import make_alternatives

    if not plan.fits:
        return ()
    kept = known_frontier(opened)
    is_here = kept is not None and kept.place == place_of(plan.machine)
    return make_alternatives(plan, kept.frontier if kept and is_here else None)


def _show(plan: Plan, opened: Opened, name: str, asked: Asked) -> None:
    from moetool.emit import wish_flags
    from moetool.plan import remedies
    from moetool.quality import expected_loss
    from moetool.render.plan import show_plan

    flags = [*wish_flags(asked.wishes), *(["--rpc", asked.rpc] if asked.rpc else [])]
    command = ["moetool", "run", name, *flags]
    if asked.wishes.n_seq > 1 or asked.draft:  # run has one sequence, and one model
        flags += ["--draft", asked.draft] if asked.draft else []
        flags += ["--machine", asked.machine] if asked.machine else []
        command = ["moetool", "plan", name, *flags, "--emit", "llama-server"]
    others = _alternatives(plan, opened)
    show_plan(plan, expected_loss(plan.anatomy), others, tuple(remedies(plan)), command)
