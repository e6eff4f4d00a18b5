"""Anatomy + machine + wishes -> the fastest placement that fits, with a reason for each choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from moetool.anatomy import Anatomy
from moetool.machine import Machine
from moetool.memory import device_memory
from moetool.plan.budget import Budget, make_budget
from moetool.plan.pieces import cut_weights
from moetool.plan.reasons import ceil_size, missing_reasons, placement_reasons, tuning_reasons
from moetool.plan.result import Draft, Plan, devices_in_use, speed_of
from moetool.plan.search import Question, search
from moetool.plan.wishes import Reason, Wishes, is_copied, offload_devices, settle
from moetool.settings import Settings
from moetool.speed import Calibration


def make_plan(
    anatomy: Anatomy,
    machine: Machine,
    wishes: Wishes,
    calibration: Sequence[Calibration] = (),
    taken: Mapping[str, int] | None = None,
) -> Plan:
    """The fastest placement that fits what may be used; else the one that lacks least.

    Placements are compared by what a turn of a talk would take (moetool.speed); where the speed of a device
    is unknown, devices come before RAM. `calibration` are this machine's own runs. `taken` bytes are left
    free beside the reserve, by device. Raises UsageError for what llama.cpp could not be asked for.
    """
    base, reasons = settle(anatomy, machine, wishes)
    devices = tuple(device.name for device in offload_devices(machine, wishes))
    draft = _place_draft(wishes, machine, base, devices)
    budget = make_budget(machine, wishes, _together(taken or {}, draft))
    question = Question(anatomy, machine, wishes, budget, devices, cut_weights(anatomy, base))
    found = search(question, base)
    why = [
        *reasons,
        *tuning_reasons(wishes, base, found),
        *placement_reasons(question, found),
        *_draft_reasons(draft),
        *missing_reasons(found.missing, budget),
    ]
    return Plan(
        anatomy=anatomy,
        machine=machine,
        wishes=wishes,
        settings=found.settings,
        memory=found.memory,
        speed=speed_of(anatomy, machine, found.settings, calibration),
        missing=found.missing,
        reasons=tuple(why),
        draft=draft,
        calibration=calibration,
        taken=dict(taken or {}),
    )


def budget_of(plan: Plan) -> Budget:
    """What the plan may use: less what its draft model and a dry run's surprise take."""
    return make_budget(plan.machine, plan.wishes, _together(plan.taken, plan.draft))


def _place_draft(wishes: Wishes, machine: Machine, base: Settings, devices: Sequence[str]) -> Draft | None:
    """The draft model whole on the first device on which it fits beside the reserve, else in RAM."""
    anatomy = wishes.draft
    if anatomy is None:
        return None
    mapped = not is_copied(anatomy, machine, wishes)
    settings = replace(base, experts=None, tensor_overrides=(), type_k="f16", type_v="f16", use_mmap=mapped)
    budget = make_budget(machine, wishes)
    for device in devices:
        offloaded = replace(settings, devices=(device,), n_gpu_layers=len(anatomy.layers) + 1)
        memory = device_memory(anatomy, offloaded, devices_in_use(offloaded, machine))
        if not budget.shortfalls(memory):
            return Draft(anatomy, offloaded, memory)
    return Draft(anatomy, settings, device_memory(anatomy, settings, devices_in_use(settings, machine)))


def _draft_reasons(draft: Draft | None) -> list[Reason]:
    if draft is None:
        return []
    place = f"on {draft.settings.devices[0]}" if draft.settings.devices else "in RAM"
    total = sum(row.total_bytes for row in draft.memory)
    text = f"draft model {draft.anatomy.name} {place}: {ceil_size(total)} are kept for it"
    return [Reason("draft", text)]


def _together(taken: Mapping[str, int], draft: Draft | None) -> dict[str, int]:
    both = dict(taken)
    for row in draft.memory if draft else ():
        both[row.device] = both.get(row.device, 0) + row.total_bytes
    return both
