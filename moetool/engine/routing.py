"""What the routers of a model decide while it reads, read off its graph.

llm_graph_context::build_moe_ffn (src/llama-graph.cpp) names its nodes:

    logits ─► ffn_moe_probs ─► (+ bias, groups masked) ─► ffn_moe_argsort ─► ffn_moe_topk ─► ffn_moe_weights

The graph is stopped once a layer, at ffn_moe_topk: what it came from is still in memory there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from moetool.engine.watch import Node, Watch
from moetool.errors import EngineError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

# So few tokens are not worth numpy's time one by one: their bytes are kept until the others are there too.
_FEW_TOKENS = 32
# More than lie between the scores that are sorted and the gate's: bias, groups, reshapes.
_N_STEPS = 8
_GATES = ("ffn_moe_probs-", "ffn_moe_logits-")
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


class _Found(NamedTuple):
    """Where a layer's graph holds its routing: the ranking of the experts (the chosen ones alone, where none
    was scored), the scores that weigh, those that were sorted where they are others. Weighing is by `gate` as
    it is, all positive, by its softmax over the chosen ones, or by its sigmoids."""

    layer: int
    n_used: int
    ranking: Node
    gate: Node | None = None
    sorted_by: Node | None = None
    by: Literal["itself", "softmax", "sigmoid"] = "itself"


class _Few(NamedTuple):
    """The bytes of what was found, of a few tokens; the nodes are gone by the time they are read."""

    found: _Found
    n_ranked: int
    ranking: bytes
    gate: bytes
    sorted_by: bytes

    @property
    def ids(self) -> range:
        """As many as there are tokens."""
        return range(len(self.ranking) // (4 * self.n_ranked))


class RoutingWatch:
    """Sees what routers decide, for `Engine.use_watch(it.watch)`; `take` hands it over."""

    def __init__(self, n_expert: int) -> None:
        """`n_expert`: of a layer that does not score them."""
        self.watch = Watch(self._see, names=("ffn_moe_topk",))
        self._n_expert = n_expert
        self._seen: dict[int, list[Routed | _Few]] = {}

    def take(self, n_tokens: int) -> tuple[Routed, ...]:
        """What was seen since the last time, while `n_tokens` were read whose logits were all wanted (else
        the last layer sees only the others): a record for each layer that has a router."""
        seen, self._seen = self._seen, {}
        if not seen:
            raise EngineError("llama.cpp routes nothing in this model: its graph has no experts")
        return tuple(_join(seen[layer], n_tokens, self._n_expert) for layer in sorted(seen))

    def _see(self, node: Node) -> None:
        found = _find(node)
        record = _keep(found) if node.n_rows < _FEW_TOKENS else _read(found, self._n_expert)
        self._seen.setdefault(found.layer, []).append(record)


def read_routed(node: Node, n_expert: int) -> Routed:
    """What one ffn_moe_topk node says; `n_expert` as for RoutingWatch."""
    return _read(_find(node), n_expert)


def _find(node: Node) -> _Found:
    """Architectures weigh by ffn_moe_probs, most of them, which are probabilities, sigmoids, or (gpt-oss)
    logits, of which the softmax over the chosen ones is taken. Llama 4 sorts logits and weighs by their
    sigmoids; GroveMoE sorts sigmoids and weighs by the softmax. The first layers of DeepSeek-V4 look the
    experts of a token up."""
    layer, n_used = int(node.name.rpartition("-")[2]), node.shape[-1]
    ranking = node.source(0)
    scores = ranking.source(0) if ranking is not None and ranking.op == "ARGSORT" else None
    if ranking is None or scores is None:
        return _Found(layer, n_used, node)
    gate: Node | None = scores
    for _ in range(_N_STEPS):
        if gate is None or gate.name.startswith(_GATES):
            break
        gate = gate.source(0)
    if gate is None or not gate.name.startswith(_GATES):
        raise EngineError(f"{scores.name} is not scored in a way that is known here")
    if gate is not scores:
        return _Found(layer, n_used, ranking, gate, scores, "softmax" if gate.op in _LOGITS else "itself")
    if gate.name.startswith(_GATES[1]):
        return _Found(layer, n_used, ranking, gate, None, "sigmoid")
    return _Found(layer, n_used, ranking, gate, None, "softmax" if gate.op in _LOGITS else "itself")


def _keep(found: _Found) -> _Few:
    gate = found.gate.copy_bytes() if found.gate else b""
    sorted_by = found.sorted_by.copy_bytes() if found.sorted_by else b""
    return _Few(found, found.ranking.shape[-1], found.ranking.copy_bytes(), gate, sorted_by)


def _read(found: _Found, n_expert: int) -> Routed:
    gate = found.gate.rows() if found.gate else None
    sorted_by = found.sorted_by.rows() if found.sorted_by else gate
    return _reduce(found, n_expert, found.ranking.rows(), gate, sorted_by)


def _reduce(
    found: _Found,
    n_expert: int,
    ranking: npt.NDArray[np.int32],
    gate: Floats | None,
    sorted_by: Floats | None,
) -> Routed:
    """What is to be known of the tokens' scores."""
    import numpy as np

    n, n_used = len(ranking), found.n_used
    ids = ranking[:, :n_used].copy()
    margin = np.full(n, np.nan, np.float32)
    if gate is None or sorted_by is None:
        return Routed(found.layer, n_expert, ids, np.full(ids.shape, 1 / n_used, np.float32), margin, margin)
    if found.by == "softmax":
        weighed = np.exp(gate - gate.max(axis=1, keepdims=True))
    else:
        weighed = gate if found.by == "itself" else 1 / (1 + np.exp(-gate))
    chosen = np.take_along_axis(weighed, ids, 1)
    whole, taken = weighed.sum(axis=1), chosen.sum(axis=1)
    if n_used < ranking.shape[1]:
        last = np.take_along_axis(
            weighed if found.sorted_by is None else sorted_by, ranking[:, n_used - 1 : n_used + 1], 1
        )
        with np.errstate(invalid="ignore"):  # a masked group's scores are -inf
            margin = (last[:, 0] - last[:, 1]) / whole
        margin[~np.isfinite(margin)] = np.nan
    return Routed(found.layer, gate.shape[1], ids, chosen / taken[:, None], taken / whole, margin)


