"""What else could be had on this machine: other caches and contexts, and which of them nothing else beats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from moetool.errors import UsageError
from moetool.frontier import Frontier, offer
from moetool.plan.make import make_plan
from moetool.plan.result import Plan
from moetool.plan.wishes import Wishes
from moetool.quants import BY_NAME

_LONGEST_FACTOR = 4


@dataclass(frozen=True)
class Alternative:
    """A plan with other settings. `is_front`: no other one is as good in context, cache, speed and memory,
    and better in one. `is_pick` marks the plan itself. `experts`: with another number of experts a token, as
    measured by what `gain` part faster and with what mean divergence (nats)."""

    plan: Plan
    is_pick: bool
    is_front: bool = False
    experts: int | None = None
    gain: float | None = None
    kld: float | None = None


def make_alternatives(plan: Plan, frontier: Frontier | None = None) -> tuple[Alternative, ...]:
    """The plan beside those with another type of cache, a longer context, or everything in RAM; those that
    fit only, and each once. Then, from what was measured, one with another number of experts, if any is worth
    it: that gives other answers, so that it beats none. Costs a search for each."""
    found = [Alternative(plan, is_pick=True)]
    for wishes in _variations(plan):
        try:
            other = make_plan(plan.anatomy, plan.machine, wishes, plan.calibration, plan.taken)
        except UsageError:
            continue  # this model does not take such a cache
        if other.fits and all(other.settings != known.plan.settings for known in found):
            found.append(Alternative(other, is_pick=False))
    front = tuple(replace(a, is_front=not any(_beats(b.plan, a.plan) for b in found)) for a in found)
    return (*front, *_with_other_experts(plan, frontier))


def _with_other_experts(plan: Plan, frontier: Frontier | None) -> Iterator[Alternative]:
    point = offer(frontier) if frontier else None
    if frontier is None or point is None or plan.wishes.experts is not None:
        return
    wishes = replace(plan.wishes, experts=point.experts)
    other = make_plan(plan.anatomy, plan.machine, wishes, plan.calibration, plan.taken)
    if other.fits:
        gain = frontier.gain(point)
        yield Alternative(other, False, is_front=True, experts=point.experts, gain=gain, kld=point.kld)


def _variations(plan: Plan) -> Iterator[Wishes]:
    wishes, settings = plan.wishes, plan.settings
    n_ctx = settings.n_ctx_seq
    longest = min(plan.anatomy.n_ctx_train or n_ctx, _LONGEST_FACTOR * n_ctx)
    for length in dict.fromkeys((n_ctx, longest)):
        for kind in ("f16", "q8_0"):
            yield replace(wishes, n_ctx=length, type_k=kind, type_v=kind)
    if settings.devices:
        yield replace(wishes, n_gpu_layers=0, type_k=settings.type_k, type_v=settings.type_v)


def _beats(one: Plan, other: Plan) -> bool:
    mine, theirs = _merits(one), _merits(other)
    return mine != theirs and all(a >= b for a, b in zip(mine, theirs, strict=True))


def _merits(plan: Plan) -> Sequence[float]:
    """What is good, each the more the better."""
    offload = [row.total_bytes for row in plan.memory if row.device != "CPU"]
    kv_bits = sum(BY_NAME[t.upper()].bits_per_weight for t in (plan.settings.type_k, plan.settings.type_v))
    return plan.settings.n_ctx_seq, kv_bits, round(plan.speed.decode_tok_s or 0.0, 1), -sum(offload)
