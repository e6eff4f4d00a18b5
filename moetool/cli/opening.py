"""From a name on the command line to a plan: header, anatomy, machine, wishes, in this order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from moetool.errors import EngineError, NotFound, UsageError

if TYPE_CHECKING:
    from moetool.anatomy import Anatomy
    from moetool.gguf import Header
    from moetool.machine import Machine
    from moetool.plan import Plan, Wishes
    from moetool.store import LocalModel


@dataclass(frozen=True)
class Opened:
    """A model on this disk, read as far as its header."""

    model: LocalModel
    header: Header
    anatomy: Anatomy


def open_model(name: str) -> Opened:
    """Find a model on this disk and read its header; the whole files must be there."""
    from moetool.anatomy import make_anatomy
    from moetool.names import parse_model_name
    from moetool.store import read_cache_dir, require_local

    model = require_local(parse_model_name(name), read_cache_dir())
    header = read_header_of(model)
    return Opened(model, header, make_anatomy(header))


def read_anatomy(model: LocalModel) -> Anatomy:
    """What a model on this disk is made of."""
    from moetool.anatomy import make_anatomy

    return make_anatomy(read_header_of(model))


def read_header_of(model: LocalModel) -> Header:
    """The header of all shards, whose data must be whole."""
    from moetool.gguf import check_data, merge_shards, open_header

    headers = [open_header(path) for path in model.paths]
    for header, path in zip(headers, model.paths, strict=True):
        check_data(header, path.stat().st_size)
    return merge_shards(headers) if len(headers) > 1 else headers[0]


def default_model() -> str:
    """What to run when nobody says: the model pulled last, else the demo."""
    from moetool.store import list_local, read_cache_dir

    pulled = list_local(read_cache_dir())
    if not pulled:
        return "demo"
    return max(pulled, key=lambda model: model.paths[0].lstat().st_mtime).name


Measure = Literal["never", "unknown", "again"]


def read_this_machine(
    machine_file: Path | None = None, *, rpc: str | None = None, measure: Measure = "never"
) -> Machine:
    """The machine we are on, with the devices that the workers `rpc` lend; or the one a file describes.

    `measure` says when the speed of memory is measured first, which takes a second: never, where it is
    unknown, or once more whatever is known.
    """
    from moetool.machine import known_bandwidth, measure_bandwidth, read_machine, read_machine_file
    from moetool.store import read_cache_dir

    if machine_file is not None:
        if rpc is not None:
            raise UsageError("--rpc and --machine exclude each other", "a machine file lists its own devices")
        return read_machine_file(machine_file)
    from moetool.engine.devices import list_devices

    if rpc is not None:
        from moetool.engine.rpc import add_workers, parse_addresses

        add_workers(parse_addresses(rpc))
    machine = known_bandwidth(read_machine(list_devices(), read_cache_dir()))
    known = all(device.bandwidth_bytes_s for device in machine.devices if device.kind == "cpu")
    if measure == "again" or (measure == "unknown" and not known):
        machine = measure_bandwidth(machine)
    return machine if rpc is None else _with_links(machine)


def _with_links(machine: Machine) -> Machine:
    """The machine with the way to its workers' devices, and their memory, measured."""
    from moetool.engine.rpc_measure import is_remote, measure_worker

    devices = [measure_worker(device) if is_remote(device) else device for device in machine.devices]
    return replace(machine, devices=tuple(devices))


def plan_for(opened: Opened, machine: Machine, wishes: Wishes) -> Plan:
    """The plan for a model on a machine; this machine's own runs correct its speed."""
    from moetool.kept_runs import read_runs, read_runs_path
    from moetool.plan import make_plan

    return make_plan(opened.anatomy, machine, wishes, read_runs(read_runs_path()))


def check_by_dry_run(plan: Plan, paths: Sequence[Path]) -> Plan:
    """The plan held against llama.cpp's allocator, and made anew if it turns out too large; only for the
    machine we are on."""
    from moetool.engine.dry_run import dry_run
    from moetool.plan import Allocated, settle_plan

    def allocate(tried: Plan) -> Allocated:
        dry = dry_run(paths, tried.settings, tried.anatomy.arch)
        return Allocated(dry.kv_bytes, dry.compute_bytes())

    return settle_plan(plan, allocate)


def check_header_by_dry_run(plan: Plan, header: Header) -> Plan:
    """The same for a model of which only the header is here: a sparse file of its size stands for it."""
    import tempfile

    from moetool.gguf import hollow_file

    head, size_bytes = hollow_file(header, plan.anatomy.n_vocab)
    with tempfile.TemporaryDirectory(prefix="moetool-") as folder:
        path = Path(folder) / "header.gguf"
        path.write_bytes(head)
        os.truncate(path, size_bytes)
        return check_by_dry_run(plan, [path])


def is_known_model(name: str) -> bool:
    """Does this argument name a model (rather than being a prompt)?"""
    from moetool.names import parse_model_name
    from moetool.store import find_local, read_cache_dir

    try:
        parsed = parse_model_name(name)
        return parsed.kind != "short" or find_local(parsed, read_cache_dir()) is not None
    except NotFound:
        return True  # it fits several models: a name, if an unclear one
    except (UsageError, EngineError):
        return False
