"""What `bench` varies: lists in flags and --sweep become axes, and points on them become wishes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from moetool.bench.matrix import Point, parse_numbers
from moetool.cli.wishing import parse_kv
from moetool.errors import UsageError

if TYPE_CHECKING:
    from moetool.plan import Wishes

Fields = Mapping[str, Any]


def _number(name: str, least: int) -> Callable[[str], Fields]:
    def parse(text: str) -> Fields:
        if int(text) < least:
            what = name.removeprefix("n_").replace("_", "-")
            raise UsageError(f"{what} {text} is less than {least}", "leave it out: the plan chooses")
        return {name: int(text)}

    return parse


def _kv(text: str) -> Fields:
    type_k, type_v = parse_kv(text.replace("/", ","))
    return {"type_k": type_k, "type_v": type_v}


def _repack(text: str) -> Fields:
    if text not in {"0", "1"}:
        raise UsageError(f"repack {text} is neither 0 nor 1", "--sweep repack=0,1")
    return {"repack": text == "1"}


# Axis -> the wishes that its values stand for. Of a product the last one changes fastest: what takes a new
# load comes first, what takes nothing at all is the last.
AXES: dict[str, Callable[[str], Fields]] = {
    "gpu-layers": _number("n_gpu_layers", 0),
    "n-cpu-moe": _number("n_cpu_moe", 0),
    "experts": _number("experts", 1),
    "repack": _repack,
    "batch": _number("n_batch", 1),
    "ubatch": _number("n_ubatch", 1),
    "kv": _kv,
    "ctk": lambda text: {"type_k": parse_kv(text)[0]},
    "ctv": lambda text: {"type_v": parse_kv(text)[0]},
    "threads": _number("n_threads", 1),
}
_NAMES_OF_TYPES = {"kv", "ctk", "ctv"}
_ALIASES = {
    "ngl": "gpu-layers",
    "n-gpu-layers": "gpu-layers",
    "ncmoe": "n-cpu-moe",
    "b": "batch",
    "batch-size": "batch",
    "ub": "ubatch",
    "ubatch-size": "ubatch",
    "t": "threads",
}


def parse_axis(name: str, text: str, flag: str) -> tuple[str, ...]:
    """The values of an axis, each checked; UsageError names the flag."""
    if name in _NAMES_OF_TYPES:
        values = tuple(part.strip() for part in text.split(",") if part.strip())
    else:
        values = tuple(map(str, parse_numbers(text, flag)))
    if not values:
        flag += "" if flag.endswith("=") else " "
        raise UsageError(f"{flag}{text} has no values", f"write {flag}f16")
    for value in values:
        AXES[name](value)
    return values


def parse_sweep(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """--sweep NAME=V,V, which may be repeated: axis -> values."""
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        name = name.strip().replace("_", "-")
        name = _ALIASES.get(name, name)
        if name not in AXES:
            raise UsageError(
                f"--sweep {text}: there is no {name or 'name'} to sweep", f"one of {', '.join(AXES)}"
            )
        if name in found:
            raise UsageError(f"--sweep names {name} twice", "put all its values into one list")
        found[name] = parse_axis(name, values, f"--sweep {name}=")
    return found


def make_axes(
    lists: Mapping[str, tuple[str | None, str]], sweeps: Sequence[str]
) -> tuple[Point, dict[str, tuple[str, ...]]]:
    """What flags fix (one value each), and what is varied. `lists`: axis -> what was typed, and the flag."""
    given = {name: parse_axis(name, text, flag) for name, (text, flag) in lists.items() if text is not None}
    swept = parse_sweep(sweeps)
    for name in given.keys() & swept.keys():
        raise UsageError(f"{name} is both fixed and swept", "put all its values into the --sweep")
    if "kv" in (both := {*given, *swept}) and both & {"ctk", "ctv"}:
        raise UsageError("kv gives the types of both keys and values", "leave kv out, or ctk and ctv")
    fixed = {name: values[0] for name, values in given.items() if len(values) == 1}
    varied = {name: values for name, values in given.items() if len(values) > 1} | swept
    return fixed, {name: varied[name] for name in AXES if name in varied}


def at_point(wishes: Wishes, point: Point) -> Wishes:
    """The wishes with what a point changes of them."""
    for name, value in point.items():
        wishes = replace(wishes, **AXES[name](value))
    return wishes


def show_point(point: Point) -> str:
    """ "threads 2, kv q8_0"; "the plan itself" for the base."""
    return ", ".join(f"{name} {value}" for name, value in point.items()) or "the plan itself"
