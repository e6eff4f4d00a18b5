"""Anatomy + machine + wishes -> a placement that fits and is fast, with a reason for each choice. Pure.

A model falls into pieces (`pieces`), which are dealt out over the devices (`layouts`) as the time of a turn
tells; the memory model has the last word (`search`). Attention stays on the fast devices: it is small and
read for every token, while of the experts only a few are. Whatever the user fixed is kept and composed with.
"""

from moetool.plan.alternatives import Alternative, make_alternatives
from moetool.plan.budget import Budget, make_budget
from moetool.plan.checked import DRY_RUN_TOLERANCE, Allocated, check_plan, settle_plan
from moetool.plan.make import budget_of, make_plan
from moetool.plan.remedies import remedies
from moetool.plan.result import Draft, Plan
from moetool.plan.wishes import DEFAULT_CTX, DEFAULT_RESERVE_BYTES, Limit, Reason, Wishes, check_experts

__all__ = [
    "DEFAULT_CTX",
    "DEFAULT_RESERVE_BYTES",
    "DRY_RUN_TOLERANCE",
    "Allocated",
    "Alternative",
    "Budget",
    "Draft",
    "Limit",
    "Plan",
    "Reason",
    "Wishes",
    "budget_of",
    "check_experts",
    "check_plan",
    "make_alternatives",
    "make_budget",
    "make_plan",
    "remedies",
    "settle_plan",
]
