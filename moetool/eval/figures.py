"""Figures of a text's scores, with intervals that know that neighbouring tokens are not independent.

llama-perplexity's ± takes every token for a draw of its own. Tokens of one chunk share a topic and a context
that the model either follows or not, so that interval is too narrow. Here whole chunks are drawn again
(bootstrap), which holds for means, quantiles and shares alike; with few chunks the interval is widened as
Student's t widens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from moetool.eval.logits import Floats
from moetool.eval.passes import Scores

_N_DRAWS = 1000
_SEED = 1
_Z = 1.959964  # of 95 %


@dataclass(frozen=True)
class Figure:
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Divergence:
    """KL(reference ‖ model) over the scored tokens, in nats; `same_top` is the share of tokens for which both
    find the same one likeliest, `ppl_ratio` perplexity by the reference's."""

    mean: Figure
    median: Figure
    p90: Figure
    p99: Figure
    p99_9: Figure
    max: float
    same_top: Figure
    ppl_ratio: Figure
    ppl_reference: float


@dataclass(frozen=True)
class Quality:
    """What a model made of a text of `n_chunks` chunks of `n_ctx` tokens, `n_tokens` of them scored."""

    n_ctx: int
    n_chunks: int
    n_tokens: int
    ppl: Figure
    kld: Divergence | None


def summarize(scores: Scores, n_ctx: int) -> Quality:
    """The figures of all scored tokens. They are infinite of a model that held a token impossible which came,
    or which the reference expects."""
    n_chunks = len(scores.nll)
    draws = np.random.default_rng(_SEED).integers(n_chunks, size=(_N_DRAWS, n_chunks))
    times = np.stack([np.bincount(draw, minlength=n_chunks) for draw in draws]).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        return Quality(
            n_ctx=n_ctx,
            n_chunks=n_chunks,
            n_tokens=scores.nll.size,
            ppl=_exp(_mean(scores.nll, times)),
            kld=_divergence(scores, times),
        )


def _divergence(scores: Scores, times: Floats) -> Divergence | None:
    if scores.compared is None:
        return None
    found = scores.compared
    median, p90, p99, p99_9 = (_quantile(found.kld, times, share) for share in (0.5, 0.9, 0.99, 0.999))
    return Divergence(
        mean=_mean(found.kld, times, least=0.0),
        median=median,
        p90=p90,
        p99=p99,
        p99_9=p99_9,
        max=float(found.kld.max()),
        same_top=_mean(found.same_top.astype(np.float64), times, least=0.0, most=1.0),
        ppl_ratio=_exp(_mean(scores.nll - found.nll_reference, times)),
        ppl_reference=float(np.exp(found.nll_reference.mean())),
    )


def _mean(values: Floats, times: Floats, least: float = -math.inf, most: float = math.inf) -> Figure:
    """The mean, and its interval between what it can be."""
    by_chunk = values.mean(axis=1)
    value = float(by_chunk.mean())
    low, high = _interval(value, times @ by_chunk / len(by_chunk), len(by_chunk))
    return Figure(value, max(low, least), min(high, most))


def _exp(figure: Figure) -> Figure:
    value, low, high = np.exp([figure.value, figure.low, figure.high]).tolist()
    return Figure(value, low, high)


def _quantile(values: Floats, times: Floats, share: float) -> Figure:
    n_chunks, n = values.shape[0], values.size
    order = np.argsort(values, axis=None)
    ranked = values.ravel()[order]
    chunk_of = order // values.shape[1]
    # As llama-perplexity and numpy interpolate: the value at rank share × (n - 1).
    value = float(np.quantile(ranked, share))
    value = math.inf if math.isnan(value) else value  # between a number and infinity
    drawn = np.empty(len(times))
    for number, row in enumerate(times):
        ranks = np.cumsum(row[chunk_of])  # how many of the drawn values are no larger
        drawn[number] = ranked[np.searchsorted(ranks, share * (n - 1) + 1)]
    low, high = _interval(value, drawn, n_chunks)
    return Figure(value, min(max(low, 0.0), value), high)


def _interval(value: float, drawn: Floats, n_chunks: int) -> tuple[float, float]:
    """The middle 95 % of drawn values, widened about the value for few chunks: draws with replacement vary
    less than chunks do, by √(n / (n - 1)), and n chunks tell their own variance only so well (Student's t, by
    its first terms in 1 / (n - 1)). Of an infinite value the lower end is not known."""
    if math.isinf(value):
        return math.nan, value
    free = n_chunks - 1
    t = _Z + (_Z**3 + _Z) / (4 * free) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * free**2)
    wider = t / _Z * (n_chunks / free) ** 0.5
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(value + (low - value) * wider), float(value + (high - value) * wider)
