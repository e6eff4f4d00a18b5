"""A plan held against llama.cpp's own allocator (a dry run): where the two differ, the larger counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from moetool.memory import DeviceMemory
from moetool.plan.make import budget_of, make_plan
from moetool.plan.reasons import missing_reasons
from moetool.plan.result import Plan
from moetool.plan.wishes import Reason

MIB = 1 << 20
# Beyond this share of llama.cpp's own figure, a difference is spelled out.
DRY_RUN_TOLERANCE = 0.02
# A plan that llama.cpp finds too large is made anew so many times.
_MOST_ATTEMPTS = 3


@dataclass(frozen=True)
class Allocated:
    """What llama.cpp's allocator takes for a plan: all caches together, compute buffers by device."""

    kv_bytes: int
    compute_bytes: Mapping[str, int]


def settle_plan(plan: Plan, dry_run: Callable[[Plan], Allocated]) -> Plan:
    """The plan, checked by `dry_run`. If it does not fit after all, it is made anew with more room."""
    checked = check_plan(plan, dry_run(plan))
    for _ in range(_MOST_ATTEMPTS - 1):
        if checked.fits or not plan.fits:
            break
        own = {row.device: row.total_bytes for row in plan.memory}
        more = {row.device: row.total_bytes - own[row.device] for row in checked.memory}
        taken = {name: max(n, plan.taken.get(name, 0)) for name, n in more.items() if n}
        plan = make_plan(plan.anatomy, plan.machine, plan.wishes, plan.calibration, {**plan.taken, **taken})
        checked = check_plan(plan, dry_run(plan))
    return checked


def check_plan(plan: Plan, allocated: Allocated) -> Plan:
    """The plan with the larger figures of the two, and a sentence on how far they are apart."""
    memory = _larger(plan.memory, allocated)
    ours = sum(row.kv_bytes + row.compute_bytes for row in plan.memory)
    theirs = allocated.kv_bytes + sum(allocated.compute_bytes.values())
    # What an earlier dry run found is in these rows now: it is not to be counted twice.
    budget = budget_of(replace(plan, taken={}))
    missing = budget.shortfalls(memory)
    reasons = [reason for reason in plan.reasons if reason.code != "does-not-fit"]
    reasons += [Reason("dry-run", _text(ours, theirs)), *missing_reasons(missing, budget)]
    return replace(plan, memory=memory, missing=missing, reasons=tuple(reasons))


def _larger(memory: Sequence[DeviceMemory], allocated: Allocated) -> tuple[DeviceMemory, ...]:
    own_kv = sum(row.kv_bytes for row in memory)
    growth = max(1.0, allocated.kv_bytes / own_kv) if own_kv else 1.0
    return tuple(
        replace(
            row,
            kv_bytes=round(row.kv_bytes * growth),
            compute_bytes=max(row.compute_bytes, allocated.compute_bytes.get(row.device, 0)),
        )
        for row in memory
    )


def _text(ours: int, theirs: int) -> str:
    difference = abs(ours - theirs) / max(theirs, 1)
    if difference <= DRY_RUN_TOLERANCE:
        return f"llama.cpp's allocator agrees within {difference:.1%} (dry run)"
    return (
        f"llama.cpp's allocator takes {theirs / MIB:.1f} MiB for caches and computing, predicted were "
        f"{ours / MIB:.1f}: the larger counts (dry run)"
    )
