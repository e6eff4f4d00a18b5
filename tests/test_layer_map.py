"""Fewer experts in chosen layers: as llama.cpp itself would do with fewer; and the map of what that costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from cli_fixture import Moetool
from tiny_model import write_tiny_model

from moetool.anatomy import make_anatomy
from moetool.engine.fewer_experts import FewerExperts
from moetool.engine.model import Engine
from moetool.engine.reading import TextReader
from moetool.frontier import Interval
from moetool.gguf import open_header
from moetool.lab.layer_map import LayerCost, LayerMap
from moetool.render.layer_map import show_layer_map
from moetool.render.tables import console
from moetool.settings import Settings

N_TOKENS = 24


def logits(
    path: Path, keep: dict[int, int] | None = None, experts: int | None = None
) -> npt.NDArray[np.float32]:
    """Of all tokens of a text, with `keep` experts by layer, or `experts` asked of llama.cpp."""
    anatomy = make_anatomy(open_header(path))
    settings = Settings(
        n_ctx=256, n_batch=64, n_ubatch=64, n_threads=1, n_outputs_max=N_TOKENS, experts=experts
    )
    tokens = np.random.default_rng(1).integers(3, anatomy.n_vocab, N_TOKENS).tolist()
    with Engine([path], settings, anatomy.arch) as engine:
        if keep is not None:
            fewer = FewerExperts(is_softmaxed=anatomy.routing.is_softmaxed)
            fewer.keep = keep
            engine.use_watch(fewer.watch)
        return np.concatenate([block.copy() for block in TextReader(engine).read(tokens, 0, N_TOKENS)])


# Weights that are renormalised by a sum, and in the second by the file's say (kimi-linear: sigmoid, a bias).
@pytest.mark.parametrize("name", ["grok-moe", "kimi-linear-moe", "qwen4exp-moe"])
def test_dropping_in_all_layers_is_what_llama_does_with_fewer(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_tiny_model(path, name)
    layers = [layer.index for layer in make_anatomy(open_header(path)).layers if layer.ffn == "moe"]
    whole, one = logits(path), logits(path, experts=1)
    size = np.abs(one).max()
    assert np.abs(logits(path, dict.fromkeys(layers, 1)) - one).max() < 1e-3 * size
    assert np.abs(whole - one).max() > 1e-2 * size
    # Nothing is dropped of as many as there are, and one layer is not all.
    assert np.abs(logits(path, dict.fromkeys(layers, 2)) - whole).max() < 1e-3 * size
    in_one = logits(path, {layers[0]: 1})
    assert np.abs(in_one - whole).max() > 1e-3 * size


def cost(layer: int, kld: float) -> LayerCost:
    return LayerCost(layer, Interval(kld, kld, kld), 0.9)


def test_the_halves_of_a_map() -> None:
    costs = tuple(map(cost, range(5), (0.3, 0.1, 0.5, 0.2, 0.4)))
    found = LayerMap(8, 4, 1000, costs, cost(-1, 1.0))
    assert found.tolerant == (1, 3)
    assert found.sensitive == (2, 4)


def test_the_map_of_the_demo_model(moetool_here: Moetool, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("38 + 16 = 54. 54 + 7 = 61. The answer is 61. " * 160)
    asked = ("--layers", "--text", "text.txt", "--budget", "1", "--threads", "1")
    data = moetool_here("sparsity", "demo", *asked, "-o", "json").document["data"]
    assert (data["own"], data["keep"], [row["layer"] for row in data["layers"]]) == (2, 1, [0, 1, 2, 3])
    values = [row["kld"]["value"] for row in data["layers"]]
    assert all(0 < value < data["together"]["kld"]["value"] for value in values)
    assert sorted([*data["tolerant"], *data["sensitive"]]) == [0, 1, 2, 3]
    assert "1 to 1" in moetool_here("sparsity", "demo", "--layers", "--experts", "2").err
    assert moetool_here("sparsity", "demo", "--layers", "--min-tok-s", "3").code == 2


def test_the_map_as_it_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    costs = tuple(map(cost, range(3), (0.3, 0.1, 0.2)))
    console.cache_clear()
    show_layer_map(LayerMap(8, 4, 1000, costs, cost(-1, 0.5)))
    shown = capsys.readouterr().out
    assert "4 experts instead of 8 in one layer" in shown
    assert "cost 0.6 nats in sum, all at once 0.5" in shown
    assert "Least sensitive half: layers 1" in shown
