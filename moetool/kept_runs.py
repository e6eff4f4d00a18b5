"""Runs that were measured on this disk's machines: one JSON line each, which later predictions learn from.

    runs.jsonl      what ran, when, what was predicted for it and what was measured

The file is the user's: to read, to edit, to delete. A line that is damaged is as good as none; a file that
cannot be written is no error.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moetool.home import read_home
from moetool.kept_records import append_record, latest_lines
from moetool.speed import Calibration, Target

# The latest lines that are read: a machine's memory, not its whole history.
N_KEPT = 200
# A generation shorter than this is noise.
MIN_TOKENS = 32

_DAMAGED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


def read_runs_path() -> Path:
    """Where runs are kept."""
    return read_home() / "runs.jsonl"


def read_runs(path: Path) -> tuple[Calibration, ...]:
    """The latest runs, oldest first; none where there is no such file."""
    lines = reversed(latest_lines(path, N_KEPT))
    return tuple(run for line in lines if (run := parse_run(line)) is not None)


def keep_run(path: Path, run: Calibration, when: str, command: str) -> None:
    """Append one run; `when` in ISO 8601, `command` which of ours measured it."""
    append_record(path, {"when": when, "command": command} | run_document(run))


def run_document(run: Calibration) -> dict[str, Any]:
    """A run as flat JSON values; figures that were not measured are left out."""
    rates = {name: value for name, value in asdict(run).items() if name != "target" and value is not None}
    return asdict(run.target) | rates


def parse_run(line: str) -> Calibration | None:
    """What `run_document` made, from its line; None for anything else."""
    try:
        raw = json.loads(line)
        target = Target(
            fingerprint=str(raw["fingerprint"]),
            model=str(raw["model"]),
            weights_bytes=int(raw["weights_bytes"]),
            arch=str(raw["arch"]),
            quant=str(raw["quant"]),
            devices=tuple(str(name) for name in raw["devices"]),
            n_threads=int(raw["n_threads"]),
        )
        return Calibration(target, *(_parse_rate(raw.get(name)) for name in _RATES))
    except _DAMAGED:
        return None


_RATES = (
    "predicted_decode_tok_s",
    "measured_decode_tok_s",
    "predicted_prompt_tok_s",
    "measured_prompt_tok_s",
)


def _parse_rate(value: object) -> float | None:
    """A rate that can be: edited files may hold anything."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 1e-6 < value < 1e9 else None