def _join(parts: Sequence[Routed | _Few], n_tokens: int, n_expert: int) -> Routed:
    """One record of all parts of a batch. GroveMoE routes twice in a layer, by the same scores: the second
    time is left out."""
    import numpy as np

    n_seen = sum(len(part.ids) for part in parts)
    if not n_seen or n_seen % n_tokens:
        raise EngineError(f"A router saw {n_seen} of {n_tokens} tokens")
    parts = parts[:: n_seen // n_tokens]
    whole = [part for part in parts if isinstance(part, Routed)]
    few = [part for part in parts if isinstance(part, _Few)]
    if few:  # the last tokens of a batch, or all of them, one by one
        whole.append(_of_few(few, n_expert))
    return Routed(
        whole[0].layer,
        whole[0].n_expert,
        *(
            np.concatenate([getattr(part, name) for part in whole])
            for name in ("ids", "shares", "top_mass", "margin")
        ),
    )


def _of_few(parts: Sequence[_Few], n_expert: int) -> Routed:
    import numpy as np

    found, n_ranked = parts[0].found, parts[0].n_ranked

    def rows(name: str) -> Floats | None:
        data = b"".join(getattr(part, name) for part in parts)
        return np.frombuffer(data, np.float32).reshape(-1, n_ranked) if data else None

    ranking = np.frombuffer(b"".join(part.ranking for part in parts), np.int32).reshape(-1, n_ranked)
    gate = rows("gate")
    return _reduce(found, n_expert, ranking, gate, rows("sorted_by") if found.sorted_by else gate)
