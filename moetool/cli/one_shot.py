"""One answer to one prompt: generate, then show the answer or the document."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from moetool.cli.answer import Request, grammar_maker, stats_line, template_of
from moetool.cli.boundary import print_result
from moetool.cli.fitted import FittedPrompt, Fitting, begin_with, let_shift, prompt_maker
from moetool.cli.opening import Opened
from moetool.cli.recording import keep_answer, load_of
from moetool.cli.task import problem_of
from moetool.cli.think import Think
from moetool.cli.thoughts import Show, make_generation
from moetool.engine.model import Engine
from moetool.errors import Interrupted, MoetoolError, OutputInvalid
from moetool.generate import LENGTH, Stats
from moetool.machine.paging import read_page_faults
from moetool.plan import Plan
from moetool.prompt import Message
from moetool.render.plain import AnswerWriter, ThinkingWriter, notice
from moetool.report.runs import Loaded, of_run
from moetool.settings import Sampling
from moetool.speed import Speed

if TYPE_CHECKING:
    from moetool.cli.session import Saved, Session


@dataclass(frozen=True)
class _Attempt:
    """One answer: what was written, what it took, why it is not one, and how to repeat it."""

    text: str
    thinking: str
    stats: Stats
    problem: MoetoolError | None
    seed: int
    retries: int


def answer_once(
    engine: Engine,
    opened: Opened,
    plan: Plan,
    request: Request,
    sampling: Sampling,
    session: Session | None = None,
) -> None:
    """Answer the request's prompt; an answer that is not what was asked for ends in its error."""
    writer = AnswerWriter(hold=_is_held(request))
    n_faults = read_page_faults()
    fitted = _fitted_prompt(engine, opened, request)
    for last in _attempts(engine, fitted, request, sampling, writer):
        # A retry finds its prompt in the cache: only the first attempt tells what an answer costs, if other
        # programs left it its cores.
        if not last.retries and engine.had_its_threads:
            keep_answer(plan, last.stats, read_page_faults() - n_faults)
    if not request.as_json:
        if last.problem is None:
            writer.release()
        writer.end()
    saved, problem = _keep(session, engine, last.problem)
    predicted = plan.predict(load_of(plan, last.stats))
    if request.as_json:
        loaded = Loaded(opened.model.paths[0].name, engine.load_s, engine.buffers)
        document = of_run(last.text, last.stats, loaded, plan, predicted, last.seed)
        document |= {"thinking": last.thinking or None, "retries": last.retries}
        document |= {"session": asdict(saved) if saved else None, "truncated_tokens": fitted.n_dropped}
        print_result("run", document, problem)
        return
    if not request.quiet:
        _tell(engine, last, predicted)
    if session is not None and saved is not None:
        session.tell_kept(saved, last.stats)
    if problem is not None:
        raise problem


def _fitted_prompt(engine: Engine, opened: Opened, request: Request) -> FittedPrompt:
    """The request's prompt as tokens: through the chat template, or bare with --raw; it is told what was left
    out of it."""
    template = template_of(opened, request)
    messages = [Message("system", request.system)] if request.system and template else []
    messages.append(Message("user", request.prompt))
    fitting = Fitting(engine, request.on_full, request.limits.max_tokens)
    fitted = fitting.fit(messages, prompt_maker(engine.vocabulary, template, request.think))
    if fitted.told and not request.quiet:
        notice(f"The prompt is too long: {fitted.told}.")
    return fitted


def _keep(
    session: Session | None, engine: Engine, problem: MoetoolError | None
) -> tuple[Saved | None, MoetoolError | None]:
    """Keep a session, but not one that Ctrl-C broke off. What prevents it is told after the answer, which
    comes first where both have gone wrong."""
    if session is None or isinstance(problem, Interrupted):
        return None, problem
    try:
        return session.keep(engine), problem
    except MoetoolError as error:
        return None, problem or error


def _is_held(request: Request) -> bool:
    """A constrained answer is shown whole or not at all, except to a person who watches it grow."""
    task = request.task
    may_be_taken_back = task.judge is not None or task.retries > 0
    return (
        request.as_json or may_be_taken_back or (request.constraint is not None and not sys.stdout.isatty())
    )


def _attempts(
    engine: Engine, fitted: FittedPrompt, request: Request, sampling: Sampling, writer: AnswerWriter
) -> Iterator[_Attempt]:
    """Answers, each with a new seed, up to the first valid one or as many as may be tried; at least one."""
    make_grammar = grammar_maker(engine, request.task)
    for retry in range(request.task.retries + 1):
        seed = (sampling.seed + retry) % ((1 << 32) - 1)
        if retry:
            engine.use_sampling(replace(sampling, seed=seed))
            writer.forget()
        tokens = begin_with(engine, fitted, request.on_full)
        if request.task.retries or request.session:
            engine.memory.mark(len(fitted.prompt.tokens) - 1)
        generation = make_generation(engine, fitted.prompt, tokens, request.limits, make_grammar())
        let_shift(generation, engine, fitted, request.on_full)
        show = Show(writer, _thinking_writer(request))
        for token in generation:
            show.write(token)
        show.end()
        writer.write(generation.rest())
        stats = generation.stats
        assert stats is not None  # the iteration has ended
        problem = problem_of(request.task, stats, generation.text)
        yield _Attempt(generation.text, generation.thinking, stats, problem, seed, retry)
        if not isinstance(problem, OutputInvalid):
            return


def _thinking_writer(request: Request) -> ThinkingWriter | None:
    """Where thinking is shown: on a terminal only, and never on stdout."""
    if request.as_json or request.quiet or not sys.stderr.isatty():
        return None
    return ThinkingWriter(hidden=request.think is Think.hide)


def _tell(engine: Engine, attempt: _Attempt, predicted: Speed) -> None:
    """What there is to say beside an answer: how it ended and how often it was tried; to people its speed."""
    if attempt.stats.shifted_tokens:
        notice(
            f"The context was full: {attempt.stats.shifted_tokens} older tokens were forgotten on the way."
        )
    if attempt.stats.closing and attempt.problem is None:
        notice(_closing_line(attempt.stats))
    if attempt.retries:
        notice(f"Tried {attempt.retries + 1} times; the last seed was {attempt.seed}.")
    if sys.stderr.isatty():
        notice(stats_line(engine, attempt.stats, predicted))


def _closing_line(stats: Stats) -> str:
    """What was written in the model's place, and why."""
    limit = "--max-tokens" if stats.finish_reason == LENGTH else "the end of the context (--ctx)"
    return f"Cut off at {limit}; this closes the answer and is not the model's: {stats.closing}"
