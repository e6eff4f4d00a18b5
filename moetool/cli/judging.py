"""What `bench --quality` does: which text, held against which reference, in one pass or in two."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from moetool.assets import quality_text_path
from moetool.bench.front import mark_front
from moetool.bench.matrix import Point
from moetool.bench.report import ITSELF, Benchmark, Judged, add_extra, quality_fields
from moetool.cli.answer import load_engine, require_fit
from moetool.cli.interrupt import CtrlC
from moetool.cli.new_file import new_file
from moetool.cli.opening import Opened, open_model, plan_for, read_this_machine
from moetool.cli.sweeping import at_point
from moetool.engine.model import Engine
from moetool.engine.reading import TextReader
from moetool.errors import NotFound, ReferenceUnusable, UsageError
from moetool.eval import (
    CHUNK_TOKENS,
    Chunks,
    KeptReference,
    LiveReference,
    Quality,
    Reference,
    ReferenceWriter,
    Source,
    is_reference,
    make_chunks,
    measure_quality,
    summarize,
)
from moetool.identity import read_model_digest
from moetool.kept_qualities import KeptQuality, keep_quality, read_qualities_path
from moetool.machine import Machine
from moetool.plan import Plan, Wishes
from moetool.render.plain import notice
from moetool.render.progress import step_progress

# Logits that are held at once; more do not make reading faster.
_LOGITS_BYTES = 64 << 20
_LEAST_ROWS = 16


@dataclass(frozen=True)
class Asked:
    """What the flags say: the file of the text (None: ours), the reference (a model's name or a file of kept
    expectations; None: the first setting, where there are several), where to keep expectations."""

    text: Path | None = None
    reference: str | None = None
    save: Path | None = None


def check_asked(asked: Asked, points: Sequence[Point]) -> None:
    """What is wrong with the flags is to be said before anything is measured, which may take minutes."""
    if asked.save is not None and len(points) > 1:
        raise UsageError("--save-ref keeps what one setting expects", "leave --sweep and lists out")
    if asked.save is not None:
        _require_replaceable(asked.save)
    if asked.text is not None:
        read_text(asked.text)
    if asked.reference is not None and not is_reference(Path(asked.reference)):
        open_model(asked.reference)
    elif asked.reference is not None:
        with Path(asked.reference).open("rb") as stream:
            KeptReference(stream)


def judge_benchmark(
    opened: Opened,
    wishes: Wishes,
    points: Sequence[Point],
    benchmark: Benchmark,
    asked: Asked,
    rpc: str | None = None,
) -> Benchmark:
    """The benchmark with the quality of every setting that was measured (of all `points` where no speed was),
    also in the columns of its rows."""
    points = list({tuple(row.point.items()): row.point for row in benchmark.rows}.values()) or points
    judged, plan = judge_all(opened, wishes, points, asked, rpc)
    rows = benchmark.rows
    for one in judged:
        rows = add_extra(rows, one.point, quality_fields(one))
        _keep(opened, wishes, asked, one)
    return replace(benchmark, rows=mark_front(rows), judged=judged, plan=benchmark.plan or plan)


def _keep(opened: Opened, wishes: Wishes, asked: Asked, judged: Judged) -> None:
    """Keep what was found of the file itself: not of other experts or caches than its own."""
    if judged.point or wishes.experts is not None or wishes.type_k is not None:
        return
    quality, kld = judged.quality, judged.quality.kld
    from_reference = (
        asked.text is None and asked.reference is not None and is_reference(Path(asked.reference))
    )
    kept = KeptQuality(
        digest=read_model_digest(opened.model.paths),
        text="its reference's text" if from_reference else (asked.text or quality_text_path()).name,
        n_tokens=quality.n_tokens,
        n_vocab=opened.anatomy.n_vocab,
        when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        ppl=quality.ppl.value,
        kld=kld.mean.value if kld else None,
        reference=Path(judged.reference).name if judged.reference else None,
    )
    keep_quality(read_qualities_path(), kept)


def judge_all(
    opened: Opened, wishes: Wishes, points: Sequence[Point], asked: Asked, rpc: str | None = None
) -> tuple[tuple[Judged, ...], Plan]:
    """Read the text under every setting; returns the plan of the first as well. Of several settings without a
    reference the first is the others'."""
    is_base = asked.reference is None and len(points) > 1
    with CtrlC() as ctrl_c:
        judge = _Judge(opened, read_this_machine(rpc=rpc), wishes, asked, ctrl_c.pressed)
        with judge.named_reference() as reference:
            first = judge.judge(points[0], reference)
            if is_base:
                first = replace(first, reference=ITSELF)
                reference = _Model(opened, at_point(wishes, points[0]), "the first setting")
            others = [judge.judge(point, reference) for point in points[1:]]
    plan = plan_for(opened, judge.machine, reading_wishes(opened, at_point(wishes, points[0])))
    return (first, *others), plan


