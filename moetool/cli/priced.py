"""What another number of experts costs, said once on stderr: as `moetool sparsity` measured it, if it did."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from moetool.render.plain import notice

if TYPE_CHECKING:
    from moetool.cli.opening import Opened
    from moetool.frontier import Frontier, FrontierPoint
    from moetool.kept_frontiers import KeptFrontier
    from moetool.machine import Machine
    from moetool.plan import Plan


def show_price(plan: Plan, opened: Opened) -> None:
    """A line for a plan whose number of experts is not the model's own."""
    said = [reason.text for reason in plan.reasons if reason.code == "experts-changed"]
    experts = plan.settings.experts
    if not said or experts is None:
        return
    kept = known_frontier(opened)
    point = kept.frontier.at(experts) if kept else None
    if kept is None or point is None:
        command = shlex.join(["moetool", "sparsity", opened.model.name])
        notice(f"{said[0]}; what that costs was not measured: {command}")
        return
    is_here = kept.place == place_of(plan.machine)
    notice(f"{said[0]}; measured on {kept.when[:10]}: {price(kept.frontier, point, with_speed=is_here)}")


def price(frontier: Frontier, point: FrontierPoint, *, with_speed: bool = True) -> str:
    """ "+18 % decode speed, KLD 0.010, 96 % the same top token"."""
    parts = []
    gain = frontier.gain(point)
    if with_speed and gain is not None:
        parts.append(f"{gain:+.0%} decode speed".replace("%", " %"))
    if point.whole is not None and point.whole.kld is not None:
        parts.append(f"KLD {point.whole.kld.value:.3g}")
    if point.whole is not None and point.whole.same_top is not None:
        parts.append(f"{100 * point.whole.same_top:.1f} % the same top token")
    return ", ".join(parts) or "no difference"


def known_frontier(opened: Opened) -> KeptFrontier | None:
    """What `moetool sparsity` kept of a model, if it did."""
    from moetool.identity import read_model_digest
    from moetool.kept_frontiers import read_frontier, read_frontiers_path

    weights_bytes = opened.anatomy.weights_bytes
    return read_frontier(read_frontiers_path(), weights_bytes, lambda: read_model_digest(opened.model.paths))


def place_of(machine: Machine) -> tuple[str, tuple[str, ...]]:
    """Where speeds are measured: which machine, with which devices."""
    from moetool.machine.kept_bandwidth import fingerprint

    return fingerprint(machine), tuple(device.name for device in machine.devices)
