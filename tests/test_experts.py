"""`moetool experts`: what is counted is what was chosen, and a broken router is called broken."""

from __future__ import annotations

import io
import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from cli_fixture import Moetool

from moetool.assets import demo_model_path, quality_text_path
from moetool.engine.model import Engine
from moetool.engine.reading import TextReader
from moetool.engine.routing import Routed, RoutingWatch, read_routed
from moetool.engine.watch import Node, Watch
from moetool.errors import EngineError
from moetool.gguf import open_header
from moetool.kept_profiles import keep_profile, parse_profile, read_profile
from moetool.lab.figures import distances, entropy, gini, jensen_shannon, layer_figures, top_share
from moetool.lab.tally import Tally
from moetool.render.experts import fold
from moetool.settings import Settings

N_EXPERT, N_USED = 16, 3
LAYER, FORCED, DEAD, UNIFORM = 1, 3, 5, 2


def routed(layer: int, ids: npt.NDArray[np.int32]) -> Routed:
    """Layer 0 weighs the first of a token's experts more than the others."""
    shares = np.full(ids.shape, 0.25, np.float32)
    shares[:, 0] = 0.5
    unknown = np.full(len(ids), np.nan, np.float32)
    return Routed(layer, N_EXPERT, ids, shares, np.full(len(ids), 0.6, np.float32), unknown)


def draw(rng: np.random.Generator, n: int, first: int = 0) -> npt.NDArray[np.int32]:
    """Uneven choices, without repeating an expert in a token, none below `first`."""
    weights = np.arange(1, N_EXPERT + 1 - first) ** 2.0
    return np.array(
        [
            first + rng.choice(len(weights), N_USED, replace=False, p=weights / weights.sum())
            for _ in range(n)
        ],
        np.int32,
    )


