"""What `moetool tune` found out: one JSON line for each model on each machine, the latest counts.

    tunings.jsonl     which model on which machine, when, what to change of its plan, and what that gained

The file is the user's: to read, to edit, to delete. A line that is damaged is as good as none; a file that
cannot be written is no error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from moetool.home import read_home
from moetool.kept_records import append_record, latest_lines

_N_READ = 500
_DAMAGED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Tuning:
    """`changes` of the plan, axis -> value, make a turn `gain` times as fast; none: the plan is the fastest.
    `devices` are those that could be used when it was found out."""

    fingerprint: str
    model: str
    weights_bytes: int
    devices: tuple[str, ...]
    when: str
    changes: Mapping[str, str]
    gain: float

    @property
    def subject(self) -> tuple[object, ...]:
        """Which model on which machine."""
        return self.fingerprint, self.model, self.weights_bytes, self.devices


def read_tunings_path() -> Path:
    """Where tunings are kept."""
    return read_home() / "tunings.jsonl"


def read_tuning(path: Path, subject: tuple[object, ...]) -> Tuning | None:
    """The latest tuning of a model on a machine (`Tuning.subject`), if it was tuned there."""
    lines = latest_lines(path, _N_READ)
    found = (parse_tuning(line) for line in lines)
    return next((tuning for tuning in found if tuning is not None and tuning.subject == subject), None)


def keep_tuning(path: Path, tuning: Tuning) -> None:
    """Append one tuning."""
    append_record(path, asdict(tuning))


def parse_tuning(line: str) -> Tuning | None:
    """What `keep_tuning` wrote; None for anything else."""
    try:
        raw = json.loads(line)
        return Tuning(
            fingerprint=str(raw["fingerprint"]),
            model=str(raw["model"]),
            weights_bytes=int(raw["weights_bytes"]),
            devices=tuple(str(name) for name in raw["devices"]),
            when=str(raw["when"]),
            changes={str(name): str(value) for name, value in raw["changes"].items()},
            gain=float(raw["gain"]),
        )
    except _DAMAGED:
        return None
