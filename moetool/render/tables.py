"""One screen per question, with rich. Names from files and repos go in as plain text, never as markup."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from moetool.anatomy import Anatomy, Layer, effective_size
from moetool.bench.report import BenchRow
from moetool.doctor import Doctor
from moetool.machine import Machine
from moetool.memory import DeviceMemory
from moetool.plan import Plan
from moetool.pulling import PullResult
from moetool.render.plain import safe_line
from moetool.render.units import (
    show_bandwidth,
    show_bytes,
    show_count,
    show_gib,
    show_range,
)
from moetool.store import LocalModel

BAR_CELLS = 32


@cache
def console() -> Console:
    """The screen for results: stdout. Wide when piped, so that no column is cut."""
    width = None if sys.stdout.isatty() else 160
    return Console(width=width, markup=False, highlight=False, emoji=False, soft_wrap=False)


@cache
def error_console() -> Console:
    """The screen for progress: stderr."""
    return Console(stderr=True, markup=False, highlight=False, emoji=False)


def show(*parts: RenderableType) -> None:
    """Print to stdout."""
    console().print(Group(*parts))


# -- inspect ----------------------------------------------------------------------------------------


def show_anatomy(anatomy: Anatomy) -> None:
    """What a model is made of, one screen."""
    show(_facts(_anatomy_facts(anatomy)), Text(), _role_bars(anatomy))
    if anatomy.unknown:
        show(Text(f"Unknown tensors: {safe_line(', '.join(anatomy.unknown[:8]))}", style="yellow"))


def _anatomy_facts(anatomy: Anatomy) -> dict[str, str]:
    facts = {
        "Model": f"{anatomy.name}   {anatomy.arch}",
        "Quantization": f"{anatomy.quant}, {anatomy.bits_per_weight:.2f} bits a weight",
        "Parameters": f"{show_count(anatomy.n_params)}, {show_count(anatomy.n_params_active)} active a token",
        "Layers": _layer_summary(anatomy),
        "Weights": f"{show_bytes(anatomy.weights_bytes)}, {show_bytes(anatomy.bytes_per_token)} read a token",
        "Context": f"{anatomy.n_ctx_train} tokens trained, vocabulary {anatomy.n_vocab}",
    }
    if anatomy.is_moe:
        shared = f" + {anatomy.n_expert_shared} shared" if anatomy.n_expert_shared else ""
        facts["Experts"] = (
            f"{anatomy.n_expert_used}{shared} of {anatomy.n_expert} used, in {anatomy.n_layer_moe} layers"
        )
        guess = show_count(effective_size(anatomy))
        facts["Feels like"] = f"a dense model of about {guess}: √(total × active), a community heuristic"
    return facts


def _layer_summary(anatomy: Anatomy) -> str:
    kinds: dict[str, int] = {}
    for layer in anatomy.layers:
        if not layer.mtp:
            name = f"{layer.mixer} + {layer.ffn}"
            kinds[name] = kinds.get(name, 0) + 1
    parts = [f"{count} × {name}" for name, count in kinds.items()]
    return f"{anatomy.n_layer}: {', '.join(parts)}"


def _role_bars(anatomy: Anatomy) -> Table:
    table = Table(box=None, pad_edge=False)
    for name, justify in (("role", "left"), ("MiB", "right"), ("share", "right"), ("", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    whole = max(anatomy.weights_bytes, 1)
    for role, n_bytes in sorted(anatomy.bytes_by_role.items(), key=lambda item: -item[1]):
        share = n_bytes / whole
        table.add_row(role, f"{n_bytes / (1 << 20):,.1f}", f"{share:.1%}", Text(bar(share), style="cyan"))
    return table


def show_layers(layers: Sequence[Layer]) -> None:
    """The table of all layers."""
    table = Table(box=None, pad_edge=False)
    for name in ("layer", "mixer", "ffn", "heads", "kv heads", "head k/v", "window", "experts used", "MiB"):
        table.add_column(name, justify="left" if name in {"mixer", "ffn"} else "right")
    for layer in layers:
        table.add_row(
            str(layer.index),
            layer.mixer + (" (mtp)" if layer.mtp else ""),
            layer.ffn,
            str(layer.n_head),
            str(layer.n_head_kv),
            f"{layer.head_k}/{layer.head_v}",
            str(layer.window or "–"),
            str(layer.n_expert_used or "–"),
            f"{sum(layer.bytes_by_role.values()) / (1 << 20):,.1f}",
        )
    show(Text(), table)


# -- plan -------------------------------------------------------------------------------------------


def show_plan(plan: Plan, next_command: str) -> None:
    """Where everything goes, how fast it should be, and why."""
    anatomy = plan.anatomy
    facts = {
        "Model": f"{anatomy.name}   {model_phrase(anatomy)}",
        "This machine": machine_phrase(plan.machine),
        "Context": f"{plan.settings.n_ctx} tokens, KV cache {plan.settings.type_k}/{plan.settings.type_v}",
        "Decode": f"{show_range(plan.speed.decode_low, plan.speed.decode_high)} tok/s",
        "Prompt": f"{show_range(plan.speed.prompt_low, plan.speed.prompt_high)} tok/s",
    }
    verdict = Text(
        "It fits." if plan.fits else "It does not fit.", style="bold green" if plan.fits else "bold red"
    )
    reasons: list[RenderableType] = [
        Text(f"· {safe_line(reason.text)}", style="dim") for reason in plan.reasons
    ]
    basis = Text(f"Speed basis: {plan.speed.missing or plan.speed.basis}", style="dim")
    parts: list[RenderableType] = [
        _facts(facts),
        Text(),
        _memory_table(plan.memory, plan.machine),
        Text(),
        verdict,
        *reasons,
        basis,
    ]
    show(*parts, *([Text(next_command)] if plan.fits else []))


def model_phrase(anatomy: Anatomy) -> str:
    phrase = f"{anatomy.arch}, {anatomy.quant}, {show_count(anatomy.n_params)} parameters"
    if anatomy.is_moe:
        phrase += f", {show_count(anatomy.n_params_active)} active per token"
        phrase += f" ({anatomy.n_expert_used} of {anatomy.n_expert} experts)"
    return f"{phrase}, {anatomy.n_layer} layers"


def machine_phrase(machine: Machine) -> str:
    """Devices with free memory and bandwidth, RAM and disk, on one line."""
    parts = []
    for device in machine.devices:
        place = "RAM" if device.kind == "cpu" else f"{device.name} {safe_line(device.description)}"
        speed = f", {show_bandwidth(device.bandwidth_bytes_s)}" if device.bandwidth_bytes_s else ""
        free = f"{show_gib(device.free_bytes)} of {show_gib(device.total_bytes)} GiB free"
        parts.append(f"{place} {free}{speed}")
    parts.append(f"disk {show_gib(machine.disk_free_bytes)} GiB free")
    return " · ".join(parts)


def _memory_table(rows: Sequence[DeviceMemory], machine: Machine) -> Table:
    table = Table(box=None, pad_edge=False)
    heads = ("device", "weights", "KV", "state", "compute", "output", "total", "free")
    for head in heads:
        table.add_column(head, justify="left" if head == "device" else "right")
    free = {device.name: device.free_bytes for device in machine.devices}
    for row in rows:
        sizes = (row.weights_bytes, row.kv_bytes, row.state_bytes, row.compute_bytes, row.output_bytes)
        cells = [show_bytes(n) if n else "–" for n in (*sizes, row.total_bytes)]
        table.add_row(row.device, *cells, show_bytes(free.get(row.device, 0)))
    return table


# -- bench, list, doctor ----------------------------------------------------------------------------


def show_bench(rows: Sequence[BenchRow]) -> None:
    """llama-bench's columns, with the prediction beside the measurement."""
    table = Table(box=None, pad_edge=False)
    for head in ("model", "size", "params", "backend", "threads", "test", "t/s", "predicted"):
        table.add_column(head, justify="left" if head in {"model", "backend"} else "right")
    for row in rows:
        table.add_row(
            safe_line(row.model_type),
            show_bytes(row.model_size_bytes),
            show_count(row.model_n_params),
            row.backends,
            str(row.settings.n_threads),
            row.samples.test.name,
            f"{row.samples.mean_tok_s:.2f} ± {row.samples.sd_tok_s:.2f}",
            show_range(row.predicted_low, row.predicted_high),
        )
    show(table)


