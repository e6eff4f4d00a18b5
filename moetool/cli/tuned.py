"""What `moetool tune` has found out for a model here, made part of the plan that `run` follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from moetool.cli.opening import Opened, plan_for
from moetool.errors import UsageError
from moetool.kept_tunings import Tuning, read_tuning, read_tunings_path
from moetool.machine.kept_bandwidth import fingerprint
from moetool.render.plain import notice

if TYPE_CHECKING:
    from moetool.machine import Machine
    from moetool.plan import Plan, Wishes

_PLACEMENT = {"gpu-layers", "n-cpu-moe"}


def subject_of(opened: Opened, machine: Machine) -> tuple[str, str, int, tuple[str, ...]]:
    """Which model on which machine, with which devices: what a tuning is of."""
    devices = tuple(device.name for device in machine.devices)
    return fingerprint(machine), opened.anatomy.name, opened.anatomy.weights_bytes, devices


def tuned_plan(opened: Opened, machine: Machine, wishes: Wishes, *, is_quiet: bool) -> Plan:
    """The plan, with what was found to be faster; a line on stderr says so. What the user has fixed stays,
    and what would not fit is left."""
    tuning = read_tuning(read_tunings_path(), subject_of(opened, machine))
    changes = _free_changes(tuning, wishes) if tuning else {}
    if tuning is None or not changes:
        return plan_for(opened, machine, wishes)
    from moetool.cli.sweeping import at_point, show_point

    try:
        plan = plan_for(opened, machine, at_point(wishes, changes))
    except UsageError:
        return plan_for(opened, machine, wishes)  # an edited file, or a model that has changed
    if not plan.fits:
        return plan_for(opened, machine, wishes)
    if not is_quiet:
        notice(f"Tuned on {tuning.when[:10]}: {show_point(changes)}.")
    return plan


def _free_changes(tuning: Tuning, wishes: Wishes) -> Mapping[str, str]:
    """Those changes that do not touch what the user has fixed."""
    from moetool.cli.sweeping import AXES

    is_placed = bool(
        wishes.tensor_overrides or wishes.tensor_split or wishes.vram or wishes.n_gpu_layers is not None
    )
    free = {}
    for axis, value in tuning.changes.items():
        try:
            fields = AXES[axis](value)
        except (KeyError, ValueError, UsageError):
            continue  # an edited file
        if all(getattr(wishes, name) is None for name in fields) and not (is_placed and axis in _PLACEMENT):
            free[axis] = value
    return free
