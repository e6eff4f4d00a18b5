"""Watching a graph: what is read is what is computed, what is written is computed with, errors come out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from moetool.assets import demo_model_path
from moetool.engine.model import Engine
from moetool.engine.reading import TextReader
from moetool.engine.watch import Node, Watch
from moetool.settings import Settings

N_LAYERS, N_EXPERTS, N_USED = 4, 8, 2
TOKENS = np.random.default_rng(0).integers(5, 1500, 40).tolist()
SETTINGS = Settings(n_ctx=256, n_batch=64, n_ubatch=32, n_threads=1, n_outputs_max=40)
ROUTING = ("ffn_moe_topk", "ffn_moe_weights")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine([demo_model_path()], SETTINGS, "qwen3moe") as loaded:
        yield loaded


def read(engine: Engine, watch: Watch | None) -> npt.NDArray[np.float32]:
    """The logits of all tokens, in batches of 40 tokens that llama.cpp computes in two parts."""
    engine.use_watch(watch)
    return np.concatenate([block.copy() for block in TextReader(engine).read(TOKENS, 0, 40)])


@pytest.fixture(scope="module")
def plain(engine: Engine) -> npt.NDArray[np.float32]:
    return read(engine, None)


def test_nodes_hold_what_llama_computes_with(engine: Engine, plain: npt.NDArray[np.float32]) -> None:
    ids: list[npt.NDArray[np.int32]] = []
    routers = 0

    def see(node: Node) -> None:
        nonlocal routers
        if node.name.startswith("ffn_moe_topk-"):
            assert (node.op, node.is_on_host, node.is_number) == ("VIEW", True, True)
            order = node.source(0)
            assert order is not None and order.op == "ARGSORT"
            ids.append(node.rows().copy())
            assert (ids[-1] == order.rows()[:, :N_USED]).all()
        elif node.name.startswith("ffn_moe_weights-"):
            probs, chosen = node.source(0), node.source(1)
            assert probs is not None and chosen is not None
            assert (chosen.rows() == ids[-1]).all()
            values = probs.read()[0, :, :, 0]
            assert np.allclose(values.sum(axis=1), 1, atol=1e-5)
            assert (np.take_along_axis(values, ids[-1], 1) == node.read()[0, :, :, 0]).all()
        elif node.name.startswith("ffn_moe_logits-"):
            weights, given = node.source(0), node.source(1)
            assert weights is not None and given is not None and weights.source(0) is None
            assert weights.name == node.name.replace("ffn_moe_logits-", "blk.") + ".ffn_gate_inp.weight"
            assert weights.shape == (1, 1, N_EXPERTS, 256)
            product = given.rows() @ weights.rows().T
            assert np.allclose(product, node.rows(), rtol=1e-3, atol=1e-3 * np.abs(product).max())
            routers += 1

    watched = read(engine, Watch(see, names=ROUTING, ops=("MUL_MAT",)))
    assert (watched == plain).all()
    assert [block.shape for block in ids] == [*[(32, N_USED)] * N_LAYERS, *[(8, N_USED)] * N_LAYERS]
    assert routers == 2 * N_LAYERS
    assert (read(engine, None) == plain).all()


def test_what_is_written_is_computed_with(engine: Engine, plain: npt.NDArray[np.float32]) -> None:
    def turn(node: Node) -> None:
        node.write(node.read()[..., ::-1].copy() if node.op == "VIEW" else node.read()[..., ::-1, :].copy())

    def force(node: Node) -> None:
        node.write(np.arange(N_USED))

    # Weights follow the ids that are written, so the order of a token's experts is all the same …
    turned = read(engine, Watch(turn, names=ROUTING[:1]))
    assert np.abs(turned - plain).max() < 1e-2 * np.abs(plain).max()
    # … turning the weights as well gives each expert the other's.
    assert np.abs(read(engine, Watch(turn, names=ROUTING)) - plain).max() > 0.1 * np.abs(plain).max()
    forced = read(engine, Watch(force, names=ROUTING[:1]))
    assert np.abs(forced - plain).max() > 0.1 * np.abs(plain).max()


def test_what_a_watcher_raises_comes_out_of_the_decoding(
    engine: Engine, plain: npt.NDArray[np.float32]
) -> None:
    seen: list[str] = []

    def see(node: Node) -> None:
        seen.append(node.name)
        if len(seen) == 2:
            raise KeyError(node.name)

    watch = Watch(see, names=ROUTING)
    engine.use_watch(watch)
    with pytest.raises(KeyError, match="ffn_moe_weights-0"):
        engine.decode(TOKENS)
    assert len(seen) == 2  # nothing is seen after it
    engine.rewind(0)
    engine.decode(TOKENS)
    assert len(seen) == 2 + 2 * 2 * N_LAYERS  # two parts of a batch
    assert (engine.logits() == plain[-1]).all()
