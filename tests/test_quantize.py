"""Quantizing: bits where they save most, sizes told to the byte, whole files or none, honest imatrices."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_fixture import Moetool

from moetool.anatomy.roles import roled
from moetool.assets import demo_model_path
from moetool.cli import quantizing
from moetool.cli.new_file import new_file
from moetool.engine.model import Engine
from moetool.engine.rounding import LoadedWeights
from moetool.errors import Interrupted, UsageError
from moetool.gguf import open_header
from moetool.kept_sensitivities import KeptSensitivity, keep_sensitivity, read_sensitivity
from moetool.lab.allocation import Choice, Option, Options, allocate, allocate_until, total_bytes, total_loss
from moetool.lab.collecting import Collector, batch_rows
from moetool.lab.imatrix import Imatrix, Inputs, read_imatrix, write_imatrix
from moetool.lab.rounding import rounded
from moetool.lab.sensitivity import Group, make_groups, measured_sensitivity
from moetool.quants import BY_NAME, QUANT_TYPES
from moetool.settings import Settings

DEMO = str(demo_model_path())

# -- where bits go -----------------------------------------------------------------------------------


def made_up(seed: int) -> Options:
    """Six tensors of different sizes and sensitivities, each with four types."""
    rng = np.random.default_rng(seed)
    options = {}
    for number in range(6):
        size, loss = int(rng.integers(1, 9)), float(rng.lognormal())
        options[f"t{number}"] = [
            Option(QUANT_TYPES[at], size * (2 + at), loss * 4.0**-at * float(rng.uniform(0.7, 1.4)))
            for at in range(4)
        ]
    return options


def best(options: Options, budget: int) -> float:
    """The least loss there is in so many bytes, by trying all."""
    every = (dict(zip(options, row, strict=True)) for row in itertools.product(*options.values()))
    return min(total_loss(chosen) for chosen in every if total_bytes(chosen) <= budget)


@pytest.mark.parametrize("seed", range(4))
def test_no_other_choice_loses_less_in_the_bytes_but_for_one_step(seed: int) -> None:
    options = made_up(seed)
    smallest = total_bytes(allocate(options, 0))
    step = max(row[-1].n_bytes - row[0].n_bytes for row in options.values())
    widest = sum(max(option.n_bytes for option in row) for row in options.values())
    for budget in range(smallest, widest + 1, 9):
        chosen = allocate(options, budget)
        assert total_bytes(chosen) <= budget
        assert total_loss(chosen) <= best(options, max(smallest, budget - step)) + 1e-12
    assert total_loss(allocate(options, widest)) == pytest.approx(best(options, widest))


def test_the_least_bytes_that_are_good_enough() -> None:
    options = made_up(7)

    def is_enough(chosen: Choice) -> bool:
        return total_loss(chosen) <= 0.5

    chosen = allocate_until(options, is_enough)
    assert is_enough(chosen)
    step = max(row[-1].n_bytes - row[0].n_bytes for row in options.values())
    assert best(options, total_bytes(chosen) - step - 1) > 0.5


# -- the command -------------------------------------------------------------------------------------


def test_a_file_is_what_the_dry_run_said_and_llama_cpp_loads_it(
    moetool_here: Moetool, tmp_path: Path
) -> None:
    order = ("quantize", DEMO, "small.gguf", "--requantize", "--bpw", "4.25", "-o", "json")
    said = moetool_here(*order, "--dry-run").document["data"]
    assert not Path("small.gguf").exists()
    assert said["bits_per_weight"] <= 4.25 < said["bits_per_weight"] + 0.05
    done = moetool_here(*order)
    assert done.document["data"] | {"file": None} == said
    assert Path("small.gguf").stat().st_size == said["file_bytes"]
    types = {tensor.name: tensor.type.name for tensor in open_header("small.gguf").tensors}
    assert types.items() >= said["types"].items()
    bits = {row["role"]: 8 * row["after_bytes"] / row["n_params"] for row in said["roles"]}
    assert bits["router"] == 32 > bits["attention"] > bits["routed experts"]
    with Engine([Path("small.gguf")], Settings(n_ctx=64), "qwen3moe") as engine:
        engine.decode(engine.vocabulary.tokenize("What is 3 + 4?"))
        assert np.isfinite(engine.logits()).all()
    again = moetool_here(*order)
    assert again.code == 2 and "is there already" in again.document["errors"][0]["message"]


def test_what_a_killed_process_left_of_the_file_goes_and_what_another_writes_stays(tmp_path: Path) -> None:
    target = tmp_path / "a[1].gguf"
    left, other = tmp_path / ".a[1].gguf.x.part", tmp_path / ".a1.gguf.x.part"
    for path in (left, other):
        path.write_text("half")
    with new_file(target, "DST") as part:
        assert (left.exists(), other.exists()) == (False, True)
        part.write_text("whole")
        with new_file(target, "DST") as second:  # as another process would
            second.write_text("whole, too")
        assert part.exists()
    assert target.read_text() == "whole"
    assert {path.name for path in tmp_path.iterdir()} == {target.name, other.name}


def test_what_is_narrow_already_stays_as_it_is(moetool_here: Moetool) -> None:
    assert moetool_here("quantize", DEMO, "q2.gguf", "--recipe", "Q2_K", "--requantize").code == 0
    order = ("quantize", "q2.gguf", "less.gguf", "--requantize", "--bpw", "3.2", "-o", "json")
    done = moetool_here(*order)
    assert done.code == 0, done.out
    assert Path("less.gguf").stat().st_size == done.document["data"]["file_bytes"]
    before = {tensor.name: tensor.type for tensor in open_header("q2.gguf").tensors}
    after = {tensor.name: tensor.type for tensor in open_header("less.gguf").tensors}
    assert all(after[name] == quant for name, quant in before.items() if quant.name in ("Q2_K", "F32"))
    assert any(after[name] != quant for name, quant in before.items())


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("--bpw", "4"), 2, "quantized already"),
        (("--bpw", "1"), 3, "narrowest types"),
        (("--bpw", "4", "--size", "4M"), 2, "takes one of"),
        (("--recipe", "Q4_K_M", "--bpw", "4"), 2, "takes none of"),
        (("--recipe", "Q9_K"), 2, "no recipe 'Q9_K'"),
        (("--recipe", "IQ2_XS", "--requantize"), 2, "importance matrix"),
        (("--kld", "0.01"), 2, "--text"),
    ],
)
def test_what_cannot_be_meant_is_said_and_nothing_is_written(
    flags: tuple[str, ...], code: int, message: str, moetool_here: Moetool, tmp_path: Path
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    done = moetool_here("quantize", DEMO, "small.gguf", *flags, "-o", "json", cwd=folder)
    assert done.code == code
    assert message in done.document["errors"][0]["message"] + done.document["errors"][0]["hint"]
    assert not list(folder.iterdir())


def test_a_source_that_is_quantized_is_refused_before_anything_is_shown(moetool_here: Moetool) -> None:
    done = moetool_here("quantize", DEMO, "small.gguf", "--recipe", "Q4_K_M")
    assert (done.code, done.out) == (2, "")


def test_ctrl_c_and_half_a_file_leave_nothing(
    moetool_here: Moetool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    order = ("quantize", DEMO, "small.gguf", "--recipe", "Q4_K_M", "--requantize", "-o", "json")

    def stopped(_paths: object, target: Path, *_rest: object) -> None:
        target.write_bytes(b"GGUF")
        raise Interrupted("Interrupted")

    def cut(_paths: object, target: Path, *_rest: object) -> None:  # as a full disk leaves it, unsaid
        data = demo_model_path().read_bytes()
        target.write_bytes(data[: len(data) // 2])

    for what, code in ((stopped, 130), (cut, 1)):
        monkeypatch.setattr(quantizing, "quantize_file", what)
        assert moetool_here(*order, cwd=folder).code == code
        assert not list(folder.iterdir())


# -- sensitivity -------------------------------------------------------------------------------------


def test_weights_are_rounded_in_place_and_put_back() -> None:
    settings = Settings(n_ctx=64, n_threads=1, use_mmap=False, repack=False)
    name = "blk.1.ffn_down_exps.weight"
    header = open_header(DEMO)
    info = next(tensor for tensor in header.tensors if tensor.name == name)

    with Engine([demo_model_path()], settings, header.arch) as engine:
        weights, found = LoadedWeights(engine), []
        before = weights.read(name, info.n_bytes)
        after, error = rounded(before, info.type, BY_NAME["Q2_K"], info.shape[0])
        assert 0.05 < error < 0.15
        for data in (before, after, before):
            weights.write(name, data)
            engine.rewind(0)
            engine.decode([5, 6, 7, 8])
            found.append(engine.logits().copy())
    assert np.array_equal(found[0], found[2]) and not np.allclose(found[0], found[1])


def test_each_group_is_rounded_alone_and_put_back_also_when_reading_fails() -> None:
    tensors = roled(open_header(DEMO).tensors, 4, ())
    groups = make_groups([t for t in tensors if "exps" in t.info.name or "attn_v" in t.info.name])
    assert len(groups) == 16 and sum(len(group.tensors) for group in groups) == 16
    rounded_now: list[str] = []

    def read() -> float:
        (name,) = rounded_now
        if name == groups[-1].name and fails:
            raise Interrupted("Interrupted")
        return 0.3 if "attn_v" in name else 0.02

    def round_group(group: Group) -> float:
        rounded_now.append(group.name)
        return 0.1

    fails = False
    found = measured_sensitivity(groups, round_group, read, rounded_now.clear, "measured")
    assert found.loss("blk.2.attn_v.weight", 0.01) == pytest.approx(0.03)
    assert found.loss("blk.2.ffn_up_exps.weight", 0.01) == pytest.approx(0.002)
    fails = True
    with pytest.raises(Interrupted):
        measured_sensitivity(groups, round_group, read, rounded_now.clear, "measured")
    assert not rounded_now


def test_sensitivity_is_measured_once_and_kld_goes_by_it(
    moetool_here: Moetool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moetool.lab.sensitivity.N_BANDS", 1)
    monkeypatch.setattr("moetool.lab.sensitivity.part_of", lambda _name: "all")  # two groups: fewer readings
    text = tmp_path / "text.txt"
    text.write_text("What is 12 + 7? The answer is 19. " * 66)
    order = (
        "quantize",
        DEMO,
        "small.gguf",
        "--requantize",
        "--dry-run",
        "-o",
        "json",
        "-t",
        "1",
        "--bpw",
        "4.5",
    )
    first = moetool_here(*order, "--text", str(text))
    again = moetool_here(*order, "--text", str(text))
    assert "times." in first.err and "measured on this text before" in again.err
    assert again.document["data"] == first.document["data"]
    data = first.document["data"]
    assert data["expected_kld"] > 0 and data["basis"].startswith("sensitivity measured on text.txt")
    narrower = moetool_here(*order[:-2], "--kld", str(2 * data["expected_kld"])).document["data"]
    assert narrower["file_bytes"] < data["file_bytes"]
    assert data["expected_kld"] < narrower["expected_kld"] <= 2 * data["expected_kld"]


def test_what_was_measured_is_kept_and_damage_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "sensitivities.jsonl"
    first = KeptSensitivity("m", "a" * 64, "t1", "one.txt", "2026", {"x": 0.5})
    keep_sensitivity(path, first)
    keep_sensitivity(path, KeptSensitivity("m", "a" * 64, "t2", "two.txt", "2027", {"x": 0.7}))
    with path.open("a") as file:
        file.write('{"model_sha256": "' + "a" * 64 + '", "per_error": {"x": -1}}\n{"per')
    assert read_sensitivity(path, "a" * 64, "t1") == first
    latest = read_sensitivity(path, "a" * 64)
    assert latest is not None and latest.per_error == {"x": 0.7}
    assert read_sensitivity(path, "b" * 64) is None


# -- importance matrices -----------------------------------------------------------------------------


class Fake:
    """A node of a graph with values in ggml's order reversed, as the engine shows them."""

    def __init__(
        self, name: str, values: np.ndarray, op: str = "NONE", sources: tuple[Any, ...] = ()
    ) -> None:
        self.name, self.op, self.is_number = name, op, True
        self.values, self.sources = values.reshape((1,) * (4 - values.ndim) + values.shape), sources

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def source(self, number: int) -> Any:
        return self.sources[number] if number < len(self.sources) else None

    def read(self) -> np.ndarray:
        return self.values

    def rows(self) -> np.ndarray:
        return self.values.reshape(-1, self.values.shape[-1])


