"""Texts as the lab reads them: with the model as it is, then with something changed, held against that."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from moetool.assets import quality_text_path
from moetool.cli.answer import require_fit
from moetool.cli.judging import read_text, reading_wishes, source_of
from moetool.cli.opening import Opened, plan_for
from moetool.engine.model import Engine
from moetool.engine.reading import TextReader
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
from moetool.eval.chunks import LONGER_TEXT
from moetool.eval.passes import Scores
from moetool.machine import Machine
from moetool.plan import Plan, Wishes

_OURS = "shipped text"
# All texts together.
WHOLE = ""


def read_texts(paths: Sequence[Path]) -> dict[str, str]:
    """Name -> text, ours where no file is named; names are those of the files, without folders and endings
    where that leaves them apart."""
    if not paths:
        return {_OURS: read_text(quality_text_path())}
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return {name: read_text(path) for name, path in zip(names, paths, strict=True)}


def reading_plan(opened: Opened, machine: Machine, wishes: Wishes) -> Plan:
    """The plan of a reading; DoesNotFit."""
    n_ctx = min(CHUNK_TOKENS, opened.anatomy.n_ctx_train or CHUNK_TOKENS)
    plan = plan_for(opened, machine, reading_wishes(opened, replace(wishes, n_ctx=n_ctx)))
    require_fit(plan, opened.model.name)
    return plan


@dataclass(frozen=True)
class LabTexts:
    """Texts, at most `n_chunks` of each, and what the model as it is expects of them, once it has read them;
    `on_text` is called after each reading of one."""

    opened: Opened
    texts: Mapping[str, str]
    n_chunks: int
    is_cancelled: Callable[[], bool]
    on_text: Callable[[], None]
    files: Mapping[str, IO[bytes]]

    def read_first(self, engine: Engine) -> dict[str, Quality]:
        """Read with the model as it is; what it expects is kept for `read`. Text -> quality, WHOLE first."""
        reader, scores = TextReader(engine, self.is_cancelled), {}
        for name, text in self.texts.items():
            chunks = self._cut(engine, text)
            with ReferenceWriter(self.files[name], source_of(engine, self.opened), chunks) as keeper:
                scores[name] = measure_quality(reader, chunks, None, keeper)
            self.on_text()
        return _summaries(scores, engine.n_ctx)

    def read(self, engine: Engine) -> dict[str, Quality]:
        """Read with what was changed; divergence is estimated from what was kept."""
        reader, scores = TextReader(engine, self.is_cancelled), {}
        for name, file in self.files.items():
            reference = KeptReference(file)
            scores[name] = measure_quality(reader, reference.chunks, reference)
            self.on_text()
        return _summaries(scores, engine.n_ctx)

    def _cut(self, engine: Engine, text: str) -> Chunks:
        vocabulary = engine.vocabulary
        tokens = vocabulary.tokenize(text, add_special=True)
        bos = vocabulary.bos if vocabulary.adds_bos else None
        chunks = make_chunks(tokens, engine.n_ctx, bos, LONGER_TEXT)
        return replace(chunks, tokens=chunks.tokens[: self.n_chunks])


def _summaries(scores: Mapping[str, Scores], n_ctx: int) -> dict[str, Quality]:
    whole = {WHOLE: summarize(pool_scores(list(scores.values())), n_ctx)}
    return whole | {name: summarize(score, n_ctx) for name, score in scores.items()}


@contextmanager
def lab_texts(
    opened: Opened,
    texts: Mapping[str, str],
    n_chunks: int,
    is_cancelled: Callable[[], bool],
    on_text: Callable[[], None],
) -> Iterator[LabTexts]:
    """The texts, with files for what is expected of them, which go when the block ends."""
    with ExitStack() as stack:
        files = {name: stack.enter_context(tempfile.TemporaryFile()) for name in texts}
        yield LabTexts(opened, texts, n_chunks, is_cancelled, on_text, files)
