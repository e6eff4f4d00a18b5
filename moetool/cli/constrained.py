"""`moetool bench --constrained`: JSON under schemas beside free text of the same model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from moetool.bench.constrained import ConstrainedRow, measure_constrained
from moetool.bench.documents import PROMPT, SCHEMAS
from moetool.cli.answer import grammar_maker, load_engine, require_fit
from moetool.cli.interrupt import CtrlC
from moetool.cli.opening import open_model, plan_for, read_this_machine
from moetool.cli.task import Task
from moetool.errors import UsageError
from moetool.render.progress import step_progress
from moetool.settings import Sampling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moetool.bench.matrix import Point
    from moetool.constrain import Constraint
    from moetool.generate import Grammar
    from moetool.plan import Wishes

_CTX = 1024


def measure_writing(
    name: str, wishes: Wishes, points: Sequence[Point], n_pairs: int, rpc: str | None, output: str
) -> None:
    """Measure and print `n_pairs` documents of each schema, in alternation with as long free text. UsageError
    for several points: it is done under one setting."""
    if len(points) > 1:
        raise UsageError("--constrained measures under one setting", "give each flag one value")
    if output not in {"text", "json"}:
        raise UsageError(f"What --constrained measures is not written as {output}", "use text or json")
    opened = open_model(name)
    plan = plan_for(opened, read_this_machine(rpc=rpc), replace(wishes, n_ctx=wishes.n_ctx or _CTX))
    require_fit(plan, name)
    with CtrlC() as ctrl_c, load_engine(opened, plan, ctrl_c.pressed) as engine:
        engine.use_sampling(Sampling(temperature=0))

        def make_matcher(constraint: Constraint) -> Grammar:
            grammar = grammar_maker(engine, Task(constraint))()
            assert grammar is not None  # there is a constraint
            return grammar

        prompt = engine.vocabulary.tokenize(PROMPT)
        with step_progress("Writing", len(SCHEMAS) * n_pairs) as on_pair:
            rows = measure_constrained(engine, prompt, make_matcher, SCHEMAS, n_pairs, on_pair)
    _print(rows, output)


def _print(rows: tuple[ConstrainedRow, ...], output: str) -> None:
    if output == "json":
        from moetool.cli.boundary import print_result
        from moetool.report.benchmarks import of_constrained

        print_result("bench", of_constrained(rows))
        return
    from moetool.render.constrained import show_constrained

    show_constrained(rows)