def product(name: str, weights: tuple[int, ...], inputs: np.ndarray, ids: np.ndarray | None = None) -> Any:
    sources = [
        Fake(name, np.zeros(weights)),
        Fake("x", inputs),
        *([Fake("ids", ids)] if ids is not None else []),
    ]
    return Fake("y", inputs, "MUL_MAT" if ids is None else "MUL_MAT_ID", tuple(sources))


def test_inputs_are_summed_for_each_expert_that_a_token_came_to() -> None:
    rng = np.random.default_rng(1)
    ids = rng.permuted(np.tile(np.arange(6, dtype=np.int32), (40, 1)), axis=1)[:, :3] % 5  # expert 5: none
    for n_places in (1, 3):
        inputs = rng.normal(size=(40, n_places, 8)).astype(np.float32)
        collector = Collector()
        collector.see(product("CUDA0#blk.0.ffn_up_exps.weight#0", (6, 4, 8), inputs, ids))
        found = collector.entries()["blk.0.ffn_up_exps.weight"]
        sums, counts = np.zeros((6, 8)), np.zeros(6, int)
        for token, place in itertools.product(range(40), range(3)):  # as llama-imatrix counts
            sums[ids[token, place]] += inputs[token, place % n_places] ** 2
            counts[ids[token, place]] += 1
        assert np.array_equal(found.counts, counts) and np.allclose(found.sums, sums, rtol=1e-5)
        assert found.unseen == (5,)
        assert (found.importance()[5] == 1).all()


