"""What a profile's counts amount to: balance, confidence, repetition, and how far texts are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moetool.lab.tally import Profile

Floats = npt.NDArray[np.float64]

# An expert that even use would have chosen so often, and was never chosen, is no accident.
DEAD_EXPECTED = 20
_TOP_SHARE = 0.1
_N_PAIRS = 3
_CACHE_SHARES = (8, 4, 2)


@dataclass(frozen=True)
class Pair:
    """Two experts chosen for the same token `count` times, `lift` times as often as if by chance."""

    first: int
    second: int
    count: int
    lift: float


@dataclass(frozen=True)
class LayerFigures:
    """One layer over all texts.

    `entropy` of the use of its experts: 1 where all are used alike, 0 where only one is. `gini`: 0 where all
    are used alike, towards 1 where few are. `top_share` is what the most used tenth of the experts gets of
    all choices, `most_tokens` the part of the tokens that chose `most`. `dead` were never chosen.
    `confidence` is what the chosen experts have of the gate's scores beyond what they would have of a uniform
    gate's: 0 as if drawn by lot, 1 where nothing is left for the others; `margin` and `overlap` as in
    Profile. `cache` is the part of choices that a cache of so many experts would have held. None: unknown.
    """

    layer: int
    n_expert: int
    n_used: int
    n_tokens: int
    entropy: float
    gini: float
    top_share: float
    most: int
    most_tokens: float
    dead: tuple[int, ...]
    confidence: float | None
    margin: float | None
    overlap: float | None
    cache: tuple[tuple[int, float], ...]
    pairs: tuple[Pair, ...]


def layer_figures(profile: Profile) -> tuple[LayerFigures, ...]:
    """The figures of every layer."""
    return tuple(_figures(profile, at) for at in range(len(profile.layers)))


def _figures(profile: Profile, at: int) -> LayerFigures:
    n_expert, n_used = profile.n_experts[at], profile.n_used[at]
    n_tokens = sum(profile.n_tokens)
    counts = profile.counts[:, at, :n_expert].sum(axis=0)
    most = int(counts.argmax())
    even = n_tokens * n_used / n_expert
    top_mass = _mean(profile.top_mass[:, at], profile.n_tokens)
    uniform = n_used / n_expert
    is_choice = top_mass is not None and n_used < n_expert
    return LayerFigures(
        layer=profile.layers[at],
        n_expert=n_expert,
        n_used=n_used,
        n_tokens=n_tokens,
        entropy=entropy(counts),
        gini=gini(counts),
        top_share=top_share(counts),
        most=most,
        most_tokens=float(counts[most]) / n_tokens,
        dead=tuple(np.flatnonzero(counts == 0).tolist()) if even >= DEAD_EXPECTED else (),
        confidence=(top_mass - uniform) / (1 - uniform) if is_choice and top_mass is not None else None,
        margin=_mean(profile.margin[:, at], profile.n_tokens),
        overlap=_mean(profile.overlap[:, at], profile.n_tokens),
        cache=_cache(profile.reuse[at], n_expert, n_used),
        pairs=_pairs(profile.pairs[at], counts, n_tokens),
    )


def entropy(counts: npt.ArrayLike) -> float:
    """Shannon's, of shares, by that of even ones: 0 … 1."""
    shares = _shares(counts)
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum() / np.log(len(shares))) if len(shares) > 1 else 1.0


def gini(counts: npt.ArrayLike) -> float:
    """Gini's coefficient of inequality: 0 for equal counts, 1 - 1/n where one has all."""
    ranked = np.sort(np.asarray(counts, np.float64))
    n, whole = len(ranked), ranked.sum()
    return float((2 * np.arange(1, n + 1) - n - 1) @ ranked / (n * whole)) if whole else 0.0


def top_share(counts: npt.ArrayLike) -> float:
    """What the largest tenth of the counts (one at least) have together."""
    shares = np.sort(_shares(counts))[::-1]
    return float(shares[: max(1, round(_TOP_SHARE * len(shares)))].sum())


def distances(profile: Profile) -> Floats:
    """How far the use of experts is apart from text to text, [T, T]: the Jensen-Shannon divergence in bits,
    the mean over the layers. 0: the same use; 1: no expert in common."""
    n_texts, n_layers = len(profile.texts), len(profile.layers)
    found = np.zeros((n_texts, n_texts))
    for one in range(n_texts):
        for other in range(one):
            apart = [
                jensen_shannon(profile.counts[one, at], profile.counts[other, at]) for at in range(n_layers)
            ]
            found[one, other] = found[other, one] = float(np.mean(apart))
    return found


def jensen_shannon(counts: npt.ArrayLike, others: npt.ArrayLike) -> float:
    """The divergence of two distributions in bits (Lin 1991): 0 … 1."""
    one, other = _shares(counts), _shares(others)
    return max(0.0, (_bits(one, (one + other) / 2) + _bits(other, (one + other) / 2)) / 2)


def _bits(shares: Floats, middle: Floats) -> float:
    some = shares > 0
    return float((shares[some] * np.log2(shares[some] / middle[some])).sum())


def _shares(counts: npt.ArrayLike) -> Floats:
    values = np.asarray(counts, np.float64)
    whole = values.sum()
    return values / whole if whole else values


def _mean(by_text: Floats, n_tokens: Sequence[int]) -> float | None:
    """Over all texts, by their lengths; None where no text tells."""
    weights = np.asarray(n_tokens, np.float64)
    known = ~np.isnan(by_text)
    return float(by_text[known] @ weights[known] / weights[known].sum()) if known.any() else None


def _cache(reuse: npt.NDArray[np.int64], n_expert: int, n_used: int) -> tuple[tuple[int, float], ...]:
    """Sizes (an eighth, a quarter, a half of the experts, those that hold one token's) and their hits."""
    sizes = sorted({n for share in _CACHE_SHARES if n_used <= (n := n_expert // share) < n_expert})
    whole = max(1, int(reuse.sum()))
    return tuple((n, float(reuse[:n].sum() / whole)) for n in sizes)


def _pairs(pairs: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], n_tokens: int) -> tuple[Pair, ...]:
    """Those that are most above chance, of those that were seen often enough to say so."""
    n = len(counts)
    expected = np.outer(counts, counts) / max(1, n_tokens)
    lift = np.where(pairs[:n, :n] >= DEAD_EXPECTED, pairs[:n, :n] / np.maximum(expected, 1e-9), 0)
    best = np.argsort(-lift, axis=None)[:_N_PAIRS]
    found = (divmod(int(at), n) for at in best)
    return tuple(
        Pair(one, other, int(pairs[one, other]), float(lift[one, other]))
        for one, other in found
        if lift[one, other] > 1
    )
