"""What would make a plan fit that does not: the nearest things, the cheapest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from moetool.errors import UsageError
from moetool.plan.budget import make_budget
from moetool.plan.make import make_plan
from moetool.plan.reasons import ceil_size, limiting_flag, place_of
from moetool.plan.result import Plan
from moetool.plan.wishes import Reason, Wishes
from moetool.quants import BY_NAME

# Contexts shorter than this are of no use in a chat.
_SHORTEST_CTX = 1024
_SMALL_KVS = ("q8_0", "q4_0")
# Below this a model is hardly worth running: no quant is proposed.
_LEAST_BITS = 2.0


def remedies(plan: Plan) -> Iterator[Reason]:
    """What would help; each by itself is enough. Nothing for a plan that fits."""
    if plan.fits:
        return
    yield from _less_fixed(plan)
    yield from _smaller_cache(plan)
    yield from _shorter_context(plan)
    yield from _smaller_quant(plan)
    yield Reason("more-memory", f"{' and '.join(_more(plan))} would do")


def _more(plan: Plan) -> Iterator[str]:
    """What each device that lacks something needs: more of what the user allows, more memory, or both."""
    budget = make_budget(plan.machine, plan.wishes)
    for device, n_bytes in plan.missing.items():
        if flag := limiting_flag(device, budget):
            size = ceil_size(budget.available[device] + n_bytes).replace(" ", "")
            yield f"{flag} {size}" if flag == "--ram" else f"{flag} {device}={size}"
        lacking = n_bytes - (budget.without_limit[device] - budget.available[device])
        if lacking > 0:
            yield f"{ceil_size(lacking)} more of {place_of(device)}"


def _fits(plan: Plan, wishes: Wishes) -> bool:
    return make_plan(plan.anatomy, plan.machine, wishes, plan.calibration, plan.taken).fits


def _less_fixed(plan: Plan) -> Iterator[Reason]:
    """Without what the user fixed about the placement, or limited."""
    wishes = plan.wishes
    freed = {
        "--gpu-layers": (wishes.n_gpu_layers is not None, replace(wishes, n_gpu_layers=None)),
        "--n-cpu-moe": (wishes.n_cpu_moe is not None, replace(wishes, n_cpu_moe=None)),
        "--override-tensor": (bool(wishes.tensor_overrides), replace(wishes, tensor_overrides=())),
        "--tensor-split": (bool(wishes.tensor_split), replace(wishes, tensor_split=())),
        "--device": (wishes.devices is not None, replace(wishes, devices=None)),
        "--vram": (bool(wishes.vram), replace(wishes, vram=())),
        "--ram": (wishes.ram_bytes is not None, replace(wishes, ram_bytes=None)),
        "--reserve": (wishes.reserve_bytes is not None, replace(wishes, reserve_bytes=None)),
        "--draft": (wishes.draft is not None, replace(wishes, draft=None)),
        "--parallel": (wishes.n_seq > 1, replace(wishes, n_seq=1)),
        "--ubatch-size": (wishes.n_ubatch is not None, replace(wishes, n_ubatch=None)),
    }
    for flag, (is_set, without) in freed.items():
        if is_set and _fits(plan, without):
            yield Reason("less-fixed", f"without {flag} it fits")


def _smaller_cache(plan: Plan) -> Iterator[Reason]:
    """The largest type of cache below the user's with which it would fit."""
    wishes = plan.wishes
    if not (wishes.type_k or wishes.type_v) or not sum(row.kv_bytes for row in plan.memory):
        return
    bits = BY_NAME[plan.settings.type_k.upper()].bits_per_weight
    for kind in _SMALL_KVS:
        if BY_NAME[kind.upper()].bits_per_weight < bits and _takes(plan, kind):
            yield Reason("smaller-cache", f"with --kv {kind} it fits")
            return


def _takes(plan: Plan, kind: str) -> bool:
    try:
        return _fits(plan, replace(plan.wishes, type_k=kind, type_v=kind))
    except UsageError:
        return False  # this model's heads are not whole blocks of it


def _shorter_context(plan: Plan) -> Iterator[Reason]:
    """The longest context by halves with which it would fit."""
    kv_bytes = sum(row.kv_bytes + row.compute_bytes for row in plan.memory)
    if sum(plan.missing.values()) > kv_bytes:
        return
    n_ctx = plan.settings.n_ctx_seq // 2
    while n_ctx >= _SHORTEST_CTX:
        if _fits(plan, replace(plan.wishes, n_ctx=n_ctx)):
            yield Reason("shorter-context", f"with --ctx {n_ctx} it fits")
            return
        n_ctx //= 2


def _smaller_quant(plan: Plan) -> Iterator[Reason]:
    """How small the weights would have to be."""
    weights = plan.anatomy.weights_bytes
    left = weights - sum(plan.missing.values())
    bits = 8 * left / max(1, plan.anatomy.n_params)
    if bits >= _LEAST_BITS and bits < plan.anatomy.bits_per_weight:
        text = f"a quant of at most {left / (1 << 30):.1f} GiB would fit ({bits:.1f} bits a weight)"
        yield Reason("smaller-quant", text)