@dataclass
class _Model:
    """A model as the reference, with what its settings are to be; `kept` once it has been read by itself."""

    opened: Opened
    wishes: Wishes
    name: str
    kept: KeptReference | None = None


@dataclass(frozen=True)
class _Judge:
    """Who reads: the model, where and how, and what the user may stop."""

    opened: Opened
    machine: Machine
    wishes: Wishes
    asked: Asked
    is_cancelled: Callable[[], bool]

    @contextmanager
    def named_reference(self) -> Iterator[_Model | KeptReference | None]:
        """What --ref names."""
        name = self.asked.reference
        if name is None:
            yield None
        elif is_reference(Path(name)):
            with Path(name).open("rb") as stream:
                yield KeptReference(stream)
        else:
            yield _Model(open_model(name), Wishes(n_threads=self.wishes.n_threads), name)

    def judge(self, point: Point, reference: _Model | KeptReference | None) -> Judged:
        """Read the text under one setting."""
        wishes = at_point(self.wishes, point)
        if isinstance(reference, _Model):
            plan = self._plan_beside(wishes, reference)
            if plan is not None:
                return self._judge_beside(point, plan, reference)
            return self._judge_alone(point, wishes, self._kept(reference), reference.name)
        return self._judge_alone(point, wishes, reference, reference.source.model if reference else None)

    def _judge_alone(
        self, point: Point, wishes: Wishes, kept: KeptReference | None, name: str | None
    ) -> Judged:
        """Against what was kept, or nothing."""
        plan = self._plan(self.opened, wishes, kept.chunks.n_ctx if kept else None)
        with load_engine(self.opened, plan, self.is_cancelled) as engine:
            chunks = self._chunks(engine, kept)
            quality = self._read(engine, chunks, kept, self.asked.save)
            return Judged(point, quality, name, is_estimated=kept is not None)

    # -- a model as the reference --------------------------------------------------------------------

    def _plan_beside(self, wishes: Wishes, model: _Model) -> Plan | None:
        """A plan with room for both; None where there is none, or the reference was read already."""
        if model.kept is not None:
            return None
        wishes = replace(reading_wishes(self.opened, wishes), draft=model.opened.anatomy)
        plan = plan_for(self.opened, self.machine, wishes)
        return plan if plan.fits else None

    def _judge_beside(self, point: Point, plan: Plan, model: _Model) -> Judged:
        """Both read chunk by chunk, and nothing is kept."""
        assert plan.draft is not None
        own = model.wishes
        settings = replace(
            plan.draft.settings, type_k=own.type_k or "f16", type_v=own.type_v or "f16", experts=own.experts
        )
        beside = replace(plan, settings=settings)
        with (
            load_engine(self.opened, plan, self.is_cancelled) as engine,
            load_engine(model.opened, beside, self.is_cancelled) as other,
        ):
            _require_same(engine, vocabulary_digest(other), model.name)
            live = LiveReference(TextReader(other, self.is_cancelled))
            chunks = self._chunks(engine, None)
            return Judged(point, self._read(engine, chunks, live, self.asked.save), model.name)

    def _kept(self, model: _Model) -> KeptReference:
        """What a model expects that does not fit beside the other: read by itself, kept in a file without a
        name."""
        if model.kept is None:
            notice(f"{model.name} does not fit beside the model: it is read first, divergence is estimated.")
            plan = self._plan(model.opened, model.wishes, self.wishes.n_ctx)
            stream = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as this command runs)
            with load_engine(model.opened, plan, self.is_cancelled) as engine:
                self._read(engine, self._chunks(engine, None), None, stream, model.opened)
            model.kept = KeptReference(stream)
        return model.kept

    # -- reading -------------------------------------------------------------------------------------

    def _plan(self, opened: Opened, wishes: Wishes, n_ctx: int | None) -> Plan:
        plan = plan_for(
            opened, self.machine, reading_wishes(opened, replace(wishes, n_ctx=n_ctx or wishes.n_ctx))
        )
        require_fit(plan, opened.model.name)
        return plan

    def _chunks(self, engine: Engine, kept: KeptReference | None) -> Chunks:
        """The text as this model's tokens; without --text the one that expectations were kept of."""
        if kept is not None:
            _require_same(engine, kept.source.vocabulary_sha256, kept.source.model)
            if self.asked.text is None:
                return kept.chunks
        vocabulary = engine.vocabulary
        tokens = vocabulary.tokenize(read_text(self.asked.text or quality_text_path()), add_special=True)
        chunks = make_chunks(tokens, engine.n_ctx, vocabulary.bos if vocabulary.adds_bos else None)
        if kept is not None and chunks.digest != kept.chunks.digest:
            raise ReferenceUnusable(
                f"What {kept.source.model} expects was kept of another text",
                f"leave --text out, or keep it anew; its chunks have {kept.chunks.n_ctx} tokens",
            )
        return chunks

    def _read(
        self,
        engine: Engine,
        chunks: Chunks,
        reference: Reference | None,
        save: Path | IO[bytes] | None,
        opened: Opened | None = None,
    ) -> Quality:
        """Read with the model (or with another, `opened`), and save what it expects if that is wanted."""
        reader = TextReader(engine, self.is_cancelled)
        with ExitStack() as stack:
            on_chunk = stack.enter_context(step_progress("Reading", chunks.n_chunks))
            keeper = None
            if save is not None:
                stream = stack.enter_context(_reference_file(save)) if isinstance(save, Path) else save
                keeper = stack.enter_context(
                    ReferenceWriter(stream, source_of(engine, opened or self.opened), chunks)
                )
            scores = measure_quality(reader, chunks, reference, keeper, on_chunk)
        return summarize(scores, chunks.n_ctx)


