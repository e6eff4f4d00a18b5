"""From a name on the command line to a plan: header, anatomy, machine, wishes, in this order."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from moetool.errors import EngineError, NotFound, UsageError
from moetool.quants import CACHE_TYPES

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


def read_this_machine(
    machine_file: Path | None = None, *, rpc: str | None = None, measure: bool = False
) -> Machine:
    """The machine we are on, with the devices that the workers `rpc` lend; or the one a file describes.

    With `measure`, memory whose speed is unknown is measured first: it takes a second, once a machine.
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
    machine = machine if known or not measure else measure_bandwidth(machine)
    return machine if rpc is None else _with_links(machine)


def _with_links(machine: Machine) -> Machine:
    """The machine with the way to its workers' devices, and their memory, measured."""
    from moetool.engine.rpc_measure import is_remote, measure_worker

    devices = [measure_worker(device) if is_remote(device) else device for device in machine.devices]
    return replace(machine, devices=tuple(devices))


def plan_for(opened: Opened, machine: Machine, wishes: Wishes) -> Plan:
    """The plan for a model on a machine."""
    from moetool.plan import make_plan

    return make_plan(opened.anatomy, machine, wishes)


def check_by_dry_run(plan: Plan, opened: Opened, wishes: Wishes) -> Plan:
    """The plan held against llama.cpp's allocator; only for the machine we are on."""
    from moetool.engine.dry_run import dry_run
    from moetool.plan import check_plan

    dry = dry_run(opened.model.paths, plan.settings, opened.anatomy.arch)
    return check_plan(plan, dry.kv_bytes, dry.compute_bytes(), wishes.reserve_bytes)


def make_wishes(
    ctx: str | None,
    kv: str,
    threads: int | None,
    gpu_layers: int | None,
    n_cpu_moe: int | None,
    experts: int | None,
) -> Wishes:
    """The flags that every command with a plan shares."""
    from moetool.plan import Wishes

    type_k, type_v = parse_kv(kv)
    return Wishes(
        n_ctx=parse_context(ctx),
        type_k=type_k,
        type_v=type_v,
        n_gpu_layers=gpu_layers,
        n_cpu_moe=n_cpu_moe,
        n_threads=threads,
        experts=experts,
    )


def parse_context(text: str | None) -> int | None:
    """--ctx: a number, with k for 1024, or `max` (0) for all that the model was trained with."""
    if text is None:
        return None
    if text.lower() == "max":
        return 0
    match = re.fullmatch(r"(\d{1,9})([kK]?)", text.strip())
    n_ctx = int(match[1]) * (1024 if match[2] else 1) if match else 0
    if not 1 <= n_ctx < 1 << 31:
        raise UsageError(f"--ctx {text} is not a number of tokens", "write 8192, 32k or max")
    return n_ctx


def parse_size(text: str, flag: str) -> int:
    """Bytes of a size as people write it: 12G, 12GiB, 1.5g, 800M; binary units."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*([KMGT])(?:i?B)?", text.strip(), re.IGNORECASE)
    n_bytes = int(float(match[1]) * (1 << 10 * (1 + "KMGT".index(match[2].upper())))) if match else 0
    if not n_bytes:
        raise UsageError(f"{flag} {text} is not a size", f"write {flag} 12G or {flag} 800M")
    return n_bytes


def parse_kv(text: str) -> tuple[str, str]:
    """--kv: one type for keys and values, or two with a comma between."""
    types = text.lower().split(",")
    if len(types) > 2 or not all(types):
        raise UsageError(
            f"--kv {text} is not a cache type", "write q8_0, or f16,q8_0 for keys and values apart"
        )
    unknown = [name for name in types if name not in CACHE_TYPES]
    if unknown:
        raise UsageError(f"--kv {unknown[0]} is not a cache type", f"use one of {', '.join(CACHE_TYPES)}")
    return types[0], types[-1]


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
