"""What it costs to do with fewer experts in one layer at a time: which layers tolerate it."""

from __future__ import annotations

from dataclasses import dataclass

from moetool.eval import Quality
from moetool.frontier import Interval
from moetool.lab.sparsity import to_interval


@dataclass(frozen=True)
class LayerCost:
    """One layer with fewer experts, the others as they are: mean divergence from the whole model (nats), and
    how often both find the same token likeliest."""

    layer: int
    kld: Interval
    same_top: float


@dataclass(frozen=True)
class LayerMap:
    """Every layer with experts, with `keep` experts a token instead of `own`, over `n_tokens` scored tokens;
    `together` is what it costs in all layers at once."""

    own: int
    keep: int
    n_tokens: int
    layers: tuple[LayerCost, ...]
    together: LayerCost

    @property
    def by_cost(self) -> tuple[LayerCost, ...]:
        """The layers, the most tolerant first."""
        return tuple(sorted(self.layers, key=lambda cost: cost.kld.value))

    @property
    def tolerant(self) -> tuple[int, ...]:
        """The layers of the half that costs less (of an odd number the smaller half), by number."""
        return tuple(sorted(cost.layer for cost in self.by_cost[: len(self.layers) // 2]))

    @property
    def sensitive(self) -> tuple[int, ...]:
        """As many layers that cost most."""
        n = len(self.layers) // 2
        return tuple(sorted(cost.layer for cost in self.by_cost[len(self.layers) - n :]))


ALL_LAYERS = -1


def layer_cost(layer: int, quality: Quality) -> LayerCost:
    """What a reading against the whole model says of a layer; ALL_LAYERS where it was all of them."""
    assert quality.kld is not None
    return LayerCost(layer, to_interval(quality.kld.mean), quality.kld.same_top.value)
