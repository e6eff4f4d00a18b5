"""The whole way: anatomy, settings, placement and machine -> `Speed`."""

from __future__ import annotations

from collections.abc import Iterable

from moetool.anatomy import Anatomy
from moetool.machine import Machine
from moetool.machine.kept_bandwidth import fingerprint
from moetool.settings import Settings
from moetool.speed.anatomical import Where, make_work
from moetool.speed.calibration import Calibration, Target, calibrate
from moetool.speed.lanes import make_lanes
from moetool.speed.predict import Load, Speed, predict_work


def predict_speed(
    anatomy: Anatomy,
    settings: Settings,
    where: Where,
    machine: Machine,
    calibration: Iterable[Calibration] = (),
    load: Load | None = None,
) -> Speed:
    """Prompt and decode speed of a model that lies as `where` says, corrected by this machine's own runs.

    `load` is the prompt's length and the depth to decode at (default: llama-bench's pp512 and tg128).
    """
    load = load or Load(n_ubatch=settings.n_ubatch)
    lanes = make_lanes(machine, settings.n_threads)
    speed = predict_work(make_work(anatomy, settings, where), lanes, load)
    return calibrate(speed, make_target(anatomy, settings, machine), calibration)


def make_target(anatomy: Anatomy, settings: Settings, machine: Machine) -> Target:
    """What calibration records are compared with; bench and run write the same into theirs."""
    used = settings.devices if settings.n_gpu_layers else ()
    return Target(
        fingerprint=fingerprint(machine),
        model=anatomy.name,
        weights_bytes=anatomy.weights_bytes,
        arch=anatomy.arch,
        quant=anatomy.quant,
        devices=tuple(_lasting_name(machine, name) for name in used) or ("CPU",),
        n_threads=settings.n_threads or machine.n_threads,
    )


def _lasting_name(machine: Machine, name: str) -> str:
    """What a device is called in records. "RPC0" is whatever worker was named first: a worker's device goes
    by its number there, its kind and its address."""
    place = machine.at_worker(name)
    if place is None:
        return name
    return f"RPC{place[1]} {next(d.description for d in machine.devices if d.name == name)}"
