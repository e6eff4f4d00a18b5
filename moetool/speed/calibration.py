"""Correct a prediction by what this machine measured before. Pure: knows not who keeps the records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from moetool.speed.predict import Speed


@dataclass(frozen=True)
class Calibration:
    """One run: what was predicted (before any calibration) and what was measured, in tokens per second.

    `fingerprint` names the machine and its build, `arch` and `quant` the model, `devices` where it lay.
    A figure that was not measured is None.
    """

    fingerprint: str
    arch: str
    quant: str
    devices: tuple[str, ...]
    predicted_decode_tok_s: float | None
    measured_decode_tok_s: float | None
    predicted_prompt_tok_s: float | None = None
    measured_prompt_tok_s: float | None = None


@dataclass(frozen=True)
class Target:
    """What is predicted now, to find the runs that say something about it."""

    fingerprint: str
    arch: str
    quant: str
    devices: tuple[str, ...]


# A run of the same model on the same devices says all; one that shares only the machine says less.
_SAME_MACHINE = 1.0
_SAME_DEVICES = 2.0
_SAME_QUANT = 4.0
_SAME_ARCH = 4.0
# As if one run of the machine had equalled the prediction: a single odd run must not rule.
_PRIOR = 1.0
# After so much evidence the interval is this part of the uncalibrated one.
_NARROWEST = 0.4


def calibrate(speed: Speed, target: Target, records: Iterable[Calibration]) -> Speed:
    """`speed` scaled by this machine's own runs (weighted mean of log(measured ÷ predicted)), with a
    narrower interval the more and the closer they are. Runs of other machines are ignored."""
    used = [record for record in records if record.fingerprint == target.fingerprint]
    decode = [(r.predicted_decode_tok_s, r.measured_decode_tok_s, _weight(r, target)) for r in used]
    prompt = [(r.predicted_prompt_tok_s, r.measured_prompt_tok_s, _weight(r, target)) for r in used]
    n_runs = sum(1 for predicted, measured, _ in decode if predicted and measured)
    if not n_runs:
        return speed
    d = _scaled((speed.decode_tok_s, speed.decode_low, speed.decode_high), decode)
    p = _scaled((speed.prompt_tok_s, speed.prompt_low, speed.prompt_high), prompt)
    basis = f"bandwidth model, calibrated by {n_runs} run{'s' if n_runs > 1 else ''} on this machine"
    return replace(
        speed,
        decode_tok_s=d[0],
        decode_low=d[1],
        decode_high=d[2],
        prompt_tok_s=p[0],
        prompt_low=p[1],
        prompt_high=p[2],
        basis=basis,
    )


def _weight(record: Calibration, target: Target) -> float:
    weight = _SAME_MACHINE
    weight *= _SAME_DEVICES if record.devices == target.devices else 1.0
    weight *= _SAME_QUANT if record.quant == target.quant else 1.0
    return weight * (_SAME_ARCH if record.arch == target.arch else 1.0)


_Rates = tuple[float | None, float | None, float | None]


def _scaled(rates: _Rates, runs: Sequence[tuple[float | None, float | None, float]]) -> _Rates:
    middle, low, high = rates
    known = [(math.log(m / p), w) for p, m, w in runs if p and m]
    if middle is None or low is None or high is None or not known:
        return rates
    total = sum(weight for _, weight in known)
    factor = math.exp(sum(log * weight for log, weight in known) / (total + _PRIOR))
    narrowing = max(_NARROWEST, math.sqrt(_PRIOR / (total + _PRIOR)))
    new = middle * factor
    return new, new * (low / middle) ** narrowing, new * (high / middle) ** narrowing
