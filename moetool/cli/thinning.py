"""What `sparsity` does once its flags are read: measure speed and fidelity under each number of experts.

Each speed is measured twice, there and back, so that a machine that slows down meanwhile favours no number.
The model's own number comes first: what it took corrects what is predicted for the others.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from moetool.assets import quality_text_path
from moetool.bench.report import ITSELF, Benchmark, BenchRow, Judged, add_extra, quality_fields
from moetool.bench.speed import SpeedTest
from moetool.cli.answer import load_engine, require_fit
from moetool.cli.bench_rows import keep_samples, make_subject
from moetool.cli.interrupt import CtrlC
from moetool.cli.judging import read_text, reading_wishes, source_of
from moetool.cli.measuring import Matrix, Setting, finish, measure_settings, plan_points
from moetool.cli.opening import Opened, plan_for, read_this_machine
from moetool.cli.priced import place_of
from moetool.engine.model import Engine
from moetool.engine.reading import TextReader
from moetool.errors import UsageError
from moetool.eval import (
    CHUNK_TOKENS,
    Chunks,
    KeptReference,
    Quality,
    ReferenceWriter,
    make_chunks,
    measure_quality,
    pool_scores,
    summarize,
)
from moetool.eval.passes import Scores
from moetool.frontier import Frontier, TextScore, cheapest, counts_that_matter
from moetool.identity import read_model_digest
from moetool.kept_frontiers import KeptFrontier, keep_frontier, read_frontiers_path
from moetool.lab.sparsity import (
    AXIS,
    Sparsity,
    choose_chunks,
    choose_tests,
    join_passes,
    make_frontier,
    score_text,
)
from moetool.machine import Machine
from moetool.plan import Plan, Wishes, check_experts
from moetool.render.progress import step_progress

_REPETITIONS = 3
_OURS = "shipped text"


@dataclass(frozen=True)
class Asked:
    """What the flags say: numbers of experts (none: those that matter), texts to read (none: ours), about how
    many seconds to measure, and the decode speed that is wished for."""

    counts: tuple[int, ...] = ()
    texts: tuple[Path, ...] = ()
    budget_s: float = 300.0
    min_tok_s: float | None = None


def measure_sparsity(opened: Opened, wishes: Wishes, asked: Asked, rpc: str | None = None) -> Sparsity:
    """Measure the frontier of a model, and keep it for run and plan."""
    texts = _read_texts(asked.texts)
    counts = _counts(opened, asked)
    machine = read_this_machine(rpc=rpc, measure="unknown")
    rows, notes, plan = _measure_speed(opened, machine, wishes, counts, asked.budget_s / 2)
    qualities = _measure_quality(opened, machine, wishes, counts, texts, asked.budget_s / 2)
    frontier = make_frontier(opened.anatomy, rows, _scores(qualities))
    _keep(opened, machine, frontier)
    return Sparsity(
        frontier=frontier,
        benchmark=_benchmark(rows, notes, plan, qualities),
        n_texts=len(texts),
        min_tok_s=asked.min_tok_s,
        pick=cheapest(frontier, asked.min_tok_s) if asked.min_tok_s is not None else None,
    )


def _counts(opened: Opened, asked: Asked) -> tuple[int, ...]:
    """The numbers to measure, the model's own among them; UsageError for a model that has no choice."""
    anatomy = opened.anatomy
    own, routing = anatomy.n_expert_used, anatomy.routing
    if not anatomy.is_moe:
        raise UsageError(f"{opened.model.name} has no experts", "sparsity is about mixtures of experts")
    counts = asked.counts or counts_that_matter(own, routing.most)
    for count in counts:
        check_experts(anatomy, count)
    return tuple(sorted({*counts, own}))


# --- speed --------------------------------------------------------------------------------------------------


def _measure_speed(
    opened: Opened, machine: Machine, wishes: Wishes, counts: Sequence[int], budget_s: float
) -> tuple[tuple[BenchRow, ...], tuple[str, ...], Plan]:
    """Rows of all numbers, notes, and the plan of the model's own number."""
    own = opened.anatomy.n_expert_used
    speed = plan_for(opened, machine, wishes).speed
    n_runs = 2 * (_REPETITIONS + 1) * len(counts)
    n_prompt, n_gen = choose_tests(speed.prompt_tok_s or 100.0, speed.decode_tok_s or 10.0, n_runs, budget_s)
    tests = (SpeedTest(n_prompt, 0), SpeedTest(0, n_gen))
    points = tuple({AXIS: str(count)} for count in counts)
    matrix = Matrix(wishes, points, tests, _REPETITIONS)
    subject = make_subject(opened)

    def plans(numbers: Sequence[int]) -> list[Setting]:
        few = replace(matrix, points=tuple({AXIS: str(count)} for count in numbers))
        return plan_points(opened, machine, few)[0] if numbers else []

    first = plans([own])
    rows, notes = measure_settings(opened, subject, first, matrix)
    for row in rows:
        keep_samples(first[0].plan, row.samples)
    others = plans([count for count in counts if count != own])
    for settings in (others, [*reversed(others), *first]):
        if settings:
            more, problems = measure_settings(opened, subject, settings, matrix)
            rows, notes = [*rows, *more], [*notes, *problems]
    found = finish(join_passes(rows), matrix, notes)
    return found.rows, found.notes, first[0].plan


