"""Collecting an importance matrix: the inputs of weight matrices, seen as a model computes with them.

What is counted is what llama-imatrix counts (IMatrixCollector::collect_imatrix, tools/imatrix/imatrix.cpp):
each product with a tensor of a layer, over batches of at least 16 tokens, and those with routed experts
always, for each expert the tokens that came to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from moetool.errors import EngineError, UsageError
from moetool.lab.imatrix import Inputs

OPS = ("MUL_MAT", "MUL_MAT_ID")
LEAST_TOKENS = 16

Doubles = npt.NDArray[np.float64]


class Product(Protocol):
    """A node of a graph, as the engine shows it while it is computed."""

    @property
    def name(self) -> str: ...
    @property
    def op(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int, int, int]: ...
    @property
    def is_number(self) -> bool: ...
    def source(self, number: int) -> Product | None: ...
    def read(self) -> npt.NDArray[Any]: ...
    def rows(self) -> npt.NDArray[Any]: ...


class TextReader(Protocol):
    """Who reads tokens from the beginning, `n_rows` at a time, logits for all of them."""

    def read(self, tokens: Sequence[int], first: int, n_rows: int) -> Any: ...


@dataclass
class _Sums:
    """What was seen of one tensor: sums of squared inputs, [n_expert, n_in], and tokens, [n_expert]."""

    sums: Doubles
    counts: npt.NDArray[np.int64]


@dataclass
class Collector:
    """Adds up what each product is given; `see` is for the graph's watch."""

    _found: dict[str, _Sums] = field(default_factory=dict)

    def see(self, node: Product) -> None:
        weights, inputs = node.source(0), node.source(1)
        if weights is None or inputs is None or not inputs.is_number:
            return
        name = tensor_name(weights.name)
        if node.op == "MUL_MAT_ID":
            ids = node.source(2)
            assert ids is not None
            self._add_routed(name, weights.shape[1], inputs.read(), ids.rows())
        elif name.startswith("blk.") and inputs.shape[2] >= LEAST_TOKENS:
            self._add(name, weights.shape, inputs.read())

    def entries(self) -> dict[str, Inputs]:
        """All tensors that were seen."""
        return {
            name: Inputs(found.sums.astype(np.float32), found.counts.copy())
            for name, found in self._found.items()
        }

    def _add(self, name: str, shape: tuple[int, ...], inputs: npt.NDArray[Any]) -> None:
        """Inputs [outer, matrices, tokens, n_in]; matrices of one tensor (MLA's heads) are summed apart,
        their tokens counted together. More matrices than the tensor has go on from its first."""
        n_outer, n_inner = shape[0], shape[1]
        squares = np.square(inputs, dtype=np.float64).sum(axis=2)
        found = self._at(name, 1, n_outer * n_inner * inputs.shape[3], inputs)
        folded = np.zeros((n_outer, n_inner, inputs.shape[3]))
        for outer in range(squares.shape[0]):
            for inner in range(squares.shape[1]):
                folded[outer % n_outer, inner % n_inner] += squares[outer, inner]
        found.sums += folded.reshape(found.sums.shape)
        found.counts += int(np.prod(inputs.shape[:3])) // (n_outer * n_inner)

    def _add_routed(
        self, name: str, n_expert: int, inputs: npt.NDArray[Any], ids: npt.NDArray[np.int32]
    ) -> None:
        """Inputs [1, tokens, 1 or as many as experts of a token, n_in], and those experts, [tokens, n]."""
        squares = np.square(inputs[0])
        found = self._at(name, n_expert, inputs.shape[3], inputs)
        tokens = np.arange(len(ids))
        for place in range(ids.shape[1]):
            came = np.zeros((n_expert, len(ids)), np.float32)
            came[ids[:, place], tokens] = 1
            found.sums += came @ squares[:, place % squares.shape[1]]
        found.counts += np.bincount(ids.ravel(), minlength=n_expert)

    def _at(self, name: str, n_expert: int, n_in: int, inputs: npt.NDArray[Any]) -> _Sums:
        if not np.isfinite(inputs).all():
            raise EngineError(
                f"The inputs of {name} are not finite numbers",
                "the model is damaged, or its cache type too narrow",
            )
        if name not in self._found:
            self._found[name] = _Sums(np.zeros((n_expert, n_in)), np.zeros(n_expert, np.int64))
        return self._found[name]


def tensor_name(name: str) -> str:
    """The tensor's name without what the scheduler adds to copies: "CUDA0#blk.0.attn_k.weight#0"."""
    return name.split("#")[1] if "#" in name else name


def read_chunks(
    reader: TextReader,
    tokens: Sequence[int],
    n_ctx: int,
    bos: int | None,
    most_rows: int,
    on_chunk: Callable[[], None],
) -> int:
    """Read a text in chunks as llama-imatrix does, each by itself and whole, `bos` (where the model wants it)
    in place of its first token; returns how many there were. UsageError for less than two."""
    n_chunks = len(tokens) // n_ctx
    if n_chunks < 2:
        raise UsageError(
            f"This text has {len(tokens)} tokens: too few for two chunks of {n_ctx}", "give a longer text"
        )
    n_rows = batch_rows(n_ctx, most_rows)
    for start in range(0, n_chunks * n_ctx, n_ctx):
        chunk = list(tokens[start : start + n_ctx])
        if bos is not None:
            chunk[0] = bos
        for _ in reader.read(chunk, 0, n_rows):
            pass
        on_chunk()
    return n_chunks


def batch_rows(n_ctx: int, most: int) -> int:
    """Tokens at a time: so many that every batch of a chunk is as large, for small ones are not counted."""
    fitting = [n for n in range(LEAST_TOKENS, min(n_ctx, most) + 1) if n_ctx % n == 0]
    if not fitting:
        raise UsageError(
            f"Chunks of {n_ctx} tokens cannot be cut into like batches", "give --ctx 512, or 1024"
        )
    return fitting[-1]
