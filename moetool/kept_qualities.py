"""What `bench --quality` measured, kept on this disk: one JSON line a model and text, the latest counts.

    qualities.jsonl     of which model, on which text, when: perplexity, divergence from which reference

A model is known by its digest (moetool.identity). The file is the user's: to read, to edit, to delete. A
damaged line is as good as none; a file that cannot be written is no error.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moetool.home import read_home
from moetool.kept_records import append_record, latest_lines

_N_READ = 500
_DAMAGED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass(frozen=True)
class KeptQuality:
    """Perplexity on a text, and mean divergence in nats from `reference` (None: held against nothing).
    Perplexities of different vocabularies, or on different texts, say nothing of each other."""

    digest: str
    text: str
    n_tokens: int
    n_vocab: int
    when: str
    ppl: float
    kld: float | None = None
    reference: str | None = None


def read_qualities_path() -> Path:
    """Where they are kept."""
    return read_home() / "qualities.jsonl"


def keep_quality(path: Path, quality: KeptQuality) -> None:
    """Append one."""
    append_record(path, asdict(quality))


def read_qualities(path: Path, digest: str) -> tuple[KeptQuality, ...]:
    """What is known of a model, the latest of each text and reference, the latest first."""
    lines = latest_lines(path, _N_READ)
    found: dict[tuple[str, int, str | None], KeptQuality] = {}
    for line in lines:
        quality = parse_quality(line)
        if quality is not None and quality.digest == digest:
            found.setdefault((quality.text, quality.n_tokens, quality.reference), quality)
    return tuple(found.values())


def parse_quality(line: str) -> KeptQuality | None:
    """What `keep_quality` wrote; None for anything else."""
    try:
        raw = json.loads(line)
        names = [str(raw[name]) for name in ("digest", "text", "when")]
        kld, reference = raw["kld"], raw["reference"]
        found = KeptQuality(
            digest=names[0],
            text=names[1],
            n_tokens=int(raw["n_tokens"]),
            n_vocab=int(raw["n_vocab"]),
            when=names[2],
            ppl=_figure(raw["ppl"]),
            kld=None if kld is None else _figure(kld),
            reference=None if reference is None else str(reference),
        )
    except _DAMAGED:
        return None
    return found


def _figure(value: Any) -> float:
    """A figure that can be: edited files may hold anything."""
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{number} is no measurement")
    return number
