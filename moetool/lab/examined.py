"""What `moetool experts` found out about a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


def arrays_of(profile: Profile) -> Mapping[str, Any]:
    """All arrays of a profile by their names, for numpy.savez."""
    return {name: np.asarray(value) for name, value in vars(profile).items()}
