"""What `compare` does once its flags are read: headers, here or on the Hub, plans, what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moetool.anatomy import Anatomy
from moetool.cli.inspect import read_remote_anatomy
from moetool.cli.opening import open_model, read_this_machine
from moetool.cli.remote_plan import remote_name
from moetool.contest import Contender, measured_speed
from moetool.errors import DoesNotFit
from moetool.identity import read_model_digest
from moetool.kept_qualities import KeptQuality, read_qualities, read_qualities_path
from moetool.kept_runs import read_runs, read_runs_path
from moetool.plan import Wishes, make_plan
from moetool.quality import expected_loss
from moetool.speed import make_target

# Where nobody says: room for a conversation, and for a text to be read.
_CONTEXT = 8192


@dataclass(frozen=True)
class _Named:
    """A model as it was named, and what is known of it."""

    name: str
    anatomy: Anatomy
    qualities: tuple[KeptQuality, ...] = ()


def make_contest(names: Sequence[str], machine_file: Path | None, wishes: Wishes) -> tuple[Contender, ...]:
    """All models on one machine with the same context, in the order of their names."""
    found = [_read(name) for name in names]
    machine = read_this_machine(machine_file, measure="unknown")
    if wishes.n_ctx is None:
        trained = [one.anatomy.n_ctx_train for one in found if one.anatomy.n_ctx_train]
        wishes = replace(wishes, n_ctx=min([_CONTEXT, *trained]))
    runs = read_runs(read_runs_path())
    contenders = []
    for one, label in zip(found, _labels(found), strict=True):
        plan = make_plan(one.anatomy, machine, wishes, runs)
        speed = measured_speed(runs, make_target(plan.anatomy, plan.settings, plan.machine))
        contenders.append(Contender(label, plan, expected_loss(one.anatomy), speed, one.qualities))
    return tuple(contenders)


def refusal(contenders: Sequence[Contender]) -> DoesNotFit | None:
    """What ends the command where none of them fits."""
    if any(one.plan.fits for one in contenders):
        return None
    return DoesNotFit("None of them fits here", "ask for less with --ctx, or compare smaller quants")


def _read(name: str) -> _Named:
    remote = remote_name(name)
    if remote:
        return _Named(name, read_remote_anatomy(remote))
    opened = open_model(name)
    known = read_qualities(read_qualities_path(), read_model_digest(opened.model.paths))
    return _Named(name, opened.anatomy, known)


def _labels(found: Sequence[_Named]) -> list[str]:
    """What to call them: name and quant, unless two would be called alike."""
    labels = [_label(one.anatomy) for one in found]
    short = [Path(one.name).name for one in found]
    chosen = labels if len(set(labels)) == len(labels) else short
    return chosen if len(set(chosen)) == len(chosen) else [one.name for one in found]


def _label(anatomy: Anatomy) -> str:
    return anatomy.name if anatomy.quant in anatomy.name else f"{anatomy.name} {anatomy.quant}"
