"""Where bits are spent best: for each tensor one of several types, so that all together lose least.

The losses of tensors are taken to add up (small errors of independent weights do, to first order), so this
is a knapsack with one choice for each tensor. Steps to a wider type are taken in the order of what they save
for a byte, those apart that a larger step beats (Lagrange multipliers find the same); what is left of the
bytes goes to the best single steps that still fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from moetool.quants import QuantType


@dataclass(frozen=True)
class Option:
    """A type that a tensor may have: what it takes, and what it should cost in nats of KL divergence."""

    type: QuantType
    n_bytes: int
    loss: float


Options = Mapping[str, Sequence[Option]]
Choice = dict[str, Option]


@dataclass(frozen=True)
class _Step:
    name: str
    option: Option
    more_bytes: int
    saved: float

    @property
    def worth(self) -> float:
        return self.saved / self.more_bytes


def least_bytes(options: Options) -> int:
    """Bytes of the smallest types."""
    return sum(min(option.n_bytes for option in row) for row in options.values())


def allocate(options: Options, budget_bytes: int) -> Choice:
    """The types that lose least in so many bytes; the smallest where there is no room for more."""
    chosen = _smallest(options)
    used = total_bytes(chosen)
    for step in _steps(options):
        if used + step.more_bytes > budget_bytes:
            break
        chosen[step.name] = step.option
        used += step.more_bytes
    return _fill(options, chosen, budget_bytes - used)


def allocate_until(options: Options, is_enough: Callable[[Choice], bool]) -> Choice:
    """The types in the least bytes with which it is enough; the widest if it never is. `is_enough` must not
    change its mind when types get wider."""
    steps = list(_steps(options))
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        if is_enough(_after(options, steps[:middle])):
            high = middle
        else:
            low = middle + 1
    return _after(options, steps[:low])


def total_bytes(chosen: Choice) -> int:
    """Bytes of all tensors."""
    return sum(option.n_bytes for option in chosen.values())


def total_loss(chosen: Choice) -> float:
    """What all of them should cost together."""
    return sum(option.loss for option in chosen.values())


def _smallest(options: Options) -> Choice:
    return {name: min(row, key=lambda o: (o.n_bytes, o.loss)) for name, row in options.items()}


def _after(options: Options, steps: Sequence[_Step]) -> Choice:
    return _smallest(options) | {step.name: step.option for step in steps}


def _steps(options: Options) -> Iterator[_Step]:
    """Steps of all tensors, what saves most for a byte first; those of one tensor from narrow to wide."""
    steps = [step for name, row in options.items() for step in _hull(name, row)]
    return iter(sorted(steps, key=lambda step: -step.worth))


def _hull(name: str, row: Sequence[Option]) -> list[_Step]:
    """The lower convex hull of a tensor's options as steps, each worth less a byte than the one before."""
    at = min(row, key=lambda o: (o.n_bytes, o.loss))
    steps = []
    while wider := [
        _Step(name, o, o.n_bytes - at.n_bytes, at.loss - o.loss) for o in row if o.n_bytes > at.n_bytes
    ]:
        best = max(wider, key=lambda step: (step.worth, step.more_bytes))
        if best.saved <= 0:
            break
        steps.append(best)
        at = best.option
    return steps


def _fill(options: Options, chosen: Choice, room: int) -> Choice:
    """Whatever single step still fits, the best for its bytes first."""
    while True:
        fitting = [
            _Step(name, option, more, chosen[name].loss - option.loss)
            for name, row in options.items()
            for option in row
            if 0 < (more := option.n_bytes - chosen[name].n_bytes) <= room
        ]
        best = max(fitting, key=lambda step: step.worth, default=None)
        if best is None or best.saved <= 0:
            return chosen
        chosen[best.name] = best.option
        room -= best.more_bytes
