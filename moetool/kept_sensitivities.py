"""How sensitive models are to rounding, kept on this disk: one JSON line a measurement, the latest counts.

    sensitivities.jsonl     of which model, on which text, when, and nats per relative squared error by tensor

The file is the user's: to read, to edit, to delete. A line that is damaged is as good as none; a file that
cannot be written is no error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from moetool.home import read_home
from moetool.kept_records import append_record

_DAMAGED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass(frozen=True)
class KeptSensitivity:
    """`model_sha256` tells the model (identity.read_model_digest), `text_sha256` the chunks it read."""

    model: str
    model_sha256: str
    text_sha256: str
    text: str
    when: str
    per_error: Mapping[str, float]


def read_sensitivities_path() -> Path:
    """Where they are kept."""
    return read_home() / "sensitivities.jsonl"


def read_sensitivity(path: Path, model_sha256: str, text_sha256: str = "") -> KeptSensitivity | None:
    """The latest measurement of a model, on this text if one is given."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        found = parse_sensitivity(line)
        if found and found.model_sha256 == model_sha256 and text_sha256 in ("", found.text_sha256):
            return found
    return None


def keep_sensitivity(path: Path, found: KeptSensitivity) -> None:
    """Append one measurement."""
    append_record(path, asdict(found))


def parse_sensitivity(line: str) -> KeptSensitivity | None:
    """What `keep_sensitivity` wrote; None for anything else."""
    try:
        raw = json.loads(line)
        per_error = {str(name): float(value) for name, value in raw["per_error"].items()}
        if not all(math.isfinite(value) and value >= 0 for value in per_error.values()):
            return None
        names = ("model", "model_sha256", "text_sha256", "text", "when")
        return KeptSensitivity(**{name: str(raw[name]) for name in names}, per_error=per_error)
    except _DAMAGED:
        return None
