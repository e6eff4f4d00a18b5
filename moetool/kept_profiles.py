"""How models route, kept for what plans and advises later: a JSON file a model, of its longest reading.

    profiles/SHA256.json     which model, when, how much text; by layer how often each expert was chosen

The files are the user's: to read and to delete. One that is damaged is as good as none; one that cannot be
written is no error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from moetool.home import read_home

_VERSION = 1
_MOST_BYTES = 64 << 20
_DAMAGED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass(frozen=True)
class KeptLayer:
    """How often each expert of a layer was chosen for one of the tokens, and the sum of its shares of them;
    each token chose `n_used`."""

    layer: int
    n_used: int
    counts: tuple[int, ...]
    mass: tuple[float, ...]


@dataclass(frozen=True)
class KeptProfile:
    """The routing of a model (`sha256`: identity.read_model_digest) over `n_tokens` tokens of texts."""

    sha256: str
    model: str
    when: str
    texts: tuple[str, ...]
    n_tokens: int
    layers: tuple[KeptLayer, ...]


def read_profiles_folder() -> Path:
    """Where profiles are kept."""
    return read_home() / "profiles"


def read_profile(folder: Path, sha256: str) -> KeptProfile | None:
    """What is kept of a model, if anything is."""
    try:
        path = folder / f"{sha256}.json"
        if path.stat().st_size > _MOST_BYTES:
            return None
        found = parse_profile(path.read_text("utf-8", "replace"))
    except OSError:
        return None
    return found if found is not None and found.sha256 == sha256 else None


def keep_profile(folder: Path, profile: KeptProfile) -> bool:
    """Keep a profile, unless one of more tokens is kept of this model; is it kept now?"""
    before = read_profile(folder, profile.sha256)
    if before is not None and before.n_tokens > profile.n_tokens:
        return False
    path = folder / f"{profile.sha256}.json"
    new = path.with_suffix(f".{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps({"version": _VERSION, **asdict(profile)}), "utf-8")
        new.replace(path)
    except OSError:
        return False
    return True


def parse_profile(text: str) -> KeptProfile | None:
    """What `keep_profile` wrote; None for anything else."""
    try:
        raw = json.loads(text)
        if raw["version"] != _VERSION:
            return None
        return KeptProfile(
            sha256=str(raw["sha256"]),
            model=str(raw["model"]),
            when=str(raw["when"]),
            texts=tuple(map(str, raw["texts"])),
            n_tokens=int(raw["n_tokens"]),
            layers=tuple(_parse_layer(layer) for layer in raw["layers"]),
        )
    except _DAMAGED:
        return None


def _parse_layer(raw: dict[str, Sequence[float]]) -> KeptLayer:
    counts, mass = tuple(map(int, raw["counts"])), tuple(map(float, raw["mass"]))
    if len(counts) != len(mass) or min(counts) < 0 or min(mass) < 0:
        raise ValueError("contradicts itself")
    return KeptLayer(int(raw["layer"]), int(raw["n_used"]), counts, mass)  # type: ignore[call-overload]
