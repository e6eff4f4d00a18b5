"""What `moetool sparsity` measured: one JSON line for each model on each machine, the latest counts.

    frontiers.jsonl     which model, on which machine, when, and what each number of experts gives and costs

A model is known by its digest (moetool.identity), whatever its file is called. The file is the user's: to
read, to edit, to delete. A damaged line is as good as none; a file that cannot be written is no error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moetool.frontier import Frontier, FrontierPoint, Interval, TextScore
from moetool.home import read_home
from moetool.kept_records import append_record, latest_lines

_N_READ = 200
_DAMAGED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass(frozen=True)
class KeptFrontier:
    """A frontier and what it is of. Fidelity is the model's; speed is that of the machine with this
    `fingerprint` and these `devices`."""

    digest: str
    weights_bytes: int
    fingerprint: str
    devices: tuple[str, ...]
    when: str
    frontier: Frontier

    @property
    def place(self) -> tuple[object, ...]:
        """Where its speeds hold."""
        return self.fingerprint, self.devices


def read_frontiers_path() -> Path:
    """Where frontiers are kept."""
    return read_home() / "frontiers.jsonl"


def read_frontier(path: Path, weights_bytes: int, read_digest: Callable[[], str]) -> KeptFrontier | None:
    """The latest frontier of a model; its digest is asked for only where there is one of a model that has so
    many bytes."""
    lines = latest_lines(path, _N_READ)
    kept = [kept for line in lines if (kept := parse_frontier(line)) is not None]
    like = [one for one in kept if one.weights_bytes == weights_bytes]
    if not like:
        return None
    digest = read_digest()
    same = [one for one in like if one.digest == digest]
    # A look at few numbers does not hide one at many; of those of as many the latest counts.
    return max(same, key=lambda one: len(one.frontier.points), default=None)


def keep_frontier(path: Path, kept: KeptFrontier) -> None:
    """Append one frontier."""
    append_record(path, asdict(kept))


def parse_frontier(line: str) -> KeptFrontier | None:
    """What `keep_frontier` wrote; None for anything else."""
    try:
        raw = json.loads(line)
        points = sorted((_parse_point(row) for row in raw["frontier"]["points"]), key=lambda p: p.experts)
        return KeptFrontier(
            digest=str(raw["digest"]),
            weights_bytes=int(raw["weights_bytes"]),
            fingerprint=str(raw["fingerprint"]),
            devices=tuple(str(name) for name in raw["devices"]),
            when=str(raw["when"]),
            frontier=Frontier(int(raw["frontier"]["own"]), tuple(points)),
        )
    except _DAMAGED:
        return None


def _parse_point(raw: Mapping[str, Any]) -> FrontierPoint:
    return FrontierPoint(
        experts=int(raw["experts"]),
        n_params_active=int(raw["n_params_active"]),
        decode_tok_s=_positive(raw["decode_tok_s"]),
        prompt_tok_s=_positive(raw["prompt_tok_s"]),
        predicted_decode_tok_s=_optional(raw["predicted_decode_tok_s"]),
        predicted_prompt_tok_s=_optional(raw["predicted_prompt_tok_s"]),
        whole=_parse_score(raw["whole"]) if raw["whole"] else None,
        texts=tuple(_parse_score(score) for score in raw["texts"]),
    )


def _parse_score(raw: Mapping[str, Any]) -> TextScore:
    return TextScore(
        text=str(raw["text"]),
        n_tokens=int(raw["n_tokens"]),
        ppl=_parse_interval(raw["ppl"]),
        kld=_parse_interval(raw["kld"]) if raw["kld"] else None,
        same_top=_optional(raw["same_top"]),
    )


def _parse_interval(raw: Mapping[str, Any]) -> Interval:
    return Interval(float(raw["value"]), float(raw["low"]), float(raw["high"]))


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)


def _positive(value: Any) -> float:
    """A rate that can be: edited files may hold anything."""
    rate = float(value)
    if not 1e-6 < rate < 1e9:
        raise ValueError
    return rate
