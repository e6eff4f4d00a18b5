"""One answer to one prompt: generate, then show the answer or the document."""

from __future__ import annotations

import sys

from moetool import report
from moetool.cli.answer import Request, matcher_for, prompt_of, stats_line
from moetool.cli.boundary import print_result
from moetool.cli.opening import Opened
from moetool.cli.recording import keep_answer, load_of
from moetool.cli.think import Think
from moetool.cli.thoughts import Show, make_generation
from moetool.engine.model import Engine
from moetool.errors import ContextFull, Interrupted, MoetoolError, OutputInvalid
from moetool.generate import CONTEXT, END_OF_TEXT, INTERRUPTED, LENGTH, Stats
from moetool.machine.paging import read_page_faults
from moetool.plan import Plan
from moetool.render.plain import AnswerWriter, ThinkingWriter, notice
from moetool.settings import Sampling


def answer_once(engine: Engine, opened: Opened, plan: Plan, request: Request, sampling: Sampling) -> None:
    """Answer the request's prompt; an answer that is not what was asked for ends in its error."""
    prompt = prompt_of(engine, opened, request)
    grammar = matcher_for(engine, request.constraint)
    generation = make_generation(engine, prompt, prompt.tokens, request.limits, grammar)
    # A constrained answer is shown whole or not at all, except to a person who watches it grow.
    hold = request.as_json or (request.constraint is not None and not sys.stdout.isatty())
    writer = AnswerWriter(hold=hold)
    show = Show(writer, _thinking_writer(request))
    n_faults = read_page_faults()
    for token in generation:
        show.write(token)
    show.end()
    writer.write(generation.rest())
    stats = generation.stats
    assert stats is not None  # the iteration has ended
    keep_answer(plan, stats, read_page_faults() - n_faults)
    predicted = plan.predict(load_of(plan, stats))
    problem = _problem(stats, generation.text)
    if request.as_json:
        loaded = report.Loaded(opened.model.paths[0].name, engine.load_s, engine.buffers)
        document = report.of_run(generation.text, stats, loaded, plan, predicted, sampling.seed)
        document["thinking"] = generation.thinking or None
        print_result("run", document, problem)
        return
    if problem is None:
        writer.release()
    writer.end()
    if stats.closing and not request.quiet:
        notice(_closing_line(stats))
    if not request.quiet and sys.stderr.isatty():
        notice(stats_line(stats, predicted))
    if problem is not None:
        raise problem


def _thinking_writer(request: Request) -> ThinkingWriter | None:
    """Where thinking is shown: on a terminal only, and never on stdout."""
    if request.as_json or request.quiet or not sys.stderr.isatty():
        return None
    return ThinkingWriter(hidden=request.think is Think.hide)


def _problem(stats: Stats, text: str) -> MoetoolError | None:
    """What makes an answer a failure although text was generated."""
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


def _closing_line(stats: Stats) -> str:
    """What was written in the model's place, and why."""
    limit = "--max-tokens" if stats.finish_reason == LENGTH else "the end of the context (--ctx)"
    return f"Cut off at {limit}; this closes the answer and is not the model's: {stats.closing}"