def test_what_llama_imatrix_leaves_out_is_left_out() -> None:
    collector = Collector()
    inputs = np.ones((16, 8), np.float32)
    collector.see(product("blk.0.attn_q.weight", (4, 8), inputs))
    collector.see(product("blk.0.attn_q.weight", (4, 8), inputs[:15]))  # a small batch
    collector.see(product("output.weight", (4, 8), inputs))
    collector.see(product("cache_k_l0 (view)", (4, 8), inputs))
    collector.see(product("blk.0.attn_k_b.weight", (3, 4, 8), np.ones((3, 16, 8), np.float32)))  # MLA's heads
    found = collector.entries()
    assert found.keys() == {"blk.0.attn_q.weight", "blk.0.attn_k_b.weight"}
    assert found["blk.0.attn_q.weight"].counts.tolist() == [16]
    assert found["blk.0.attn_k_b.weight"].sums.tolist() == [[16] * 24]
    assert found["blk.0.attn_k_b.weight"].counts.tolist() == [16]


def test_every_batch_is_large_enough_to_be_counted() -> None:
    assert [batch_rows(512, most) for most in (2048, 500, 110, 16)] == [512, 256, 64, 16]
    with pytest.raises(UsageError):
        batch_rows(509, 110)


def test_an_imatrix_is_read_as_it_was_written_and_damage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    counts = np.array([3, 0, 2])
    entry = Inputs(np.arange(12, dtype=np.float32).reshape(3, 4), counts)
    write_imatrix(path, Imatrix({"blk.0.ffn_up_exps.weight": entry}, ("wiki.txt",), 2, 512))
    found = read_imatrix(path)
    read = found.entries["blk.0.ffn_up_exps.weight"]
    assert (found.datasets, found.n_chunks, found.chunk_tokens) == (("wiki.txt",), 2, 512)
    assert np.array_equal(read.sums, entry.sums) and np.array_equal(read.counts, counts)
    assert found.unseen() == {"blk.0.ffn_up_exps.weight": (1,)}
    whole = path.read_bytes()
    for damaged in (
        whole[:-28],
        whole.replace(b"imatrix.chunk", b"imatrix.chynk").replace(b".counts", b".caunts"),
        b"old",
    ):
        path.write_bytes(damaged)
        with pytest.raises(UsageError):
            read_imatrix(path)
    entry.sums[0, 0] = np.nan
    path.unlink()
    write_imatrix(path, Imatrix({"x": entry}, (), 2, 512))
    with pytest.raises(UsageError, match="impossible"):
        read_imatrix(path)


def test_an_imatrix_of_the_demo_model_counts_every_token_in_every_layer(
    moetool_here: Moetool, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("What is 12 + 7? The answer is 19. " * 40)
    done = moetool_here("imatrix", DEMO, "--text", str(text), "--out", "i.gguf", "--ctx", "128", "-o", "json")
    data = done.document["data"]
    n_tokens = data["n_chunks"] * 128
    assert n_tokens > 256
    for name, counts in data["counts"].items():
        assert sum(counts) == n_tokens * (2 if "exps" in name else 1), name
    assert len(data["counts"]) == 32
    seen = moetool_here(
        "quantize", DEMO, "q.gguf", "--recipe", "IQ2_XS", "--imatrix", "i.gguf", "--requantize", "--dry-run"
    )
    unseen = data["unseen_experts"]
    assert seen.code == (2 if any(unseen.values()) else 0), seen.err
    other = moetool_here("quantize", DEMO, "q.gguf", "--bpw", "5", "--imatrix", DEMO, "--requantize")
    assert other.code == 2 and "no importance matrix" in other.err
