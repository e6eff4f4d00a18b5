"""Fewer experts in chosen layers while a model computes, as if it had been asked for fewer there."""

from __future__ import annotations

from collections.abc import Mapping

from moetool.engine.watch import Node, Watch

# The weights of the chosen experts, the strongest first, before the architecture makes them add up to one
# (build_moe_ffn in src/llama-graph.cpp): what it does with them is done with those that are left.
_WEIGHTS = "ffn_moe_weights"


class FewerExperts:
    """`keep` says how many of a layer's chosen experts count, by layer; the weights of the others become
    nothing. Layers that are not in it are left as they are. All experts are still computed: this shows what
    fewer would cost, and makes nothing faster. `watch` is what the engine is to use; `is_softmaxed` as in
    anatomy.Routing."""

    def __init__(self, *, is_softmaxed: bool = False) -> None:
        self.keep: Mapping[int, int] = {}
        self.watch = Watch(self._see, names=(_WEIGHTS,))
        self._nothing = float("-inf") if is_softmaxed else 0.0

    def _see(self, node: Node) -> None:
        keep = self.keep.get(int(node.name.rpartition("-")[2]))
        if keep is None:
            return
        weights = node.read().copy()  # [1, tokens, chosen experts, 1]
        weights[:, :, keep:] = self._nothing
        node.write(weights)