# --- fidelity -----------------------------------------------------------------------------------------------


def _read_texts(paths: Sequence[Path]) -> dict[str, str]:
    """Name -> text; the files' names without what is the same in none."""
    if not paths:
        return {_OURS: read_text(quality_text_path())}
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return {name: read_text(path) for name, path in zip(names, paths, strict=True)}


def _measure_quality(
    opened: Opened,
    machine: Machine,
    wishes: Wishes,
    counts: Sequence[int],
    texts: Mapping[str, str],
    budget_s: float,
) -> dict[int, dict[str, Quality]]:
    """Number -> text -> quality, all texts together under "" first: the model's own number is read first, and
    what it expects is kept for the others."""
    own = opened.anatomy.n_expert_used
    plans = {count: _reading_plan(opened, machine, wishes, count) for count in counts}
    n_reads, speed = len(counts) * len(texts), plans[own].speed.prompt_tok_s or 100.0
    n_chunks = choose_chunks(speed, plans[own].settings.n_ctx_seq, n_reads, budget_s)
    found: dict[int, dict[str, Quality]] = {}
    with ExitStack() as stack, CtrlC() as ctrl_c, step_progress("Reading", n_reads) as on_text:
        files = {name: stack.enter_context(tempfile.TemporaryFile()) for name in texts}
        for count in (own, *(count for count in counts if count != own)):
            with load_engine(opened, plans[count], ctrl_c.pressed) as engine:
                reader = _Reader(opened, engine, ctrl_c.pressed, n_chunks)
                scores = {}
                for name, text in texts.items():
                    scores[name] = reader.read(text, files[name], is_first=count == own)
                    on_text()
            n_ctx = plans[count].settings.n_ctx_seq
            found[count] = {"": summarize(pool_scores(list(scores.values())), n_ctx)}
            found[count] |= {name: summarize(score, n_ctx) for name, score in scores.items()}
    return found


def _reading_plan(opened: Opened, machine: Machine, wishes: Wishes, count: int) -> Plan:
    n_ctx = min(CHUNK_TOKENS, opened.anatomy.n_ctx_train or CHUNK_TOKENS)
    plan = plan_for(opened, machine, reading_wishes(opened, replace(wishes, n_ctx=n_ctx, experts=count)))
    require_fit(plan, opened.model.name)
    return plan


@dataclass(frozen=True)
class _Reader:
    """One number of experts, loaded, as a reader of texts."""

    opened: Opened
    engine: Engine
    is_cancelled: Callable[[], bool]
    n_chunks: int

    def read(self, text: str, file: IO[bytes], *, is_first: bool) -> Scores:
        """Read a text. What its first reader expects is kept in the file, for the others."""
        reader = TextReader(self.engine, self.is_cancelled)
        if not is_first:
            reference = KeptReference(file)
            return measure_quality(reader, reference.chunks, reference)
        chunks = self._cut(text)
        with ReferenceWriter(file, source_of(self.engine, self.opened), chunks) as keeper:
            return measure_quality(reader, chunks, None, keeper)

    def _cut(self, text: str) -> Chunks:
        vocabulary = self.engine.vocabulary
        tokens = vocabulary.tokenize(text, add_special=True)
        chunks = make_chunks(tokens, self.engine.n_ctx, vocabulary.bos if vocabulary.adds_bos else None)
        return replace(chunks, tokens=chunks.tokens[: self.n_chunks])


# --- results ------------------------------------------------------------------------------------------------


def _scores(qualities: Mapping[int, Mapping[str, Quality]]) -> dict[int, list[TextScore]]:
    """What the frontier keeps; each text by itself only where there are several."""
    found = {}
    for count, by_text in qualities.items():
        n_texts = len(by_text) - 1
        found[count] = [score_text(name, q) for name, q in by_text.items() if name == "" or n_texts > 1]
    return found


def _benchmark(
    rows: tuple[BenchRow, ...],
    notes: tuple[str, ...],
    plan: Plan,
    qualities: Mapping[int, Mapping[str, Quality]],
) -> Benchmark:
    own = plan.anatomy.n_expert_used
    judged = []
    for count, by_text in sorted(qualities.items()):
        is_own = count == own
        name = ITSELF if is_own else f"experts {own}"
        judged.append(Judged({AXIS: str(count)}, by_text[""], name, is_estimated=not is_own))
    for one in judged:
        rows = add_extra(rows, one.point, quality_fields(one))
    return Benchmark(rows, notes, tuple(judged), plan)


def _keep(opened: Opened, machine: Machine, frontier: Frontier) -> None:
    fingerprint, devices = place_of(machine)
    kept = KeptFrontier(
        digest=read_model_digest(opened.model.paths),
        weights_bytes=opened.anatomy.weights_bytes,
        fingerprint=fingerprint,
        devices=devices,
        when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        frontier=frontier,
    )
    keep_frontier(read_frontiers_path(), kept)
