"""One screen per question, with rich. Names from files and repos go in as plain text, never as markup."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from functools import cache

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from moetool.anatomy import Anatomy
from moetool.doctor import Doctor
from moetool.machine import Machine
from moetool.machine.bandwidth import UNDER_LOAD
from moetool.render.plain import safe_line
from moetool.render.units import show_bandwidth, show_count, show_gib


@cache
def console() -> Console:
    """The screen for results: stdout."""
    return _console(on_stderr=False)


@cache
def error_console() -> Console:
    """The screen for progress and notices: stderr."""
    return _console(on_stderr=True)


def _console(*, on_stderr: bool) -> Console:
    """As wide as the terminal, or as COLUMNS says; else wide enough that no column is cut."""
    is_terminal = (sys.stderr if on_stderr else sys.stdout).isatty()
    width = None if is_terminal or os.environ.get("COLUMNS", "").isdecimal() else _PIPED_WIDTH
    return Console(stderr=on_stderr, width=width, markup=False, highlight=False, emoji=False)


_PIPED_WIDTH = 160


def show(*parts: RenderableType, on_stderr: bool = False) -> None:
    """Print to stdout (or stderr); into a pipe or file without blanks at the ends of lines."""
    screen = error_console() if on_stderr else console()
    if screen.is_terminal:
        screen.print(Group(*parts))
        return
    with screen.capture() as captured:
        screen.print(Group(*parts))
    screen.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def show_command(*words: str) -> None:
    """Something to type, as a shell wants it, on one line however long it is."""
    console().print(Text(safe_line(shlex.join(words))), soft_wrap=True)


# -- phrases ----------------------------------------------------------------------------------------


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
        speed += " (measured under load)" if device.bandwidth_source == UNDER_LOAD else ""
        free = f"{show_gib(device.free_bytes)} of {show_gib(device.total_bytes)} GiB free"
        parts.append(f"{place} {free}{speed}")
    parts.append(f"disk {show_gib(machine.disk_free_bytes)} GiB free")
    return " · ".join(parts)


# -- doctor ---------------------------------------------------------------------------------------


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
    show(facts_table(facts), Text(), *(problems or [Text("Nothing is wrong.", style="green")]))


# -- shared -----------------------------------------------------------------------------------------


def facts_table(facts: Mapping[str, str]) -> Table:
    """Names and what they are, line by line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in facts.items():
        table.add_row(name, Text(safe_line(text)))
    return table
