"""Routing, counted text by text: which experts fire, how much they weigh, which fire together and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moetool.engine.routing import Routed

# A cache of experts is followed over so many tokens of a text: enough to know it, and no long text's burden.
CACHE_TOKENS = 4096


@dataclass(frozen=True)
class Profile:
    """The routing of T texts in L layers with up to E experts.

    `counts` [T, L, E] is how often an expert was chosen, `mass` the sum of its shares of tokens. `pairs`
    [L, E, E] is how often two were chosen for one token (upper triangle). By text and layer, means over the
    tokens: `top_mass` and `margin` as in `Routed`, `overlap` the part of a token's experts that the token
    before had too. `reuse` [L, E + 1] counts choices by how many other experts were chosen since the same
    one was (E: it never was), of the first CACHE_TOKENS tokens of each text: a cache of the n experts that
    were used last finds those below n. `n_experts` and `n_used` are by layer.
    """

    texts: tuple[str, ...]
    n_tokens: tuple[int, ...]
    layers: tuple[int, ...]
    n_experts: tuple[int, ...]
    n_used: tuple[int, ...]
    counts: npt.NDArray[np.int64]
    mass: npt.NDArray[np.float64]
    pairs: npt.NDArray[np.int64]
    top_mass: npt.NDArray[np.float64]
    margin: npt.NDArray[np.float64]
    overlap: npt.NDArray[np.float64]
    reuse: npt.NDArray[np.int64]


class Tally:
    """Counts what routers did, chunk by chunk of one text after the other."""

    def __init__(self) -> None:
        self._texts: list[tuple[str, int]] = []
        self._layers: list[dict[int, _Layer]] = []
        self._caches: dict[tuple[int, ...], _Caches] = {}

    def begin(self, text: str) -> None:
        """What is added from now on is of another text."""
        self._texts.append((text, 0))
        self._layers.append({})
        for caches in self._caches.values():
            caches.clear()

    def add(self, routed: Sequence[Routed]) -> None:
        """The next tokens of the text, which were read in one go: a record for each layer."""
        name, n_before = self._texts[-1]
        n_tokens = len(routed[0].ids)
        for record in routed:
            self._layers[-1].setdefault(record.layer, _Layer(record)).add(record)
        n_cached = max(0, CACHE_TOKENS - n_before)
        for shape in {record.ids.shape[1] for record in routed}:
            alike = [record for record in routed if record.ids.shape[1] == shape]
            key = tuple(record.layer for record in alike)
            caches = self._caches.setdefault(key, _Caches(alike))
            caches.add(np.stack([record.ids[:n_cached] for record in alike]))
        self._texts[-1] = (name, n_before + n_tokens)

    def profile(self) -> Profile:
        """All that was counted. ValueError if that is nothing."""
        if not self._layers or not self._layers[0]:
            raise ValueError("no router was seen")
        layers = sorted(self._layers[0])
        rows = [[text[layer] for layer in layers] for text in self._layers]
        n_all = max(row.n_expert for row in rows[0])
        reuse = np.zeros((len(layers), n_all + 1), np.int64)
        for key, caches in self._caches.items():
            for layer, ranks in zip(key, caches.ranks, strict=True):
                found = ranks[:-1]
                reuse[layers.index(layer), : len(found)] += found
                reuse[layers.index(layer), n_all] += ranks[-1]
        return Profile(
            texts=tuple(name for name, _ in self._texts),
            n_tokens=tuple(n for _, n in self._texts),
            layers=tuple(layers),
            n_experts=tuple(row.n_expert for row in rows[0]),
            n_used=tuple(row.n_used for row in rows[0]),
            counts=_stack(rows, "counts", n_all),
            mass=_stack(rows, "mass", n_all),
            pairs=sum(_stack([text], "pairs", n_all)[0] for text in rows),
            top_mass=np.array([[row.mean("top_mass") for row in text] for text in rows]),
            margin=np.array([[row.mean("margin") for row in text] for text in rows]),
            overlap=np.array([[row.mean("overlap") for row in text] for text in rows]),
            reuse=reuse,
        )


class _Layer:
    """What is counted of one layer in one text."""

    def __init__(self, record: Routed) -> None:
        self.n_expert, self.n_used = record.n_expert, record.ids.shape[1]
        self.counts = np.zeros(self.n_expert, np.int64)
        self.mass = np.zeros(self.n_expert)
        self.pairs = np.zeros((self.n_expert, self.n_expert), np.int64)
        self._sums: dict[str, float] = {}
        self._numbers: dict[str, int] = {}

    def add(self, record: Routed) -> None:
        n, ids = self.n_expert, record.ids
        self.counts += np.bincount(ids.ravel(), minlength=n)
        self.mass += np.bincount(ids.ravel(), record.shares.ravel(), minlength=n)
        first, second = np.triu_indices(self.n_used, 1)
        low = np.minimum(ids[:, first], ids[:, second])
        high = np.maximum(ids[:, first], ids[:, second])
        self.pairs += np.bincount((low * n + high).ravel(), minlength=n * n).reshape(n, n)
        again = (ids[1:, :, None] == ids[:-1, None, :]).any(axis=2).mean(axis=1)
        for name, values in (("top_mass", record.top_mass), ("margin", record.margin), ("overlap", again)):
            known = values[~np.isnan(values)]
            self._sums[name] = self._sums.get(name, 0.0) + float(known.sum())
            self._numbers[name] = self._numbers.get(name, 0) + len(known)

    def mean(self, name: str) -> float:
        """Over the tokens of which it is known; NaN if there are none."""
        return self._sums[name] / self._numbers[name] if self._numbers[name] else float("nan")


class _Caches:
    """For each of some layers alike: how many other experts were chosen since an expert was chosen before.
    That tells the hits of caches of every size that give up what was used longest ago (Mattson's stack)."""

    def __init__(self, alike: Sequence[Routed]) -> None:
        self._n_expert = max(record.n_expert for record in alike)
        self.ranks = np.zeros((len(alike), self._n_expert + 1), np.int64)
        self.clear()

    def clear(self) -> None:
        """Forget what was used, not what was counted."""
        self._used_at = np.full((len(self.ranks), self._n_expert), -1, np.int64)
        self._now = 0

    def add(self, ids: npt.NDArray[np.int32]) -> None:
        """The next tokens, [layers, tokens, k]."""
        n_used = ids.shape[2]
        earlier = np.tri(n_used, k=-1, dtype=bool)
        rows = np.arange(len(ids))[:, None]
        for token in range(ids.shape[1]):
            chosen = ids[:, token]
            before = self._used_at[rows, chosen]
            # Chosen since: those used later, and those of this token that come first and were not among them.
            rank = (self._used_at[:, None, :] > before[:, :, None]).sum(axis=2)
            rank += ((before[:, None, :] < before[:, :, None]) & earlier).sum(axis=2)
            rank[before < 0] = self._n_expert
            np.add.at(self.ranks, (np.broadcast_to(rows, rank.shape), rank), 1)
            self._used_at[rows, chosen] = self._now + np.arange(n_used)
            self._now += n_used


def _padded(array: npt.NDArray[Any], n: int) -> npt.NDArray[Any]:
    return np.pad(array, [(0, n - size) for size in array.shape])


def _stack(rows: Sequence[Sequence[_Layer]], name: str, n: int) -> npt.NDArray[Any]:
    return np.array([[_padded(getattr(row, name), n) for row in text] for text in rows])
