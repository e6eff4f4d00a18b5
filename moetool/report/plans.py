"""Documents of plans: of one model, of the quants of a repo, of models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from moetool.machine import to_json
from moetool.quality import expected_loss

if TYPE_CHECKING:
    from moetool.anatomy import Anatomy
    from moetool.choice import Choice, Option
    from moetool.contest import Contender
    from moetool.machine import Machine
    from moetool.memory import DeviceMemory
    from moetool.plan import Alternative, Draft, Plan, Reason
    from moetool.quality import Quality
    from moetool.remote import RemoteHeaders


def of_plan(
    plan: Plan,
    file_name: str,
    alternatives: Sequence[Alternative] = (),
    remedies: Sequence[Reason] = (),
) -> dict[str, Any]:
    """The plan document: model, machine, settings, memory, speed, expected loss, whether it fits, why, and
    what else could be had (`candidates`) or would help (`remedies`)."""
    return {
        "model": _of_model(plan.anatomy, file_name),
        "machine": to_json(plan.machine),
        "settings": asdict(plan.settings),
        "memory": [_of_memory(row, plan.machine) for row in plan.memory],
        "speed": asdict(plan.speed),
        "quality": _of_quality(expected_loss(plan.anatomy)),
        "fits": plan.fits,
        "missing_bytes": dict(plan.missing),
        "reasons": [asdict(reason) for reason in plan.reasons],
        "remedies": [asdict(remedy) for remedy in remedies],
        "draft": _of_draft(plan.draft, plan.machine) if plan.draft else None,
        "candidates": [_of_alternative(other) for other in alternatives],
    }


def _of_draft(draft: Draft, machine: Machine) -> dict[str, Any]:
    return {
        "name": draft.anatomy.name,
        "settings": asdict(draft.settings),
        "memory": [_of_memory(row, machine) for row in draft.memory],
    }


def of_choice(choice: Choice, headers: RemoteHeaders, file_name: str) -> dict[str, Any]:
    """The plan document of the pick (or of what comes nearest), and a shorter row for every quant."""
    return of_plan(choice.nearest.plan, file_name) | {
        "fits": choice.nearest.fits,
        "pick": choice.pick.label if choice.pick else None,
        "why": asdict(choice.why),
        "remedies": [asdict(remedy) for remedy in choice.remedies],
        "candidates": [_of_option(o, is_pick=o is choice.pick) for o in choice.options],
        "unreadable": [
            {"quant": item.quant.label, "problem": item.problem} for item in headers.headers if item.problem
        ],
        "headers": {
            "fetched_bytes": headers.fetched_bytes,
            "requests": headers.n_requests,
            "seconds": headers.seconds,
        },
    }


def _of_quality(quality: Quality) -> dict[str, Any]:
    """A band and its sources: a figure alone would claim more than is known."""
    return {
        "band": quality.band,
        "band_low": quality.band_low,
        "band_high": quality.band_high,
        "evidence": list(quality.evidence),
    }


def _of_alternative(other: Alternative) -> dict[str, Any]:
    anatomy = other.plan.anatomy
    named = {"quant": anatomy.quant, "file_bytes": anatomy.file_bytes}
    judged = {"quality": expected_loss(anatomy).band, "fits": other.plan.fits, "reason": None}
    measured = {"experts": other.experts, "gain": other.gain, "kld": other.kld}
    shown = {
        "pick": other.is_pick,
        "pareto": other.is_front,
        "other_experts": measured if other.experts else None,
    }
    return _of_candidate(other.plan, named | judged | shown)


def _of_option(option: Option, *, is_pick: bool) -> dict[str, Any]:
    named = {"quant": option.label, "file_bytes": option.candidate.file_bytes}
    judged = {"quality": option.quality.band, "fits": option.fits, "reason": asdict(option.reason)}
    shown = {"pick": is_pick, "pareto": option.is_front, "other_experts": None}
    return _of_candidate(option.plan, named | judged | shown)


def _of_candidate(plan: Plan, judged: dict[str, Any]) -> dict[str, Any]:
    """What else could be had, of this file or of another quant: a plan in short, and how it is judged."""
    return judged | {
        "settings": asdict(plan.settings),
        "memory": [{"device": row.device, "total_bytes": row.total_bytes} for row in plan.memory],
        "decode_tok_s": plan.speed.decode_tok_s,
        "decode_low": plan.speed.decode_low,
        "decode_high": plan.speed.decode_high,
        "prompt_tok_s": plan.speed.prompt_tok_s,
    }


def _of_model(anatomy: Anatomy, file_name: str) -> dict[str, Any]:
    return {
        "name": anatomy.name,
        "arch": anatomy.arch,
        "file": file_name,
        "quant": anatomy.quant,
        "n_params": anatomy.n_params,
        "n_params_active": anatomy.n_params_active,
        "n_layer": anatomy.n_layer,
        "n_expert": anatomy.n_expert,
        "n_expert_used": anatomy.n_expert_used,
        "n_ctx_train": anatomy.n_ctx_train,
        "weights_bytes": anatomy.weights_bytes,
        "bytes_per_token": anatomy.bytes_per_token,
    }


def _of_memory(row: DeviceMemory, machine: Machine) -> dict[str, Any]:
    free = {device.name: device.free_bytes for device in machine.devices}
    return {
        "device": row.device,
        "weights_bytes": row.weights_bytes,
        "kv_bytes": row.kv_bytes,
        "state_bytes": row.state_bytes,
        "compute_bytes": row.compute_bytes,
        "output_bytes": row.output_bytes,
        "total_bytes": row.total_bytes,
        "free_bytes": free.get(row.device, 0),
    }


def of_contest(contenders: Sequence[Contender]) -> dict[str, Any]:
    """Models side by side: the plan of each, what was measured of it, and which to take."""
    from moetool.contest import verdict

    return {
        "n_ctx": contenders[0].plan.settings.n_ctx_seq,
        "machine": to_json(contenders[0].plan.machine),
        "models": [_of_contender(one) for one in contenders],
        "verdict": asdict(verdict(contenders)),
    }


def _of_contender(one: Contender) -> dict[str, Any]:
    plan = of_plan(one.plan, "")
    return {
        "label": one.label,
        "model": plan["model"]
        | {"file_bytes": one.plan.anatomy.file_bytes, "effective_size_heuristic": one.size},
        "settings": plan["settings"],
        "memory": plan["memory"],
        "fits": plan["fits"],
        "missing_bytes": plan["missing_bytes"],
        "speed": plan["speed"],
        "measured_speed": asdict(one.speed),
        "quality": plan["quality"],
        "measured_quality": [asdict(quality) for quality in one.qualities],
    }
