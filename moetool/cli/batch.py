"""`moetool run --batch`: what becomes of a file of prompts, once the flags are read."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from moetool.batch.jobs import Job, parse_jobs, short_hash
from moetool.batch.results import BatchDone, InOrder, ResultsFile, answer_line
from moetool.cli.answer import Request, choose_sampling, load_engine, require_chance, require_fit
from moetool.cli.batch_answers import BatchAnswers
from moetool.cli.boundary import print_result
from moetool.cli.interrupt import CtrlC
from moetool.cli.opening import Opened, plan_for, read_this_machine
from moetool.cli.priced import show_price
from moetool.cli.task import show_left_out
from moetool.engine.slots import Slots
from moetool.errors import Interrupted, NotFound, Unanswered
from moetool.identity import read_model_digest
from moetool.machine import Machine
from moetool.plan import Plan, Wishes
from moetool.render.plain import AnswerWriter, notice
from moetool.render.progress import step_progress
from moetool.report.runs import of_batch
from moetool.settings import Sampling

# So many at once if there is room: more gained little (scripts/bench_batch.py).
MOST_AT_ONCE = 16


@dataclass(frozen=True)
class Batch:
    """What `--batch` was given: the file of prompts ("-" is stdin), the file for the answers (None: stdout),
    how many are answered at once (None: as many as the plan has room for)."""

    source: str
    out: Path | None = None
    parallel: int | None = None


def answer_batch(
    opened: Opened,
    wishes: Wishes,
    request: Request,
    sampling_flags: Mapping[str, Any],
    rpc: str | None,
    batch: Batch,
) -> None:
    """Answer every prompt that has no line yet; Unanswered when some of all have no answer."""
    # What is to be continued draws the same every time, also where nobody asks for a seed.
    given = {name: value for name, value in sampling_flags.items() if value is not None}
    sampling = choose_sampling(opened, {"seed": 0} | given)
    require_chance(request.task, sampling)
    jobs = parse_jobs(_read_source(batch.source), request.system)
    settings_hash = _hash_settings(opened, wishes, request, sampling)
    with _open_sink(batch, jobs, settings_hash) as sink:
        done = BatchDone(batch.out, len(jobs), sink.n_kept, sink.n_failed)
        if not request.quiet:
            _tell_before(done)
        if sink.n_kept < len(jobs):
            plan = _plan(opened, read_this_machine(rpc=rpc), wishes, batch.parallel, len(jobs) - sink.n_kept)
            require_fit(plan, opened.model.name)
            if not request.quiet:
                show_price(plan, opened)
            run = _Run(opened, plan, request, sampling, jobs, settings_hash)
            done = run.answer_rest(sink, done)
    problem = _unanswered(done)
    if request.as_json:
        print_result("run", of_batch(done), problem)
    if done.n_parallel and not request.quiet and sys.stderr.isatty():
        notice(_stats_line(done))
    if problem is not None:
        raise problem


def _read_source(source: str) -> bytes:
    if source == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(source).read_bytes()
    except OSError as error:
        hint = "the number of tokens of a prompt at a time is --batch-size" if source.isdecimal() else ""
        raise NotFound(f"Cannot read {source}: {error.strerror}", hint) from error


def _hash_settings(opened: Opened, wishes: Wishes, request: Request, sampling: Sampling) -> str:
    """A name for everything but the prompt that an answer depends on, as far as it was asked for."""
    task, constraint = request.task, request.constraint
    return short_hash(
        {
            "model": read_model_digest(opened.model.paths),
            "sampling": asdict(sampling),
            "limits": asdict(request.limits),
            "constraint": [constraint.kind, constraint.source] if constraint else None,
            "by_llama": task.by_llama,
            "judged": task.judge is not None,
            "retries": task.retries,
            "system": request.system,
            "raw": request.raw,
            "think": request.think,
            "context": wishes.n_ctx,
            "cache": [wishes.type_k, wishes.type_v],
            "experts": wishes.experts,
        }
    )


class _Stdout:
    """Lines on stdout: nothing is there yet, whatever went there before."""

    n_kept = 0
    n_failed = 0

    def __init__(self) -> None:
        self.write = AnswerWriter().write


def _open_sink(
    batch: Batch, jobs: Sequence[Job], settings_hash: str
) -> AbstractContextManager[ResultsFile | _Stdout]:
    return ResultsFile(batch.out, jobs, settings_hash) if batch.out else nullcontext(_Stdout())


def _plan(opened: Opened, machine: Machine, wishes: Wishes, parallel: int | None, n_prompts: int) -> Plan:
    """The plan for so many sequences as were asked for, else for as many as leave the weights where they are
    for one; never for more than there are prompts."""

    def plan_with(n_seq: int) -> Plan:
        return plan_for(opened, machine, replace(wishes, n_seq=n_seq, kv_unified=n_seq > 1))

    if parallel is not None:
        return plan_with(min(parallel, n_prompts))
    alone = plan_with(1)
    n_seq = min(MOST_AT_ONCE, n_prompts)
    while n_seq > 1:
        plan = plan_with(n_seq)
        if plan.fits and _placement(plan) == _placement(alone):
            return plan
        n_seq //= 2
    return alone


def _placement(plan: Plan) -> tuple[object, ...]:
    chosen = plan.settings
    return chosen.devices, chosen.n_gpu_layers, chosen.tensor_overrides, chosen.type_k, chosen.type_v


@dataclass(frozen=True)
class _Run:
    """Everything that answering takes."""

    opened: Opened
    plan: Plan
    request: Request
    sampling: Sampling
    jobs: Sequence[Job]
    settings_hash: str

    def answer_rest(self, sink: ResultsFile | _Stdout, done: BatchDone) -> BatchDone:
        """Answer what `sink` does not have; `done` grows by it."""
        if not self.request.quiet:
            show_left_out(self.request.task)
        with (
            CtrlC() as ctrl_c,
            load_engine(self.opened, self.plan, ctrl_c.pressed) as engine,
            Slots(engine, ctrl_c.pressed) as slots,
        ):
            lines = InOrder(sink.write, sink.n_kept)
            try:
                return self._answer_with(slots, lines, done)
            except Interrupted:
                raise _interrupted(done, lines.n_written) from None

    def _answer_with(self, slots: Slots, lines: InOrder, done: BatchDone) -> BatchDone:
        answers = BatchAnswers(slots, self.opened, self.request, self.sampling, self.jobs)
        started = time.perf_counter()
        done = replace(done, n_parallel=len(slots.all))
        with _progress(done) as step:
            for job, answer in answers.to(self.jobs[done.n_kept :]):
                lines.add(job.index, answer_line(job, self.settings_hash, answer))
                done = done.with_answer(answer)
                step()
        return replace(done, seconds=time.perf_counter() - started)


def _tell_before(done: BatchDone) -> None:
    """What there is to say before anything is answered."""
    if not done.n_prompts:
        notice("There are no prompts.")
    elif done.n_kept:
        notice(f"{done.n_kept} of {done.n_prompts} answers are in {done.out} already.")


def _progress(done: BatchDone) -> AbstractContextManager[Callable[[], None]]:
    """A bar, except where it would run through the answers."""
    if done.out is None and sys.stdout.isatty():
        return nullcontext(lambda: None)
    return step_progress("Answering", done.n_prompts - done.n_kept)


def _interrupted(done: BatchDone, n_written: int) -> Interrupted:
    n_there = done.n_kept + n_written
    if done.out is None:
        return Interrupted(f"Interrupted after {n_there} of {done.n_prompts} answers")
    message = f"Interrupted: {n_there} of {done.n_prompts} answers are in {done.out}"
    return Interrupted(message, "the same command goes on from there")


def _unanswered(done: BatchDone) -> Unanswered | None:
    if not done.n_failed:
        return None
    where = done.out or "the output"
    return Unanswered(
        f"{done.n_failed} of {done.n_prompts} prompts have no answer",
        f'the lines of {where} with an "error" say why',
    )


def _stats_line(done: BatchDone) -> str:
    parts = [f"{done.n_prompts - done.n_kept} prompts in {done.seconds:.1f} s, {done.n_parallel} at once"]
    if done.generated_tok_s is not None:
        parts.append(f"{done.generated_tokens} tokens, {done.generated_tok_s:.1f} tok/s together")
    return " · ".join(parts)