def lru_hits(tokens: list[npt.NDArray[np.int32]], n_cached: int) -> int:
    """Hits of a cache that gives up what was used longest ago, the plain way."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for token in tokens:
        for expert in token.tolist():
            hits += expert in cache
            cache.pop(expert, None)
            cache[expert] = None
            if len(cache) > n_cached:
                cache.popitem(last=False)
    return hits


def test_a_tally_counts_what_was_chosen() -> None:
    rng = np.random.default_rng(0)
    # Two texts, the first in two chunks; two layers.
    chunks = [[(draw(rng, n), draw(rng, n)) for n in sizes] for sizes in ((30, 11), (25,))]
    tally = Tally()
    for name, text in zip(("a", "b"), chunks, strict=True):
        tally.begin(name)
        for first, second in text:
            tally.add([routed(4, first), routed(7, second)])
    profile = tally.profile()
    assert (profile.texts, profile.n_tokens, profile.layers) == (("a", "b"), (41, 25), (4, 7))
    assert (profile.n_experts, profile.n_used) == ((N_EXPERT,) * 2, (N_USED,) * 2)
    for layer in range(2):
        pairs = np.zeros((N_EXPERT, N_EXPERT), int)
        for text in range(2):
            counts, mass = np.zeros(N_EXPERT, int), np.zeros(N_EXPERT)
            again = []
            for chunk in chunks[text]:
                previous: set[int] | None = None
                for token in chunk[layer].tolist():
                    for place, expert in enumerate(token):
                        counts[expert] += 1
                        mass[expert] += 0.25 if place else 0.5
                        pairs[expert, [other for other in token if other > expert]] += 1
                    if previous is not None:
                        again.append(len(previous & set(token)) / N_USED)
                    previous = set(token)
            assert (profile.counts[text, layer] == counts).all()
            assert np.allclose(profile.mass[text, layer], mass)
            assert profile.overlap[text, layer] == pytest.approx(np.mean(again))
        assert (profile.pairs[layer] == pairs).all()
        for n_cached in range(1, N_EXPERT + 1):
            hits = sum(
                lru_hits([token for chunk in text for token in chunk[layer]], n_cached) for text in chunks
            )
            assert profile.reuse[layer, :n_cached].sum() == hits
    assert np.isnan(profile.margin).all() and np.allclose(profile.top_mass, 0.6)
    figures = layer_figures(profile)[0]
    assert figures.margin is None
    assert figures.confidence == pytest.approx((0.6 - 3 / 16) / (1 - 3 / 16))


def test_routing_is_what_the_gate_says_for_few_tokens_as_for_many() -> None:
    expected: dict[int, tuple[npt.NDArray[np.float32], ...]] = {}
    by_node: dict[int, Routed] = {}

    def see(node: Node) -> None:
        record = read_routed(node, 8)
        order = node.source(0)
        probs = order.source(0) if order is not None else None
        assert probs is not None and probs.name == f"ffn_moe_probs-{record.layer}"
        best = -np.sort(-probs.rows(), axis=1)
        expected[record.layer] = (best[:, :2].sum(axis=1), best[:, 1] - best[:, 2])
        by_node[record.layer] = record

    tokens = list(range(100, 120))
    settings = Settings(n_ctx=256, n_outputs_max=64, n_threads=1)
    with Engine([demo_model_path()], settings, "qwen3moe") as engine:
        engine.use_watch(Watch(see, names=("ffn_moe_topk",)))
        list(TextReader(engine).read(tokens, 0, 64))
        watch = RoutingWatch(8)
        engine.use_watch(watch.watch)
        list(TextReader(engine).read(tokens, 0, 64))  # so few that they are kept first, and joined
        taken = watch.take(len(tokens))
        with pytest.raises(EngineError, match="saw 8 of 3 tokens"):
            engine.decode(range(8))
            watch.take(3)
    assert [record.layer for record in taken] == [0, 1, 2, 3]
    for record in taken:
        for name in ("ids", "shares", "top_mass", "margin"):
            assert (getattr(record, name) == getattr(by_node[record.layer], name)).all(), name
        top_mass, margin = expected[record.layer]
        assert np.allclose(record.top_mass, top_mass) and np.allclose(record.margin, margin, atol=1e-6)
        assert np.allclose(record.shares.sum(axis=1), 1)


def test_figures_at_their_ends_and_between() -> None:
    assert (entropy([5, 5, 5, 5]), gini([5, 5, 5, 5]), top_share([1] * 20)) == (1.0, 0.0, 0.1)
    assert (entropy([9, 0, 0, 0]), gini([9, 0, 0, 0]), top_share([9, 0, 0])) == (0.0, 0.75, 1.0)
    assert entropy([1, 1, 0, 0]) == pytest.approx(0.5)
    assert jensen_shannon([1, 2, 3], [2, 4, 6]) == pytest.approx(0, abs=1e-12)
    assert jensen_shannon([1, 0], [0, 9]) == 1.0
    rng = np.random.default_rng(1)
    tally = Tally()
    for name, first in (("one", 0), ("same", 0), ("other", 8)):
        tally.begin(name)
        tally.add([routed(0, draw(rng, 400, first))])
    apart = distances(tally.profile())
    assert (apart == apart.T).all() and (np.diag(apart) == 0).all()
    assert apart[0, 1] < 0.01 < 0.1 < apart[0, 2]
    assert fold([1, 5, 2, 0, 7], 3) == [5, 2, 7] and fold([1, 2], 80) == [1, 2]


def mean_input(layer: int) -> npt.NDArray[np.float32]:
    """What the router of a layer gets, on the average: no token's is turned away from it."""
    seen: list[npt.NDArray[np.float32]] = []

    def see(node: Node) -> None:
        given = node.source(1)
        if node.name.endswith(f"-{layer}") and given is not None:
            seen.append(given.rows().copy())

    settings = Settings(n_ctx=512, n_outputs_max=512, n_threads=1)
    with Engine([demo_model_path()], settings, "qwen3moe") as engine:
        engine.use_watch(Watch(see, names=("ffn_moe_logits",)))
        tokens = engine.vocabulary.tokenize(quality_text_path().read_text("utf-8"))[:256]
        list(TextReader(engine).read(tokens, 0, 256))
    mean: npt.NDArray[np.float32] = np.concatenate(seen).mean(axis=0)
    return mean / np.linalg.norm(mean)


def write_broken(path: Path) -> None:
    """The demo model with two routers broken: in one an expert that every token likes best and one that none
    does, in the other hardly a difference between experts."""
    header = open_header(demo_model_path())
    data = bytearray(demo_model_path().read_bytes())

    def router(layer: int) -> npt.NDArray[np.float32]:
        (gate,) = (one for one in header.tensors if one.name == f"blk.{layer}.ffn_gate_inp.weight")
        return np.frombuffer(data, "<f4", gate.n_bytes // 4, header.data_offset + gate.offset).reshape(
            -1, gate.shape[0]
        )

    direction = mean_input(LAYER)
    router(LAYER)[[FORCED, DEAD]] = 20 * direction, -20 * direction
    router(UNIFORM)[:] *= 0.01
    path.write_bytes(data)


