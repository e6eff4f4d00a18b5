"""What logits say about the tokens that came, and how far they are from another model's logits.

Blocks are [n, n_vocab] float32, often a view of llama.cpp's own memory. They are worked on a few rows at a
time: temporaries stay in the processor's cache, and sums are taken in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moetool.errors import EngineError

Floats = npt.NDArray[np.float64]
Logits = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int32]

_PART_VALUES = 1 << 18  # 1 MiB of float32


@dataclass(frozen=True)
class Compared:
    """At each position: nats of divergence, whether the likeliest tokens are the same, and the reference's
    own negative log-likelihood of the token that came."""

    kld: Floats
    same_top: npt.NDArray[np.bool_]
    nll_reference: Floats


def parts(n_rows: int, n_vocab: int) -> Iterator[slice]:
    """Rows that are worked on together."""
    step = max(1, _PART_VALUES // n_vocab)
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def log_sums(logits: Logits) -> Floats:
    """log Σ exp of each row. EngineError for logits that are not numbers."""
    top = logits.max(axis=1)
    sums = np.exp(logits - top[:, None]).sum(axis=1, dtype=np.float64)
    found: Floats = top + np.log(sums)
    if not np.isfinite(found).all():
        raise EngineError("The model computes logits that are not numbers", "its file may be damaged")
    return found


def negative_log_likelihoods(logits: Logits, targets: Tokens) -> Floats:
    """-log p of each row's target, in nats."""
    found = np.empty(len(logits))
    for part in parts(*logits.shape):
        rows = logits[part]
        found[part] = log_sums(rows) - rows[np.arange(len(rows)), targets[part]]
    return found


def compare_logits(reference: Logits, logits: Logits, targets: Tokens) -> Compared:
    """KL(reference ‖ model) over the whole vocabulary, and the rest of a comparison."""
    kld = np.empty(len(logits))
    same = np.empty(len(logits), np.bool_)
    nll = np.empty(len(logits))
    for part in parts(*logits.shape):
        expected, found = reference[part], logits[part]
        total, other = log_sums(expected), log_sums(found)
        weights = np.exp(expected - total[:, None].astype(np.float32))
        # Of close models the difference of logits is exact, that of logarithms of their shares is not. Where
        # a share is 0 both logits may be -inf.
        apart = np.subtract(expected, found, out=np.zeros_like(weights), where=weights > 0)
        weighted = np.multiply(weights, apart, out=apart).sum(axis=1, dtype=np.float64)
        kld[part] = weighted / weights.sum(axis=1, dtype=np.float64) - (total - other)
        same[part] = expected.argmax(axis=1) == found.argmax(axis=1)
        nll[part] = total - expected[np.arange(len(expected)), targets[part]]
    return Compared(kld, same, nll)
