"""One pass over a text: a model's logits as they come, against a reference's if there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from moetool.eval.chunks import Chunks
from moetool.eval.logits import Compared, Floats, Logits, Tokens, compare_logits, negative_log_likelihoods
from moetool.eval.sketch import Sketch, join, make_sketch


class Reader(Protocol):
    """Who reads a text from its beginning, and tells the logits after tokens `first`, `first` + 1 … in blocks
    of up to `n_rows`, each valid until the next is asked for."""

    @property
    def n_vocab(self) -> int: ...
    @property
    def n_rows(self) -> int: ...
    def read(self, tokens: Sequence[int], first: int, n_rows: int) -> Iterator[Logits]: ...


class Expectation(Protocol):
    """What a reference expects at some positions in a row."""

    def compare(self, logits: Logits, targets: Tokens) -> Compared: ...


class Reference(Protocol):
    """What a model is held against: for each chunk, in order, what is expected at `n_rows` positions, at the
    next `n_rows`, and so on."""

    @property
    def n_rows(self) -> int: ...
    def expect(self, chunks: Chunks, chunk: int, n_rows: int) -> Iterator[Expectation]: ...


class Keeper(Protocol):
    """Who keeps a model's expectations, chunk by chunk."""

    def add(self, sketch: Sketch) -> None: ...


@dataclass(frozen=True)
class Scores:
    """What was found at each scored position, [n_chunks, n_scored]; nats. Without a reference the rest is
    None."""

    nll: Floats
    compared: Compared | None = None


def pool_scores(scores: Sequence[Scores]) -> Scores:
    """The scores of several texts as those of one: all of their chunks."""
    compared = [one.compared for one in scores if one.compared is not None]
    nll = np.concatenate([one.nll for one in scores])
    if not compared:
        return Scores(nll)
    together = Compared(
        kld=np.concatenate([one.kld for one in compared]),
        same_top=np.concatenate([one.same_top for one in compared]),
        nll_reference=np.concatenate([one.nll_reference for one in compared]),
    )
    return Scores(nll, together)


@dataclass(frozen=True)
class _LiveExpectation:
    logits: Logits

    def compare(self, logits: Logits, targets: Tokens) -> Compared:
        return compare_logits(self.logits, logits, targets)


@dataclass(frozen=True)
class LiveReference:
    """A loaded model as the reference: it reads beside the other, chunk by chunk, and nothing is kept."""

    reader: Reader

    @property
    def n_rows(self) -> int:
        return self.reader.n_rows

    def expect(self, chunks: Chunks, chunk: int, n_rows: int) -> Iterator[Expectation]:
        return map(_LiveExpectation, self.reader.read(chunks.given(chunk), chunks.first, n_rows))


def measure_quality(
    reader: Reader,
    chunks: Chunks,
    reference: Reference | None = None,
    keeper: Keeper | None = None,
    on_chunk: Callable[[], None] = lambda: None,
) -> Scores:
    """Read all chunks, compare with `reference`, leave what is expected with `keeper`; `on_chunk` is called
    after each. Memory is that of one block, beside 8 bytes a token for each figure."""
    shape = (chunks.n_chunks, chunks.n_scored)
    nll, kld, same, nll_reference = (np.empty(shape) for _ in range(4))
    n_rows = min(reader.n_rows, reference.n_rows) if reference else reader.n_rows
    for chunk in range(chunks.n_chunks):
        targets, start, sketches = chunks.targets(chunk), 0, []
        expected = reference.expect(chunks, chunk, n_rows) if reference else None
        for block in reader.read(chunks.given(chunk), chunks.first, n_rows):
            rows = slice(start, start + len(block))
            nll[chunk, rows] = negative_log_likelihoods(block, targets[rows])
            if expected is not None:
                found = next(expected).compare(block, targets[rows])
                kld[chunk, rows], nll_reference[chunk, rows] = found.kld, found.nll_reference
                same[chunk, rows] = found.same_top
            if keeper is not None:
                sketches.append(make_sketch(block, targets[rows], chunk * chunks.n_ctx + start))
            start = rows.stop
        if keeper is not None:
            keeper.add(join(sketches))
        on_chunk()
    return Scores(nll, Compared(kld, same > 0, nll_reference) if reference else None)
