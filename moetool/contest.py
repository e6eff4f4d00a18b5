"""Several models side by side on one machine: what each takes, gives and loses, and which to take. Pure.

What models can do is not in their headers. What is: memory, expected speed, expected loss of the
quantization, and the number of parameters, of which √(total × active) is a community's rule of thumb for the
dense model of like ability. The verdict weighs these and says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from moetool.anatomy import effective_size
from moetool.choice import READING_TOK_S
from moetool.kept_qualities import KeptQuality
from moetool.plan import Plan, Reason
from moetool.quality import BANDS, Quality
from moetool.speed import Calibration, Target

# Speeds, and sizes, that differ by less are called alike.
_ALIKE = 1.15


@dataclass(frozen=True)
class MeasuredSpeed:
    """What this machine's kept runs of the very file gave, in the middle; None where nothing was measured."""

    decode_tok_s: float | None
    prompt_tok_s: float | None
    n_runs: int


@dataclass(frozen=True)
class Contender:
    """One model with its plan, what is expected of its quantization, and what was measured of it."""

    label: str
    plan: Plan
    quality: Quality
    speed: MeasuredSpeed
    qualities: tuple[KeptQuality, ...] = ()

    @property
    def size(self) -> float:
        """√(total × active) parameters."""
        return effective_size(self.plan.anatomy)

    @property
    def decode_tok_s(self) -> float | None:
        """Measured, else predicted."""
        return self.speed.decode_tok_s or self.plan.speed.decode_tok_s

    @property
    def kind(self) -> tuple[object, ...]:
        """What quants of one model have in common."""
        anatomy = self.plan.anatomy
        return anatomy.arch, anatomy.n_params, anatomy.n_params_active


def measured_speed(runs: Sequence[Calibration], target: Target) -> MeasuredSpeed:
    """Of runs of the same file on the same devices with as many threads."""
    same = [run for run in runs if run.target == target]
    decode = [run.measured_decode_tok_s for run in same if run.measured_decode_tok_s]
    prompt = [run.measured_prompt_tok_s for run in same if run.measured_prompt_tok_s]
    return MeasuredSpeed(_middle(decode), _middle(prompt), len(same))


def verdict(contenders: Sequence[Contender]) -> Reason:
    """Which one to take, in a sentence that says by what."""
    fitting = [one for one in contenders if one.plan.fits]
    if not fitting:
        return Reason("none-fits", "None of them fits here.")
    if len(fitting) == 1:
        return Reason("one-fits", f"Only {fitting[0].label} fits here.")
    if any(one.decode_tok_s is None for one in fitting):
        return Reason(
            "speed-unknown", "How fast they are cannot be told: no bandwidth of this machine is known."
        )
    if len({one.kind for one in fitting}) == 1:
        return _of_one_model(fitting)
    return _of_several_models(fitting)


def _of_one_model(fitting: Sequence[Contender]) -> Reason:
    """Quants of one model: what they lose, and how fast they are."""
    best = min(fitting, key=lambda one: (_loss(one), -_speed(one)))
    fastest = max(fitting, key=_speed)
    if fastest is best or _speed(fastest) < _ALIKE * _speed(best):
        return Reason(
            "one-is-best",
            f"Take {best.label}: it should lose least ({best.quality.band}), and none is much faster.",
        )
    losses = f"{best.label} should lose least ({best.quality.band} against {fastest.quality.band})"
    text = f"{losses}; {fastest.label} decodes {_times(fastest, best)}. {_advice(best, fastest)}"
    return Reason("a-trade", text)


def _of_several_models(fitting: Sequence[Contender]) -> Reason:
    """Different models: the larger one by the rule of thumb, and the largest of those that are faster."""
    largest = max(fitting, key=lambda one: (one.size, -_loss(one)))
    rule = "by √(total × active), a rule of thumb that nobody has derived"
    faster = [one for one in fitting if _speed(one) >= _ALIKE * _speed(largest)]
    if not faster:
        return Reason("one-is-best", f"Take {largest.label}: the largest {rule}, and none is much faster.")
    rival = max(faster, key=lambda one: (one.size, _speed(one)))
    sizes = f"{_figures(largest.size / 1e9)} against {_figures(rival.size / 1e9)} B"
    lead = f"{largest.label} is the larger {rule} ({sizes})"
    if largest.size < _ALIKE * rival.size:
        lead = f"{largest.label} and {rival.label} are alike {rule} ({sizes})"
    losses = (
        ""
        if largest.quality.band == rival.quality.band
        else (f"; what they should lose to quantization is {largest.quality.band} and {rival.quality.band}")
    )
    text = f"{lead}; {rival.label} decodes {_times(rival, largest)}{losses}. {_advice(largest, rival)}"
    return Reason("a-trade", text)


def _advice(better: Contender, faster: Contender) -> str:
    if _speed(better) >= READING_TOK_S:
        return (
            f"Take {better.label} if {_figures(_speed(better))} tokens a second are enough,"
            f" {faster.label} if not."
        )
    if _speed(faster) >= READING_TOK_S:
        return f"Take {faster.label}: {better.label} would be slower than most people read."
    return f"Both are slower than most people read; take {faster.label} if somebody waits."


def _times(fast: Contender, slow: Contender) -> str:
    kinds = {bool(one.speed.decode_tok_s) for one in (fast, slow)}
    basis = (
        "measured" if kinds == {True} else "predicted" if kinds == {False} else "one measured, one predicted"
    )
    ratio, speeds = _speed(fast) / _speed(slow), f"{_figures(_speed(fast))} against {_figures(_speed(slow))}"
    return f"{_figures(ratio)} × as fast ({speeds} tokens a second, {basis})"


def _figures(value: float) -> str:
    """Three figures, and no power of ten."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _loss(one: Contender) -> int:
    return BANDS.index(one.quality.band)


def _speed(one: Contender) -> float:
    return one.decode_tok_s or math.nan


def _middle(values: Sequence[float]) -> float | None:
    ordered = sorted(values)
    n = len(ordered)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2 if ordered else None