def show_models(models: Sequence[LocalModel], anatomies: Mapping[str, Anatomy]) -> None:
    """The models on this disk, with what their headers say."""
    if not models:
        show(Text("Nothing is pulled yet. The demo model is always there: moetool run demo"))
        return
    table = Table(box=None, pad_edge=False)
    for head in ("name", "size", "verified", "model"):
        table.add_column(head, justify="right" if head == "size" else "left", overflow="fold")
    for model in models:
        anatomy = anatomies.get(model.name)
        phrase = model_phrase(anatomy) if anatomy else "its header cannot be read: pull it again"
        verified = "yes" if model.verified else "no"
        table.add_row(safe_line(model.name), show_bytes(model.size_bytes), verified, safe_line(phrase))
    show(table)


def show_pull(result: PullResult) -> None:
    """What was downloaded, and what to type next."""
    facts = {
        "Model": result.name,
        "Commit": result.revision,
        "Files": f"{len(result.files)}: {', '.join(result.files[:4])}{' …' if len(result.files) > 4 else ''}",
        "Size": show_bytes(result.size_bytes),
    }
    if not result.dry_run:
        facts["Fetched"] = f"{show_bytes(result.fetched_bytes)} now, every byte verified"
    verb = "pull" if result.dry_run else "run"
    show(_facts(facts), Text(), Text(f"moetool {verb} {safe_line(result.name)}"))


def show_doctor(found: Doctor) -> None:
    """The machine, the build, and what is wrong."""
    machine, build = found.machine, found.build
    facts = {
        "CPU": f"{machine.cpu_name}, {machine.n_cores} cores, {machine.n_threads} threads to compute with",
        "Devices": machine_phrase(machine),
        "Cards": ", ".join(found.cards) or "none",
        "llama.cpp": f"backends {', '.join(build.backends)}; RPC {'yes' if build.supports_rpc else 'no'}",
        "Packages": ", ".join(f"{name} {version or 'missing'}" for name, version in found.versions),
        "Hub token": "present" if found.hf_token else "none: public repos only",
    }
    problems: list[RenderableType] = []
    for problem in found.problems:
        problems.append(Text(f"! {safe_line(problem.text)}", style="yellow"))
        if problem.command:
            problems.append(Text(f"  {problem.command}"))
    show(_facts(facts), Text(), *(problems or [Text("Nothing is wrong.", style="green")]))


# -- shared -----------------------------------------------------------------------------------------


def _facts(facts: Mapping[str, str]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in facts.items():
        table.add_row(name, Text(safe_line(text)))
    return table


def bar(share: float) -> str:
    """A horizontal bar of at most BAR_CELLS cells, in eighths."""
    eighths = round(max(0.0, min(share, 1.0)) * BAR_CELLS * 8)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]
