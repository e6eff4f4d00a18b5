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

# As much is kept as it is, until it is enough to be worth numpy's time.
_FEW_TOKENS = 32
# More than lie between the scores that are sorted and the gate's: bias, groups, reshapes.
_N_STEPS = 8
# What computes logits, where they are the gate.
_LOGITS = {"MUL_MAT", "ADD", "GET_ROWS"}


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


@dataclass(frozen=True)
class _Raw:
    """What a layer's graph holds of n tokens: the chosen experts, with the first that was left out if any
    was [n, k + 1]; the scores that weigh, all positive or (`is_logits`) any; those that were sorted, where
    they are others. No scores: experts are looked up."""

    layer: int
    n_used: int
    n_expert: int
    ids: npt.NDArray[np.int32]
    gate: npt.NDArray[np.float32] | None = None
    sorted_by: npt.NDArray[np.float32] | None = None
    is_logits: bool = False


class RoutingWatch:
    """Sees what routers decide, for `Engine.use_watch(it.watch)`; `take` hands it over."""

    def __init__(self, n_expert: int) -> None:
        """`n_expert`: of a layer that does not score them."""
        self.watch = Watch(self._see, names=("ffn_moe_topk",))
        self._n_expert = n_expert
        self._seen: dict[int, list[Routed | _Raw]] = {}

    def take(self, n_tokens: int) -> tuple[Routed, ...]:
        """What was seen since the last time, while `n_tokens` were read whose logits were all wanted (else
        the last layer sees only the others): a record for each layer that has a router."""
        seen, self._seen = self._seen, {}
        if not seen:
            raise EngineError("llama.cpp routes nothing in this model: its graph has no experts")
        return tuple(_join(seen[layer], n_tokens) for layer in sorted(seen))

    def _see(self, node: Node) -> None:
        raw = _read_raw(node, self._n_expert)
        few = len(raw.ids) < _FEW_TOKENS
        self._seen.setdefault(raw.layer, []).append(_copied(raw) if few else _reduce(raw))


def read_routed(node: Node, n_expert: int) -> Routed:
    """What one ffn_moe_topk node says; `n_expert` as for RoutingWatch."""
    return _reduce(_read_raw(node, n_expert))


def _read_raw(node: Node, n_expert: int) -> _Raw:
    """Views of what lies in memory.

    Architectures weigh by ffn_moe_probs, most of them, which are probabilities, sigmoids, or (gpt-oss)
    logits, of which the softmax over the chosen ones is taken. Llama 4 sorts logits and weighs by their
    sigmoids; GroveMoE sorts sigmoids and weighs by the softmax.
    """
    layer, n_used = int(node.name.rpartition("-")[2]), node.shape[-1]
    order = node.source(0)
    if order is None or order.op != "ARGSORT":
        return _Raw(layer, n_used, n_expert, node.rows())  # the first layers of DeepSeek-V4
    scores = order.source(0)
    assert scores is not None
    found = _find_gate(scores, layer)
    gate, is_sorted = found.rows(), found.name == scores.name
    is_logits = found.op in _LOGITS
    if is_sorted and found.name == f"ffn_moe_logits-{layer}":
        gate, is_logits = _sigmoid(gate), False
    return _Raw(
        layer,
        n_used,
        gate.shape[1],
        order.rows()[:, : n_used + 1],
        gate,
        None if is_sorted else scores.rows(),
        is_logits,
    )


def _find_gate(scores: Node, layer: int) -> Node:
    """The node of the scores that weigh, which those that are sorted come from."""
    names = {f"ffn_moe_probs-{layer}", f"ffn_moe_logits-{layer}"}
    node: Node | None = scores
    for _ in range(_N_STEPS):
        if node is None or node.name in names:
            break
        node = node.source(0)
    if node is None or node.name not in names:
        raise EngineError(f"{scores.name} is not scored in a way that is known here")
    return node


def _sigmoid(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    import numpy as np

    found: npt.NDArray[np.float32] = 1 / (1 + np.exp(-values))
    return found


def _copied(raw: _Raw) -> _Raw:
    gate, sorted_by = (None if part is None else part.copy() for part in (raw.gate, raw.sorted_by))
    return _Raw(raw.layer, raw.n_used, raw.n_expert, raw.ids.copy(), gate, sorted_by, raw.is_logits)


def _reduce(raw: _Raw) -> Routed:
    """What is to be known of the scores."""
    import numpy as np

    ids, n = raw.ids[:, : raw.n_used].copy(), len(raw.ids)
    if raw.gate is None:
        unknown = np.full(n, np.nan, np.float32)
        even = np.full(ids.shape, 1 / raw.n_used, np.float32)
        return Routed(raw.layer, raw.n_expert, ids, even, unknown, unknown)
    gate = raw.gate
    if raw.is_logits:
        gate = np.exp(gate - gate.max(axis=1, keepdims=True))
    chosen = np.take_along_axis(gate, ids, 1)
    whole, taken = gate.sum(axis=1), chosen.sum(axis=1)
    margin = np.full(n, np.nan, np.float32)
    if raw.n_used < raw.ids.shape[1]:
        edge = np.take_along_axis(gate if raw.sorted_by is None else raw.sorted_by, raw.ids[:, -2:], 1)
        with np.errstate(invalid="ignore"):  # a masked group's scores are -inf
            margin = (edge[:, 0] - edge[:, 1]) / whole
        margin[~np.isfinite(margin)] = np.nan
    return Routed(raw.layer, raw.n_expert, ids, chosen / taken[:, None], taken / whole, margin)


def _join(parts: Sequence[Routed | _Raw], n_tokens: int) -> Routed:
    """One record of all parts of a batch. GroveMoE routes twice in a layer, by the same scores: the second
    time is left out."""
    import numpy as np

    n_seen = sum(len(part.ids) for part in parts)
    if not n_seen or n_seen % n_tokens:
        raise EngineError(f"The router of layer {parts[0].layer} saw {n_seen} of {n_tokens} tokens")
    parts = parts[:: n_seen // n_tokens]
    few = [part for part in parts if isinstance(part, _Raw)]
    reduced = [_reduce(_joined(few))] if len(few) == len(parts) else list(map(_reduced, parts))
    return Routed(
        parts[0].layer,
        parts[0].n_expert,
        *(
            np.concatenate([getattr(part, name) for part in reduced])
            for name in ("ids", "shares", "top_mass", "margin")
        ),
    )


def _reduced(part: Routed | _Raw) -> Routed:
    return _reduce(part) if isinstance(part, _Raw) else part


def _joined(parts: Sequence[_Raw]) -> _Raw:
    """Those of a layer one after another."""
    import numpy as np

    first = parts[0]

    def join(name: str) -> npt.NDArray[np.float32] | None:
        found = [getattr(part, name) for part in parts]
        return None if found[0] is None else np.concatenate(found)

    ids = np.concatenate([part.ids for part in parts])
    return _Raw(
        first.layer, first.n_used, first.n_expert, ids, join("gate"), join("sorted_by"), first.is_logits
    )
