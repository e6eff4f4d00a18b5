"""What of several models this machine has room for: by plan where a header is known, else by size alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moetool.anatomy import Anatomy
from moetool.errors import MoetoolError
from moetool.hub import FoundRepo
from moetool.machine import Machine
from moetool.names import QuantFiles
from moetool.plan import DEFAULT_RESERVE_BYTES, Wishes, make_plan
from moetool.store import LocalModel


@dataclass(frozen=True)
class Listed:
    """A model on this disk, and what its header says; None where it cannot be read. `fits` is None where
    that cannot be planned."""

    model: LocalModel
    anatomy: Anatomy | None
    fits: bool | None


@dataclass(frozen=True)
class Offered:
    """A repo on the Hub, and the largest of its quants that this machine has room for."""

    found: FoundRepo
    largest: QuantFiles | None


def make_listed(model: LocalModel, anatomy: Anatomy | None, machine: Machine) -> Listed:
    """With the plan's verdict, for the context that `run` would take."""
    if anatomy is None:
        return Listed(model, None, None)
    try:
        return Listed(model, anatomy, make_plan(anatomy, machine, Wishes()).fits)
    except MoetoolError:
        return Listed(model, anatomy, None)


def make_offered(repos: Iterable[FoundRepo], machine: Machine) -> tuple[Offered, ...]:
    """By file size alone: the weights must fit into all memory together. What a context takes is not in it,
    and only a plan knows that."""
    room = room_bytes(machine)
    return tuple(Offered(repo, largest_that_fits(repo.quants, room)) for repo in repos)


def largest_that_fits(quants: Sequence[QuantFiles], room: int) -> QuantFiles | None:
    fitting = [quant for quant in quants if quant.size_bytes <= room]
    return max(fitting, key=lambda quant: quant.size_bytes, default=None)


def room_bytes(machine: Machine) -> int:
    """Free memory of all devices together, less what a plan leaves free on each (see plan.make_budget)."""
    free = [device.free_bytes for device in machine.devices]
    return sum(n - min(DEFAULT_RESERVE_BYTES, n // 4) for n in free)
