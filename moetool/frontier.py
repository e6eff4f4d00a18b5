"""What other numbers of experts a token give and cost, as it was measured: speed and fidelity of each.

Pure values: `moetool sparsity` makes them, the plan offers from them, run and bench quote them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

# What is worth offering unasked: at least so much faster, at most so much divergence (mean nats), as
# a middling quantization costs (Q4_K_M 0.012, Q3_K_M 0.025 of the demo model: README).
LEAST_GAIN = 0.05
MOST_KLD = 0.02


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class TextScore:
    """What a text says of one number of experts. `kld` (nats) and `same_top` are against the model's own
    number, of which they are None."""

    text: str
    n_tokens: int
    ppl: Interval
    kld: Interval | None
    same_top: float | None


@dataclass(frozen=True)
class FrontierPoint:
    """One number of experts. Speeds in tokens/s; predicted ones may be unknown. `whole` is of all texts
    together, `texts` of each of them, where there are several."""

    experts: int
    n_params_active: int
    decode_tok_s: float
    prompt_tok_s: float
    predicted_decode_tok_s: float | None
    predicted_prompt_tok_s: float | None
    whole: TextScore | None = None
    texts: tuple[TextScore, ...] = ()

    @property
    def kld(self) -> float | None:
        """Mean divergence from the model's own number; None where nothing was read."""
        if self.whole is None:
            return None
        return self.whole.kld.value if self.whole.kld else 0.0


@dataclass(frozen=True)
class Frontier:
    """All numbers that were measured, by ascending `experts`; `own` is the model's."""

    own: int
    points: tuple[FrontierPoint, ...]

    def at(self, experts: int) -> FrontierPoint | None:
        """The point of a number, if it was measured."""
        return next((point for point in self.points if point.experts == experts), None)

    def gain(self, point: FrontierPoint) -> float | None:
        """By what part decoding is faster than with the model's own number."""
        own = self.at(self.own)
        return point.decode_tok_s / own.decode_tok_s - 1 if own else None


def cheapest(frontier: Frontier, min_tok_s: float) -> FrontierPoint | None:
    """Of the numbers that decode so fast the one that diverges least (without a reading: the one nearest to
    the model's own); None where none is fast enough."""
    fast = [point for point in frontier.points if point.decode_tok_s >= min_tok_s]
    return min(fast, key=lambda point: (*_cost(frontier, point), -point.decode_tok_s), default=None)


def _cost(frontier: Frontier, point: FrontierPoint) -> tuple[float, int]:
    return point.kld or 0.0, abs(point.experts - frontier.own)


def offer(frontier: Frontier) -> FrontierPoint | None:
    """The fastest number that is worth offering unasked: a real gain, at little divergence; None: there is
    none, or its divergence was not measured."""
    good = [point for point in frontier.points if _is_worth(frontier, point)]
    return max(good, key=lambda point: point.decode_tok_s, default=None)


def _is_worth(frontier: Frontier, point: FrontierPoint) -> bool:
    gain = frontier.gain(point)
    if point.experts == frontier.own or gain is None or point.kld is None:
        return False
    return gain >= LEAST_GAIN and point.kld <= MOST_KLD


def unbeaten(points: Sequence[FrontierPoint]) -> frozenset[int]:
    """The numbers than which no other is as fast in both tests and as true, and better in one."""
    merits = {p.experts: (p.decode_tok_s, p.prompt_tok_s, -(p.kld or 0.0)) for p in points}
    return frozenset(
        experts
        for experts, mine in merits.items()
        if not any(_beats(other, mine) for number, other in merits.items() if number != experts)
    )


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def counts_that_matter(own: int, most: int) -> tuple[int, ...]:
    """Numbers worth measuring between 1 and twice the model's own: 1, each eighth of its own, and a quarter,
    a half and the whole of it more."""
    eighths = [*(Fraction(k, 8) for k in range(1, 9)), Fraction(5, 4), Fraction(3, 2), Fraction(2)]
    wanted = {1, *(round(own * part) for part in eighths)}
    return tuple(sorted(count for count in wanted if 1 <= count <= most))
