"""Models as rows: on this disk, on the Hub, just pulled, just removed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from moetool.anatomy import Anatomy
from moetool.fitting import Listed, Offered, room_bytes
from moetool.kept_sessions import KeptSession
from moetool.machine import Machine
from moetool.names import parse_sidecar
from moetool.pulling import PullResult
from moetool.render.fitted import columns
from moetool.render.plain import safe_line
from moetool.render.tables import facts_table, show, show_command
from moetool.render.units import show_bytes, show_count, show_gib
from moetool.store import Removal

_MARKS = {True: "yes", False: "no", None: "?"}


def show_models(models: Sequence[Listed]) -> None:
    """The models on this disk, with what their headers say."""
    if not models:
        show(Text("Nothing is pulled yet. The demo model is always there: moetool run demo"))
        return
    heads = ("name", "GiB", "arch", "parameters", "active", "verified", "fits here")
    table = columns(heads, left={"name", "arch", "verified", "fits here"})
    for item in models:
        model = item.model
        verified, fits = _MARKS[model.verified], _MARKS[item.fits]
        row = (safe_line(model.name), show_gib(model.size_bytes), *_parts(item.anatomy), verified, fits)
        table.add_row(*row)
    show(table)


def _parts(anatomy: Anatomy | None) -> tuple[str, str, str]:
    if anatomy is None:
        return "header unreadable", "?", "?"
    active = show_count(anatomy.n_params_active) if anatomy.is_moe else "all"
    return safe_line(anatomy.arch), show_count(anatomy.n_params), active


def show_sessions(kept: Sequence[KeptSession]) -> None:
    """What is kept of sessions."""
    if not kept:
        show(Text("No session is kept. One is made with: moetool run MODEL --session NAME"))
        return
    table = columns(("name", "model", "tokens", "size", "chat"), left={"name", "model", "chat"})
    for item in kept:
        model = safe_line(item.model_name) if item.model_name else "?"
        tokens = "?" if item.n_tokens is None else str(item.n_tokens)
        table.add_row(item.name, model, tokens, show_bytes(item.n_bytes), _MARKS[item.is_chat])
    show(table)


def show_offered(offered: Sequence[Offered], machine: Machine) -> None:
    """Repos on the Hub, with the sizes of their quants and the largest that this machine has room for."""
    heads = ("repo", "downloads", "quants", "GiB", "fits here")
    table = columns(heads, left={"repo", "fits here"})
    for item in offered:
        found = item.found
        table.add_row(safe_line(found.repo), show_count(found.downloads), *_size_cells(item))
    room = f"By file size alone, with {show_gib(room_bytes(machine))} GiB of memory free."
    best = next((item.found.repo for item in offered if item.largest), offered[0].found.repo)
    show(table, Text(), Text(room, style="dim"))
    show_command("moetool", "plan", best)


def _size_cells(item: Offered) -> tuple[str, str, str]:
    quants = item.found.quants
    if not quants:
        return "?", "?", safe_line(item.found.problem)
    sizes = [quant.size_bytes for quant in quants]
    span = " – ".join(dict.fromkeys([show_gib(min(sizes)), show_gib(max(sizes))]))
    if item.largest is None:
        return str(len(quants)), span, "no"
    fits = f"up to {safe_line(item.largest.label)}, {show_gib(item.largest.size_bytes)}"
    return str(len(quants)), span, fits


def show_pull(result: PullResult) -> None:
    """What was downloaded, and what to type next."""
    facts = {
        "Model": result.name,
        "Commit": result.revision,
        "Files": f"{len(result.files)}: {', '.join(result.files[:4])}{' …' if len(result.files) > 4 else ''}",
        "Size": show_bytes(result.size_bytes),
    }
    if result.dry_run:
        facts["To download"] = f"{show_bytes(result.missing_bytes)}; the disk has room for it"
    else:
        facts["Fetched"] = f"{show_bytes(result.fetched_bytes)} now, every byte verified"
    if result.lock_path:
        facts["Lock file"] = str(result.lock_path)
    show(facts_table(facts))
    if result.dry_run or not parse_sidecar(result.files[0]):
        verb = "pull" if result.dry_run else "run"
        show(Text())
        show_command("moetool", verb, result.name)


def removal_phrase(removal: Removal) -> str:
    """What goes and what that frees: "org/a:Q8_0 (2 files), which frees 18.4 GiB"."""
    n_files = len(removal.names)
    files = f"{n_files} file{'s' * (n_files != 1)}" if n_files else "what unfinished pulls have left"
    kept = f" ({show_bytes(removal.kept_bytes)} are still used elsewhere)" if removal.kept_bytes else ""
    return f"{safe_line(removal.name)}, {files}: frees {show_bytes(removal.freed_bytes)}{kept}"


def show_removed(removal: Removal) -> None:
    """The same, done."""
    show(Text(f"Removed {removal_phrase(removal).replace(': frees', ': freed')}."))
