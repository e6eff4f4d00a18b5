"""Correct a prediction by what this machine measured before. Pure: knows not who keeps the records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from moetool.speed.predict import Speed


@dataclass(frozen=True)
class Target:
    """What a prediction is about, to find the runs that say something of it.

    `fingerprint` names the machine, `model` and `weights_bytes` the file, `arch` and `quant` its kind,
    `devices` where it lies, `n_threads` how many threads compute on the CPU.
    """

    fingerprint: str
    model: str
    weights_bytes: int
    arch: str
    quant: str
    devices: tuple[str, ...]
    n_threads: int


@dataclass(frozen=True)
class Calibration:
    """One run: of what, what was predicted for its load before any calibration, and what was measured, in
    tokens per second. A figure that was not measured is None."""

    target: Target
    predicted_decode_tok_s: float | None = None
    measured_decode_tok_s: float | None = None
    predicted_prompt_tok_s: float | None = None
    measured_prompt_tok_s: float | None = None


# A run of the same file in the same place says nearly all; one that shares only the machine says less.
_SAME_MACHINE = 1.0
_SAME_THREADS = 2.0
_SAME_DEVICES = 2.0
_SAME_QUANT = 2.0
_SAME_ARCH = 2.0
_SAME_FILE = 16.0
# Within this factor, size decides alike what counts: caches and barriers, or the memory. Beyond it a run says
# the less the further: a model of a few MB, which lies in the CPU's caches, nothing at all of one of many GB.
_LIKE_SIZE = 4.0
_NEAR = 4.0
_FAR = 64.0
# As if one run of the machine had equalled the prediction: a single odd run must not rule.
_PRIOR = 1.0
# After so much evidence the interval is this part of the uncalibrated one.
_NARROWEST = 0.4


def calibrate(speed: Speed, target: Target, records: Iterable[Calibration]) -> Speed:
    """`speed` scaled by this machine's own runs: the weighted median of log(measured ÷ predicted), which one
    disturbed run cannot move far; the interval is narrower the more runs there are and the closer they are.
    Runs that say nothing (see `weigh`) are ignored."""
    used = [record for record in records if weigh(record.target, target)]
    decode = [(r.predicted_decode_tok_s, r.measured_decode_tok_s, weigh(r.target, target)) for r in used]
    prompt = [(r.predicted_prompt_tok_s, r.measured_prompt_tok_s, weigh(r.target, target)) for r in used]
    d = _scaled((speed.decode_tok_s, speed.decode_low, speed.decode_high), decode)
    p = _scaled((speed.prompt_tok_s, speed.prompt_low, speed.prompt_high), prompt)
    n_runs = sum(1 for predicted, measured, _ in (*decode, *prompt) if predicted and measured)
    if not n_runs:
        return speed
    counted = f"{n_runs} measurement{'s' if n_runs > 1 else ''}"
    return replace(
        speed,
        decode_tok_s=d[0],
        decode_low=d[1],
        decode_high=d[2],
        prompt_tok_s=p[0],
        prompt_low=p[1],
        prompt_high=p[2],
        basis=f"bandwidth model, calibrated by {counted} on this machine",
    )


def weigh(run: Target, target: Target) -> float:
    """How much a run says of what is predicted: the product of what both share; 0 for a run on another
    machine, on none of the same devices, or of a model of quite another size."""
    apart = _apart(run.weights_bytes, target.weights_bytes)
    if run.fingerprint != target.fingerprint or not set(run.devices) & set(target.devices) or apart > _FAR:
        return 0.0
    weight = _SAME_MACHINE
    weight *= _SAME_THREADS if run.n_threads == target.n_threads else 1.0
    weight *= _SAME_DEVICES if set(run.devices) == set(target.devices) else 1.0
    weight *= _SAME_QUANT if run.quant == target.quant else 1.0
    weight *= _SAME_ARCH if run.arch == target.arch else 1.0
    weight *= _LIKE_SIZE if apart <= _NEAR else _NEAR / apart
    is_same = (run.model, run.weights_bytes) == (target.model, target.weights_bytes)
    return weight * (_SAME_FILE if is_same else 1.0)


def _apart(one_bytes: int, other_bytes: int) -> float:
    """By what factor two sizes differ."""
    ratio = max(one_bytes, 1) / max(other_bytes, 1)
    return max(ratio, 1 / ratio)


_Rates = tuple[float | None, float | None, float | None]


def _scaled(rates: _Rates, runs: Sequence[tuple[float | None, float | None, float]]) -> _Rates:
    middle, low, high = rates
    known = [(math.log(m / p), w) for p, m, w in runs if p and m]
    if middle is None or low is None or high is None or not known:
        return rates
    total = sum(weight for _, weight in known)
    factor = math.exp(_weighted_median(known) * total / (total + _PRIOR))
    narrowing = max(_NARROWEST, math.sqrt(_PRIOR / (total + _PRIOR)))
    new = middle * factor
    return new, new * (low / middle) ** narrowing, new * (high / middle) ** narrowing


def _weighted_median(weighted: Sequence[tuple[float, float]]) -> float:
    """The value with half of the weight on either side; between two such values, their middle."""
    ordered = sorted(weighted)
    half = sum(weight for _, weight in ordered) / 2
    seen = 0.0
    for i, (value, weight) in enumerate(ordered):
        seen += weight
        if math.isclose(seen, half) and i + 1 < len(ordered):
            return (value + ordered[i + 1][0]) / 2
        if seen > half:
            return value
    return ordered[-1][0]
