"""What is wrong with a router, in sentences, each with the threshold that it passed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moetool.lab.figures import DEAD_EXPECTED, LayerFigures

# An expert that so many of the tokens choose, where even use would be half of that or less, is no expert.
COLLAPSED_TOKENS = 0.9
# Chosen experts that stand out of a gate's scores by less than this might as well be drawn by lot.
UNIFORM_CONFIDENCE = 0.02
_SHOWN = 8


@dataclass(frozen=True)
class Finding:
    """Something that a sound router does not do: a stable code, a sentence, where."""

    code: str
    text: str
    layer: int
    experts: tuple[int, ...] = ()


def diagnose(layers: Sequence[LayerFigures]) -> tuple[Finding, ...]:
    """Everything that passes a threshold, layer by layer; nothing for a sound model. Of few tokens only that
    they are too few."""
    for layer in layers:
        even = layer.n_tokens * layer.n_used / layer.n_expert
        if even < DEAD_EXPECTED:
            text = (
                f"{layer.n_tokens} tokens are too few to judge a router by: used evenly, each expert would be"
                f" chosen {even:.1f} times in layer {layer.layer}, and it takes {DEAD_EXPECTED}"
            )
            return (Finding("too-few", text, layer.layer),)
    return tuple(finding for layer in layers for finding in _find(layer))


def _find(layer: LayerFigures) -> Iterator[Finding]:
    even = layer.n_used / layer.n_expert
    if layer.most_tokens >= COLLAPSED_TOKENS and even <= COLLAPSED_TOKENS / 2:
        yield Finding(
            "collapsed",
            f"Layer {layer.layer}: its router has collapsed onto expert {layer.most}, which"
            f" {100 * layer.most_tokens:.1f} % of the tokens choose (even use: {100 * even:.1f} %; threshold:"
            f" {100 * COLLAPSED_TOKENS:.0f} %)",
            layer.layer,
            (layer.most,),
        )
    if layer.dead:
        names = ", ".join(map(str, layer.dead[:_SHOWN])) + (", …" if len(layer.dead) > _SHOWN else "")
        what = (
            f"expert {names} is dead"
            if len(layer.dead) == 1
            else f"{len(layer.dead)} experts are dead ({names})"
        )
        yield Finding(
            "dead",
            f"Layer {layer.layer}: {what}: never chosen in {layer.n_tokens} tokens (even use:"
            f" {even * layer.n_tokens:.0f} times; threshold: {DEAD_EXPECTED})",
            layer.layer,
            layer.dead,
        )
    if layer.confidence is not None and layer.confidence < UNIFORM_CONFIDENCE:
        yield Finding(
            "uniform",
            f"Layer {layer.layer}: its gate is uniform: the chosen experts stand out of its scores by only"
            f" {100 * layer.confidence:.1f} % of what they could (threshold:"
            f" {100 * UNIFORM_CONFIDENCE:.0f} %)",
            layer.layer,
        )
