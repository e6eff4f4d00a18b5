"""What `moetool experts` found out about a model, and the document that says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from moetool.lab.diagnosis import Finding, diagnose
from moetool.lab.figures import Floats, LayerFigures, distances, layer_figures
from moetool.lab.tally import Profile


@dataclass(frozen=True)
class Model:
    """Whose routing it is; `experts` where another number of experts was used than the model's own."""

    name: str
    arch: str
    quant: str
    sha256: str
    experts: int | None


@dataclass(frozen=True)
class Examined:
    """A model's routing with all that follows from it. `distances` as in lab.figures; `answer` is what was
    written to a prompt."""

    model: Model
    profile: Profile
    layers: tuple[LayerFigures, ...]
    distances: Floats
    findings: tuple[Finding, ...]
    seconds: float
    answer: str | None


def examine(model: Model, profile: Profile, seconds: float, answer: str | None = None) -> Examined:
    """Draw the conclusions."""
    layers = layer_figures(profile)
    return Examined(model, profile, layers, distances(profile), diagnose(layers), seconds, answer)


def of_examined(found: Examined) -> dict[str, Any]:
    """The document; counts are sums over the texts (--npz has them by text). Unknown figures are null."""
    profile = found.profile
    texts = zip(profile.texts, profile.n_tokens, strict=True)
    return {
        "model": asdict(found.model),
        "texts": [{"name": name, "n_tokens": n_tokens} for name, n_tokens in texts],
        "seconds": found.seconds,
        "answer": found.answer,
        "findings": [asdict(finding) for finding in found.findings],
        "distances": np.round(found.distances, 6).tolist(),
        "layers": [_of_layer(found, at) for at in range(len(found.layers))],
    }


def _of_layer(found: Examined, at: int) -> dict[str, Any]:
    figures, profile = found.layers[at], found.profile
    return asdict(figures) | {
        "cache": [{"n_experts": n, "hits": hits} for n, hits in figures.cache],
        "counts": profile.counts[:, at, : figures.n_expert].sum(axis=0).tolist(),
        "mass": np.round(profile.mass[:, at, : figures.n_expert].sum(axis=0), 3).tolist(),
    }


def arrays_of(profile: Profile) -> Mapping[str, Any]:
    """All arrays of a profile by their names, for numpy.savez."""
    return {name: np.asarray(value) for name, value in vars(profile).items()}
