"""The search for faster settings around a plan: changes one at a time, slow ones dropped, the rest joined.

A measurement is one probe: a prompt and some decoding, told as the seconds that a turn would take. Settings
take turns, so that a machine that slows down slows all of them down. What wins must be faster than the plan
by more than noise.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moetool.bench.compare import Ratio, ratio_of
from moetool.bench.matrix import Point

# A turn of a talk, as plans count it: tokens read, tokens written.
PROMPT_TOKENS, ANSWER_TOKENS = 1024, 256
# Probes of what is left in the end.
MOST_PROBES = 5
# A change that gains less alone is not worth joining.
WORTH = 1.01

PLAN: Point = {}
Seconds = Callable[[Point], float]


def turn_s(prompt_tok_s: float, decode_tok_s: float) -> float:
    """Seconds of a turn at these speeds."""
    return PROMPT_TOKENS / prompt_tok_s + ANSWER_TOKENS / decode_tok_s


class Probes:
    """Seconds of a turn that were measured, by point; `has_time` says whether there is time for one more."""

    def __init__(self, measure: Seconds, has_time: Callable[[], bool] = lambda: True) -> None:
        self._measure = measure
        self.has_time = has_time
        self._points: list[Point] = []
        self._seconds: list[list[float]] = []

    def take(self, points: Sequence[Point]) -> bool:
        """One probe of each, in this order; False when the time was up before the last."""
        for point in points:
            if not self.has_time():
                return False
            self.of(point).append(self._measure(point))
        return True

    def of(self, point: Point) -> list[float]:
        """The probes of a point."""
        if point not in self._points:
            self._points.append(point)
            self._seconds.append([])
        return self._seconds[self._points.index(point)]

    def middle(self, point: Point) -> float:
        """Their middle; infinite without any."""
        return statistics.median(self.of(point) or [float("inf")])

    def gain(self, point: Point, over: Point = PLAN) -> Ratio:
        """How many times as fast a point is as another."""
        rates = [[1 / seconds for seconds in self.of(p) if math.isfinite(seconds)] for p in (over, point)]
        return ratio_of([(rates[0], rates[1])])


def halve(probes: Probes, changes: Sequence[Point]) -> list[Point]:
    """The changes that are worth having, best first: all of them and the plan are probed in turn, and the
    slower half is dropped after every second round."""
    alive = list(changes)
    for number in range(2 * MOST_PROBES):
        order = [PLAN, *alive]
        if not probes.take(order if number % 2 == 0 else order[::-1]):
            break
        if number % 2:
            alive = sorted(alive, key=probes.middle)[: max(2, -(-len(alive) // 2))]
        if len(probes.of(PLAN)) >= MOST_PROBES and len(alive) <= 2:
            break
    ranked = sorted((p for p in changes if probes.of(p)), key=probes.middle)
    return [point for point in ranked if probes.middle(point) * WORTH < probes.middle(PLAN)]


def join(points: Sequence[Point]) -> Point:
    """Changes of different axes together; of one axis the first counts."""
    joined: dict[str, str] = {}
    for point in points:
        if not joined.keys() & point.keys():
            joined |= point
    return joined


@dataclass(frozen=True)
class Tuned:
    """The outcome: what to change of the plan (nothing, where nothing is faster), by how much faster a turn
    is then, and what was tried: point -> seconds of a turn, in the middle. `is_cut_short`: something may be
    faster, and there was no time to make sure."""

    point: Point
    gain: Ratio | None
    tried: tuple[tuple[Point, float], ...]
    is_cut_short: bool = False


def choose(probes: Probes, tried: Sequence[Point], candidates: Sequence[Point]) -> Tuned:
    """The fastest of the candidates, if it is surely faster than the plan."""
    best = min(candidates, key=probes.middle, default=PLAN)
    gain = probes.gain(best) if math.isfinite(probes.middle(best)) and best else None
    told = tuple((p, probes.middle(p)) for p in (PLAN, *tried) if probes.of(p))
    if gain is None or gain.verdict != "faster":
        is_open = len(probes.of(PLAN)) < 2 if gain is None else gain.verdict == "not known"
        return Tuned(PLAN, None, told, is_open)
    return Tuned(best, gain, told)
