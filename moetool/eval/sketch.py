"""What a model expects at a position in a few dozen bytes, from which KL divergence is estimated.

Of a distribution p over the vocabulary every token with p ≥ t is kept, and of the others, the tail, each by
chance p / t: at most 1 / t + 2 tokens, and few where the model is sure. A kept one of the tail stands for
t / p (Horvitz and Thompson), so that sums over the tail are estimated without bias. The divergence from q is

    Σ over tokens kept for certain of p log(p/q)   +   P log(P/Q)   +   P Σ over the tail of p' log(p'/q')

with P and Q the shares of the tail and p', q' the distributions within it. Only the last sum is estimated:
leaving it out, as top-k files do, loses 10 to 30 % of the divergence of a quantization. Since p' and q' both
sum to 1, λ (q'/p' - 1) may be added to each of its terms, which changes nothing but what they scatter: of a
close model they become tiny with λ = 1. λ follows how far apart the certain tokens are, which no chance
decides, and so does what is put in place of terms that were not drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from moetool.eval.logits import Compared, Floats, Logits, Tokens, log_sums, parts

# Logarithms are kept in steps of 1/2048 nat; their rounding adds 1e-8 to a divergence.
_STEPS = 2048.0
_MOST_STEPS = (1 << 16) - 1
# 1 / t by the size of the vocabulary: where it is large there is room for more.
_LEAST_TOKENS, _MOST_TOKENS, _VOCABULARY_SHARE = 256, 1024, 1 / 12
# Kept tokens at most, on average, by the size of the vocabulary: packed they are less than 2 % of
# llama-perplexity's file, which has two bytes for each token of the vocabulary.
_BUDGET_SHARE = 0.013

Steps = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Sketch:
    """What is kept of some positions in a row: `counts` tokens of each, by ascending `ids`, -log p in
    `steps`; up to how many steps they are kept for certain (`limits`); the `tails`' shares in steps; which of
    the kept tokens is the likeliest (`tops`); and -log p of the token that came."""

    counts: Steps
    limits: Steps
    tails: Steps
    tops: Steps
    nll: Steps
    ids: npt.NDArray[np.uint32]
    steps: Steps

    def compare(self, logits: Logits, targets: Tokens) -> Compared:
        """The estimate for these positions. Memory is that of a few rows."""
        kld = np.empty(len(logits))
        same = np.empty(len(logits), np.bool_)
        ends = np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])
        tops = self.ids[ends[:-1] + self.tops]
        for part in parts(*logits.shape):
            rows = logits[part]
            kept = slice(ends[part.start], ends[part.stop])
            row_of = np.repeat(np.arange(len(rows)), self.counts[part])
            log_q = rows[row_of, self.ids[kept]].astype(np.float64) - log_sums(rows)[row_of]
            is_sure = self.steps[kept] <= self.limits[part][row_of]
            is_sure[ends[part] - ends[part.start] + self.tops[part]] = True
            log_p, log_t = self.steps[kept] / -_STEPS, self.limits[part][row_of] / -_STEPS
            weights = np.where(is_sure, 0.0, np.exp(np.maximum(log_p, log_t)))
            kld[part] = _estimate(row_of, log_p, log_q, weights, self.tails[part] / -_STEPS)
            same[part] = rows.argmax(axis=1) == tops[part]
        return Compared(kld, same, self.nll / _STEPS)

    def cut(self, n_rows: int) -> Iterator[Sketch]:
        """The same, so many positions at a time."""
        ends = np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])
        for start in range(0, len(self.counts), n_rows):
            rows = slice(start, min(start + n_rows, len(self.counts)))
            kept = slice(ends[rows.start], ends[rows.stop])
            of_rows = (self.counts, self.limits, self.tails, self.tops, self.nll)
            counts, limits, tails, tops, nll = (array[rows] for array in of_rows)
            yield Sketch(counts, limits, tails, tops, nll, self.ids[kept], self.steps[kept])


def _estimate(
    row_of: npt.NDArray[np.int64], log_p: Floats, log_q: Floats, weights: Floats, log_tail: Floats
) -> Floats:
    """The divergence at each position, from its kept tokens; `weights` are 0 for those kept for certain."""
    n = len(log_tail)
    p, apart, is_sure = np.exp(log_p), log_p - log_q, weights == 0

    def total(values: Floats) -> Floats:
        return np.bincount(row_of, weights=values, minlength=n).astype(np.float64)

    # With - p + q beside each term an error of p counts by its square only; together these are nothing.
    sure = total(np.where(is_sure, p * apart - p + np.exp(log_q), 0.0))
    share = np.exp(log_tail)
    other_share = np.maximum(1.0 - total(np.where(is_sure, np.exp(log_q), 0.0)), 1e-12)
    tails_apart = log_tail - np.log(other_share)
    lumped = share * tails_apart - share + other_share
    # Of log-normal errors with this variance, λ leaves the least scatter.
    n_cells = total(is_sure.astype(np.float64)) + 1
    variance = np.minimum((total(np.where(is_sure, apart**2, 0.0)) + tails_apart**2) / n_cells, 50.0)
    mixing = np.where(variance < 1e-6, 1.0, variance / np.expm1(np.maximum(variance, 1e-9)))
    within = apart - tails_apart[row_of]
    with np.errstate(over="ignore"):
        term = within + mixing[row_of] * np.expm1(np.minimum(-within, 700.0))
    # About what a term should be: where no token of a tail was drawn, this stands for it.
    usual = np.minimum(variance, 1.0) / 2
    drawn = np.where(is_sure, 0.0, term - usual[row_of])  # a certain one's term may be infinite
    found: Floats = sure + lumped + share * usual + total(weights * drawn)
    return found


def make_sketch(logits: Logits, targets: Tokens, seed: int) -> Sketch:
    """Keep what a model expects at some positions; `seed` decides on the tail."""
    n_vocab = logits.shape[1]
    kept = min(max(n_vocab * _VOCABULARY_SHARE, _LEAST_TOKENS), _MOST_TOKENS)
    while True:
        sketch = _make(logits, targets, int(np.log(kept) * _STEPS), seed)
        if len(sketch.ids) <= max(4.0, _BUDGET_SHARE * n_vocab) * len(logits) or kept < 8:
            return sketch
        kept *= 0.8


def _make(logits: Logits, targets: Tokens, limit: int, seed: int) -> Sketch:
    random = np.random.default_rng(seed)
    found = [_make_part(logits[part], targets[part], limit, random) for part in parts(*logits.shape)]
    return join(found)


def join(sketches: Sequence[Sketch]) -> Sketch:
    """Positions one after another."""
    names = [field.name for field in fields(Sketch)]
    return Sketch(*(np.concatenate([getattr(sketch, name) for sketch in sketches]) for name in names))


def _make_part(rows: Logits, targets: Tokens, limit: int, random: np.random.Generator) -> Sketch:
    every = np.arange(len(rows))
    log_p = rows - log_sums(rows)[:, None].astype(np.float32)
    steps = _in_steps(log_p)
    tops = rows.argmax(axis=1)
    p = np.exp(log_p)
    is_sure = steps <= limit
    is_sure[every, tops] = True
    tails = np.where(is_sure, 0.0, p).sum(axis=1, dtype=np.float64)
    chance = np.where(is_sure, 1.0, np.minimum(p * np.exp(limit / _STEPS), 1.0))
    # Systematic: one start a row, then whenever the sum of chances passes a whole number.
    sums = np.floor(np.cumsum(chance, axis=1) + random.random((len(rows), 1)))
    is_kept = np.diff(sums, axis=1, prepend=0.0) > 0
    row_of, ids = np.nonzero(is_kept)
    counts = is_kept.sum(axis=1)
    before = np.bincount(row_of, weights=ids < tops[row_of], minlength=len(rows))
    with np.errstate(divide="ignore"):
        log_tails = np.log(tails)
    return Sketch(
        counts.astype(np.uint16),
        np.full(len(rows), limit, np.uint16),
        _in_steps(log_tails),
        before.astype(np.uint16),
        steps[every, targets],
        ids.astype(np.uint32),
        steps[row_of, ids],
    )


def _in_steps(log_p: npt.NDArray[np.floating]) -> Steps:
    found: Steps = np.minimum(np.rint(-log_p * _STEPS), _MOST_STEPS).astype(np.uint16)
    return found
