"""The house rules: a room imports only from lower layers, and each outside thing has one door."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "moetool"

LAYERS: dict[str, int] = {
    "errors": 0,
    "quants": 0,
    "settings": 0,
    "assets": 0,
    "finite": 0,
    "home": 0,
    "gguf": 1,
    "machine": 1,
    "template": 1,
    "constrain": 1,
    "names": 1,
    "thinking": 1,
    "anatomy": 2,
    "identity": 2,
    "standin": 3,
    "memory": 3,
    "speed": 3,
    "quality": 3,
    "frontier": 3,
    "kept_records": 3,
    "kept_runs": 4,
    "kept_tunings": 4,
    "kept_frontiers": 4,
    "kept_profiles": 4,
    "kept_sensitivities": 4,
    "kept_qualities": 4,
    "plan": 4,
    "store": 5,
    "engine": 5,
    "hub": 6,
    "generate": 6,
    "prompt": 6,
    "kept_lines": 6,
    "kept_sessions": 6,
    "conversation": 7,
    "fullness": 7,
    "lockfile": 6,
    "pulling": 7,
    "kept_headers": 7,
    "arrived": 8,
    "fitting": 8,
    "remote": 8,
    "choice": 5,
    "contest": 6,
    "emit": 5,
    "doctor": 6,
    "batch": 8,
    "lab": 8,
    "eval": 6,
    "bench": 7,
    "charts": 9,
    "report": 9,
    "render": 10,
    "cli": 11,
    "__main__": 12,
}

# Outside thing -> rooms that may import it.
DOORS: dict[str, set[str]] = {
    "ctypes": {"engine"},
    "llama_cpp": {"engine"},
    "llguidance": {"constrain"},
    "jsonschema": {"constrain"},
    "referencing": {"constrain"},
    "huggingface_hub": {"hub"},
    "hf_xet": {"hub"},
    "httpx": {"hub"},
    "rich": {"render"},
    "typer": {"cli", "__main__"},
    "jinja2": {"template"},
    "subprocess": {"machine"},
    "pynvml": {"machine"},
}


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p.relative_to(PACKAGE).parts != ("__init__.py",))


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


@functools.cache
def imported(path: Path) -> set[str]:
    """Dotted names of everything a module imports, at the top or inside functions, typing apart."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if node.module == "moetool" else {node.module}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_from_lower_layers(path: Path) -> None:
    room = room_of(path)
    assert room in LAYERS, f"{room} has no layer: add it to LAYERS"
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "moetool" or len(parts) == 1 or parts[1] in {room, "__version__"}:
            continue
        assert parts[1] in LAYERS, f"{path.name} imports {name}, which has no layer"
        assert LAYERS[parts[1]] < LAYERS[room], f"{room} must not import {parts[1]}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_each_outside_thing_has_one_door(path: Path) -> None:
    room = room_of(path)
    for name in imported(path):
        allowed = DOORS.get(name.split(".")[0])
        assert allowed is None or room in allowed, f"{room} must not import {name}"


def test_nobody_imports_click() -> None:
    # Typer vendors its own Click; the other one's exceptions are silently not its own.
    assert not [p for p in modules() if any(n.split(".")[0] == "click" for n in imported(p))]
