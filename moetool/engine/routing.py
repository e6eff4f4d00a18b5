"""What the routers of a model decide while it reads, read off its graph.

llm_graph_context::build_moe_ffn (src/llama-graph.cpp) names its nodes:

    logits ─► ffn_moe_probs ─► (+ bias, groups masked) ─► ffn_moe_argsort ─► ffn_moe_topk ─► ffn_moe_weights

The graph is stopped once a layer, at ffn_moe_topk: what it came from is still in memory there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moetool.engine.watch import Node, Watch
from moetool.errors import EngineError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# More than lie between the scores that are sorted and the gate's: bias, groups, reshapes.
_N_STEPS = 8


@dataclass(frozen=True)
class Routed:
    """What the router of a layer did with n tokens, in their order.

    `ids` are the chosen experts [n, k], the one that was scored highest first; `shares` [n, k] of what they
    add to the token are each one's, 1 together. `top_mass` [n] is the part of the gate's scores, of all
    `n_expert` experts, that the chosen ones have; `margin` [n] by how much more of them the last of the
    chosen was preferred by than the first that was not. NaN where nothing was scored, or no expert left.
    """

    layer: int
    n_expert: int
    ids: npt.NDArray[np.int32]
    shares: npt.NDArray[np.float32]
    top_mass: npt.NDArray[np.float32]
    margin: npt.NDArray[np.float32]


class RoutingWatch:
    """Sees what routers decide, for `Engine.use_watch(it.watch)`; `take` hands it over."""

    def __init__(self, n_expert: int) -> None:
        """`n_expert`: of a layer that does not score them."""
        self.watch = Watch(self._see, names=("ffn_moe_topk",))
        self._n_expert = n_expert
        self._seen: dict[int, list[Routed]] = {}

    def take(self, n_tokens: int) -> tuple[Routed, ...]:
        """What was seen since the last time, while `n_tokens` were read whose logits were all wanted (else
        the last layer sees only the others): a record for each layer that has a router."""
        seen, self._seen = self._seen, {}
        return tuple(_join(seen[layer], n_tokens) for layer in sorted(seen))

    def _see(self, node: Node) -> None:
        routed = read_routed(node, self._n_expert)
        self._seen.setdefault(routed.layer, []).append(routed)


def read_routed(node: Node, n_expert: int) -> Routed:
    """What one ffn_moe_topk node says."""
    import numpy as np

    layer = int(node.name.rpartition("-")[2])
    n_used = node.shape[-1]
    order = node.source(0)
    if order is None or order.op != "ARGSORT":
        # Looked up by token instead of scored (the first layers of DeepSeek-V4).
        ids = node.rows().copy()
        unknown = np.full(len(ids), np.nan, np.float32)
        even = np.full(ids.shape, 1 / n_used, np.float32)
        return Routed(layer, n_expert, ids, even, unknown, unknown)
    ranking = order.rows()
    ids = ranking[:, :n_used].copy()
    scores = order.source(0)
    assert scores is not None
    gate, is_sorted = _read_gate(scores)
    chosen = np.take_along_axis(gate, ids, 1)
    whole, taken = gate.sum(axis=1), chosen.sum(axis=1)
    margin = np.full(len(ids), np.nan, np.float32)
    if n_used < ranking.shape[1]:
        sorted_by = gate if is_sorted else scores.rows()
        edge = np.take_along_axis(sorted_by, ranking[:, n_used - 1 : n_used + 1], 1)
        with np.errstate(invalid="ignore"):  # a masked group's scores are -inf
            margin = (edge[:, 0] - edge[:, 1]) / whole
        margin[~np.isfinite(margin)] = np.nan
    return Routed(layer, gate.shape[1], ids, chosen / taken[:, None], taken / whole, margin)


def _read_gate(scores: Node) -> tuple[npt.NDArray[np.float32], bool]:
    """The scores that experts are weighted by, all positive, and whether they are what was sorted.

    As the architectures do it: most weight by ffn_moe_probs, which are probabilities, sigmoids, or (gpt-oss)
    logits, of which the softmax over the chosen ones is taken; Llama 4 sorts logits and weights by their
    sigmoid; GroveMoE sorts sigmoids and weights by the softmax.
    """
    import numpy as np

    node, found = scores, None
    for _ in range(_N_STEPS):
        if node.name.startswith(("ffn_moe_probs-", "ffn_moe_logits-")):
            found = node
            break
        source = node.source(0)
        if source is None:
            break
        node = source
    if found is None:
        raise EngineError(f"{scores.name} is not scored in a way that is known here")
    values = found.rows()
    is_sorted = found.name == scores.name
    if found.name.startswith("ffn_moe_logits-") and is_sorted:
        return 1 / (1 + np.exp(-values)), True
    if found.op in {"MUL_MAT", "ADD", "GET_ROWS"}:  # logits
        return np.exp(values - values.max(axis=1, keepdims=True)), is_sorted
    return values, is_sorted


def _join(parts: Sequence[Routed], n_tokens: int) -> Routed:
    """One record of all parts of a batch. GroveMoE routes twice in a layer, by the same scores: the second
    time is left out."""
    import numpy as np

    n_seen = sum(len(part.ids) for part in parts)
    if not n_seen or n_seen % n_tokens:
        raise EngineError(f"The router of layer {parts[0].layer} saw {n_seen} of {n_tokens} tokens")
    parts = parts[:: n_seen // n_tokens]
    return Routed(
        parts[0].layer,
        parts[0].n_expert,
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("ids", "shares", "top_mass", "margin")
        ),
    )