def source_of(engine: Engine, opened: Opened) -> Source:
    """Who expects what `engine` expects."""
    digest = read_model_digest(opened.model.paths)
    return Source(opened.model.name, digest, vocabulary_digest(engine), engine.n_vocab)


def reading_wishes(opened: Opened, wishes: Wishes) -> Wishes:
    """The wishes of a reading: chunks as long as llama-perplexity's, unless --ctx says otherwise, and room
    for the logits of as many tokens as are computed at once."""
    n_ctx = wishes.n_ctx or min(CHUNK_TOKENS, opened.anatomy.n_ctx_train or CHUNK_TOKENS)
    n_rows = max(_LEAST_ROWS, _LOGITS_BYTES // (4 * max(1, opened.anatomy.n_vocab)))
    return replace(wishes, n_ctx=n_ctx, n_outputs=min(n_rows, n_ctx))


def vocabulary_digest(engine: Engine) -> str:
    """SHA-256 of what every token stands for."""
    digest = hashlib.sha256()
    for piece in engine.vocabulary.all_pieces():
        digest.update(b"%d " % len(piece) + piece)
    return digest.hexdigest()


def _require_same(engine: Engine, digest: str, name: str) -> None:
    if vocabulary_digest(engine) != digest:
        raise ReferenceUnusable(
            f"{name} has another vocabulary",
            "divergence compares what two models expect of the same tokens: take another quant of this model",
        )


def read_text(path: Path) -> str:
    """A text file, without its last line break, as llama-perplexity reads it. What is no UTF-8 stands as
    U+FFFD: llama.cpp takes most such bytes for that too, and ends the process over some."""
    try:
        text = path.read_text("utf-8", "replace")
    except FileNotFoundError as error:
        raise NotFound(f"There is no file {path}", "--text takes a text file") from error
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}", "--text takes a text file") from error
    return text.removesuffix("\n")


def _require_replaceable(path: Path) -> None:
    """UsageError where something else would be lost, or nothing can be written."""
    if path.exists() and not is_reference(path):
        raise UsageError(f"{path} is there already, and is no reference", "give --save-ref another name")
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent}", "give --save-ref another place")


@contextmanager
def _reference_file(path: Path) -> Iterator[IO[bytes]]:
    """A file of kept expectations to write, there when it is whole."""
    _require_replaceable(path)
    with new_file(path, "--save-ref") as part, part.open("wb") as stream:
        yield stream
