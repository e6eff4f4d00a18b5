"""Expected loss of a quantization, as a band with its evidence. Pure.

The loss is the relative increase of perplexity over the unquantized model. What published results support
(scripts/fit_quality.py prints the numbers):

- Each part of the model adds loss by its share of the weights that a token uses, and e-fold less for each
  0.9 bit that its weights are wider. So it is the bits of the *active* weights that count: a mixture whose
  always-active tensors are kept at 8 bits loses less than its bits per weight say.
- Models with fewer active parameters lose more at equal bits, on average by the power that data/quality.json
  states. The evidence for this is clear among dense models of one family and in KL divergences of mainline
  quants; for mixtures it is weak: the number of *all* parameters predicts held-out models as well as the
  number of active ones, and families differ by more than a factor of 2 either way. The range says so.

A figure without its range would claim more than is known; show `band`, the range and `evidence` together.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from moetool.anatomy import Anatomy, RoledTensor

_FILE = Path(__file__).parent / "data" / "quality.json"

# Relative increase of perplexity below which a band's name holds. By convention, not by measurement: Q8_0
# is called lossless by everybody, Q6_K nearly so, and Q3 is where users begin to notice.
_BANDS = (
    (0.002, "none"),
    (0.01, "very low"),
    (0.025, "low"),
    (0.06, "moderate"),
    (0.20, "high"),
    (math.inf, "severe"),
)
BANDS = tuple(name for _, name in _BANDS)

_UNQUANTIZED_BITS = 16.0

# Published results that count as near: this close in bits, this close in active size.
_NEAR_BITS = 0.5
_NEAR_SIZE = 3.0


@dataclass(frozen=True)
class Part:
    """Weights of one precision: how many of them a token uses (`n_active`), and their bits."""

    bits: float
    n_active: float


@dataclass(frozen=True)
class Quality:
    """Expected relative increase of perplexity: `expected`, and `low` to `high` for four models of five.

    `band` names `expected` ("none", "very low", "low", "moderate", "high", "severe"), `band_low` and
    `band_high` the ends. `evidence` are sentences, the nearest published results first.
    """

    band: str
    expected: float
    low: float
    high: float
    evidence: tuple[str, ...]

    @property
    def band_low(self) -> str:
        return band_of(self.low)

    @property
    def band_high(self) -> str:
        return band_of(self.high)


@dataclass(frozen=True)
class Result:
    """One published result: bits of the active weights (as the loss weighs them), active size, loss."""

    bits: float
    n_active: float
    loss: float
    source: str


@dataclass(frozen=True)
class Fit:
    """log(1 + loss) = `scale` × Σ share × e^(-`per_bit` × (bits - 4.5)) × (active / 1e9)^-`per_size`.

    `spread_low`, `spread_high`: 10 and 90 % quantiles of measured ÷ expected on models that were left out.
    `native`: architectures trained in a narrow type, whose tensors of that type have lost nothing.
    """

    scale: float
    per_bit: float
    per_size: float
    spread_low: float
    spread_high: float
    native: Mapping[str, str]
    results: tuple[Result, ...]


def expected_loss(anatomy: Anatomy) -> Quality:
    """The loss to expect of the quantization that `anatomy` shows."""
    quality = expected_loss_of(make_parts(anatomy))
    native = load_fit().native.get(anatomy.arch)
    if not any(tensor.info.type.name == native for tensor in anatomy.tensors):
        return quality
    note = f"published in {native}: those weights have lost nothing"
    return replace(quality, evidence=(note, *quality.evidence))


def expected_loss_of(parts: Sequence[Part], fit: Fit | None = None) -> Quality:
    """The loss to expect of weights of these precisions."""
    fit = fit or load_fit()
    n_active = sum(part.n_active for part in parts)
    if all(part.bits >= _UNQUANTIZED_BITS for part in parts if part.n_active > 0):
        return Quality("none", 0.0, 0.0, 0.0, ("no weights are quantized",))
    bits = effective_bits(parts, fit)
    log_loss = log_loss_of(bits, n_active, fit)
    expected, low, high = (math.expm1(log_loss * spread) for spread in (1, fit.spread_low, fit.spread_high))
    return Quality(band_of(expected), expected, low, high, _evidence(bits, n_active, fit.results))


def log_loss_of(bits: float, n_active: float, fit: Fit) -> float:
    """log(perplexity ÷ unquantized perplexity) for active weights of `bits`."""
    size: float = (n_active / 1e9) ** -fit.per_size
    return fit.scale * math.exp(-fit.per_bit * (bits - 4.5)) * size


def effective_bits(parts: Iterable[Part], fit: Fit) -> float:
    """The one precision that would lose as much as these together: the narrow parts weigh most."""
    parts = [part for part in parts if part.n_active > 0]
    n_active = sum(part.n_active for part in parts)
    lost = sum(part.n_active / n_active * math.exp(-fit.per_bit * part.bits) for part in parts)
    return -math.log(lost) / fit.per_bit


def make_parts(anatomy: Anatomy) -> tuple[Part, ...]:
    """The precisions of the weights that one token multiplies with, norms and lookups apart."""
    native = load_fit().native.get(anatomy.arch)
    shares = {layer.index: layer.n_expert_used / max(1, anatomy.n_expert) for layer in anatomy.layers}
    n_active: dict[float, float] = {}
    for tensor in anatomy.tensors:
        if not _is_multiplied(tensor, anatomy.tied):
            continue
        share = shares.get(tensor.layer or 0, 1.0) if tensor.role == "routed experts" else 1.0
        kind = tensor.info.type
        bits = 16.0 if kind.name == native else kind.bits_per_weight
        n_active[bits] = n_active.get(bits, 0.0) + tensor.info.n_elements * share
    return tuple(Part(bits, n) for bits, n in sorted(n_active.items()))


def _is_multiplied(tensor: RoledTensor, tied: bool) -> bool:
    if tensor.role in ("mtp", "vision") or len(tensor.info.shape) < 2:
        return False
    lookup = tensor.role == "embedding" and tensor.layer is None
    return not lookup or (tied and tensor.info.name == "token_embd.weight")


def band_of(loss: float) -> str:
    """The name of a relative increase of perplexity."""
    return next(name for limit, name in _BANDS if loss < limit)


def _evidence(bits: float, n_active: float, results: Sequence[Result]) -> tuple[str, ...]:
    near = [result for result in results if _is_near(result, bits, n_active)]
    if not near:
        return (f"extrapolated from {len(results)} published results, none near in bits and active size",)
    losses = sorted(result.loss for result in near)
    span = f"{100 * losses[0]:.2g} to {100 * losses[-1]:.2g} %"
    names = [name for name, _ in Counter(result.source for result in near).most_common()]
    text = f"{len(near)} published results within half a bit and a factor 3 of active size: {span} perplexity"
    return (text, *names)


def _is_near(result: Result, bits: float, n_active: float) -> bool:
    ratio = result.n_active / n_active
    return abs(result.bits - bits) <= _NEAR_BITS and 1 / _NEAR_SIZE <= ratio <= _NEAR_SIZE


@lru_cache(maxsize=1)
def load_fit() -> Fit:
    """The fit and its evidence that ship with the package, parsed once."""
    return parse_fit(json.loads(_FILE.read_text(encoding="utf-8")))


def parse_fit(document: Mapping[str, Any]) -> Fit:
    """A fit from the JSON document that scripts/fit_quality.py writes."""
    sources = document["sources"]
    results = tuple(
        Result(bits, 1e9 * billions, loss, sources[source])
        for bits, billions, loss, source in document["results"]
    )
    names = ("scale", "per_bit", "per_size", "spread_low", "spread_high", "native")
    return Fit(**{name: document[name] for name in names}, results=results)