def test_the_demo_model_is_sound_and_its_profile_is_kept(moetool_here: Moetool, tmp_path: Path) -> None:
    text = quality_text_path().read_text("utf-8")
    (tmp_path / "a.txt").write_text(text[:1500])
    (tmp_path / "b.txt").write_text(text[-800:])
    files = ("--text", str(tmp_path / "a.txt"), "--text", str(tmp_path / "b.txt"))
    places = ("--npz", str(tmp_path / "x.npz"), "--html", str(tmp_path / "x.html"))
    done = moetool_here(
        "experts", "demo", *files, "-p", "Is Rome in Italy?", "-n", "4", *places, "-o", "json"
    )
    assert done.code == 0, done.err
    data = done.document["data"]
    assert data["findings"] == []
    names = [one["name"] for one in data["texts"]]
    assert names == ["a.txt", "b.txt", "prompt", "answer"]
    n_tokens = sum(one["n_tokens"] for one in data["texts"])
    assert [layer["layer"] for layer in data["layers"]] == [0, 1, 2, 3]
    for layer in data["layers"]:
        assert sum(layer["counts"]) == 2 * n_tokens
        assert sum(layer["mass"]) == pytest.approx(n_tokens, abs=0.1)
        assert 0 < layer["confidence"] < 1 and 0 < layer["margin"] < 1
    assert 0 < data["distances"][0][1] < 0.2

    arrays = np.load(io.BytesIO((tmp_path / "x.npz").read_bytes()))
    assert arrays["texts"].tolist() == names
    assert arrays["counts"].sum(axis=0).tolist() == [layer["counts"] for layer in data["layers"]]
    assert data["answer"]
    page = (tmp_path / "x.html").read_text()
    assert page.count("<rect ") == 4 * 8 and "Distance between texts" in page

    folder = tmp_path / "cache" / "moetool" / "profiles"
    kept = read_profile(folder, data["model"]["sha256"])
    assert kept is not None and (kept.n_tokens, len(kept.layers)) == (n_tokens, 4)
    assert list(kept.layers[2].counts) == data["layers"][2]["counts"]
    # A shorter reading does not displace it, a damaged file is none.
    shorter = json.loads((folder / f"{kept.sha256}.json").read_text()) | {"n_tokens": 5}
    parsed = parse_profile(json.dumps(shorter))
    assert parsed is not None and not keep_profile(folder, parsed)
    assert read_profile(folder, kept.sha256) == kept
    (folder / f"{kept.sha256}.json").write_text("{}")
    assert read_profile(folder, kept.sha256) is None and keep_profile(folder, parsed)


def test_a_broken_router_is_diagnosed(moetool_here: Moetool, tmp_path: Path) -> None:
    write_broken(tmp_path / "broken.gguf")
    (tmp_path / "a.txt").write_text(quality_text_path().read_text("utf-8")[:1500])
    done = moetool_here("experts", str(tmp_path / "broken.gguf"), "--text", str(tmp_path / "a.txt"))
    assert done.code == 0, done.err
    collapsed, dead, uniform = (line for line in done.out.splitlines() if line.startswith("!"))
    assert collapsed.startswith(
        f"! Layer {LAYER}: its router has collapsed onto expert {FORCED}, which 100.0 %"
    )
    assert dead.startswith(f"! Layer {LAYER}: expert {DEAD} is dead: never chosen")
    assert uniform.startswith(f"! Layer {UNIFORM}: its gate is uniform")


def test_little_text_tells_nothing_and_what_is_read_is_not_overwritten(
    moetool_here: Moetool, tmp_path: Path
) -> None:
    text = tmp_path / "short.txt"
    text.write_text("   \n")
    done = moetool_here("experts", "demo", "--text", str(text))
    assert done.code == 0 and "too few to judge a router by" in done.out and "collapsed" not in done.out
    for place in (text, tmp_path, tmp_path / "nowhere" / "page.html"):
        assert moetool_here("experts", "demo", "--text", str(text), "--html", str(place)).code == 2
    assert text.read_text() == "   \n"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["short.txt"]
