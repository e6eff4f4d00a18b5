"""Models that are made up from a header: sane blocks of every type, whole files in memory, parts of them."""

from __future__ import annotations

import io
from pathlib import Path

import gguf
import numpy as np
import pytest
from cli_fixture import Moetool
from documents import check_document
from gguf.quants import dequantize
from hub_fixture import HubWorld
from test_plan import MOE, machine

from moetool.anatomy import make_anatomy
from moetool.assets import demo_model_path
from moetool.bench.extrapolate import Line
from moetool.bench.speed import SpeedTest
from moetool.cli import header_only
from moetool.cli.bench_rows import memory_use
from moetool.cli.header_only import HeaderOf
from moetool.cli.header_parts import choose_parts
from moetool.cli.measuring import Matrix
from moetool.engine.dry_run import dry_run
from moetool.engine.measured import BufferSize
from moetool.engine.model import Engine
from moetool.errors import DoesNotFit
from moetool.gguf import TensorInfo, hollow_file, open_header, read_header
from moetool.plan import Wishes, make_plan
from moetool.quants import BY_NAME, QUANT_TYPES, QuantType
from moetool.settings import Settings
from moetool.standin import MemoryFile, Samples, choose_samples, first_layers, repacked_bytes
from moetool.standin.blocks import SIGMA, make_tile
from moetool.standin.weights import constant_of, make_tiles, tensor_pieces

DATA = Path(__file__).parent / "data"
# Whole numbers, what only intermediate results are stored in, and what the gguf package cannot read.
UNREAD = {"I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K", "Q1_0", "Q2_0"}


@pytest.mark.parametrize("quant", [q for q in QUANT_TYPES if q.name not in UNREAD], ids=str)
def test_made_up_weights_are_as_large_as_trained_ones(quant: QuantType) -> None:
    blocks = np.frombuffer(make_tile(quant, 1 << 15), np.uint8).reshape(-1, quant.block_bytes)
    weights = dequantize(blocks, gguf.GGMLQuantizationType[quant.name])
    assert np.isfinite(weights).all()
    assert 0.8 * SIGMA < weights.std() < 1.7 * SIGMA
    assert abs(weights.mean()) < 0.5 * SIGMA


def tensor(name: str, shape: tuple[int, ...], quant: str = "F32") -> TensorInfo:
    kind = BY_NAME[quant]
    n_bytes = int(np.prod(shape)) // kind.block_size * kind.block_bytes
    return TensorInfo(name, shape, kind, 0, n_bytes)


@pytest.mark.parametrize(
    ("name", "shape", "value"),
    [
        ("blk.7.attn_norm.weight", (64,), 1.0),
        ("output_norm.weight", (64,), 1.0),
        ("blk.0.attn_q.bias", (64,), 0.0),
        ("blk.0.attn_sinks.weight", (8,), 0.0),
        ("blk.0.ssm_a", (1, 8), -1.0),
        ("blk.0.ssm_a", (16, 8), -1.0),
        ("blk.0.ssm_d", (1, 8), 1.0),
        ("blk.0.ffn_gate_inp.weight", (64, 8), None),
        ("blk.0.ssm_conv1d.weight", (4, 64), None),
    ],
)
def test_only_products_have_random_weights(name: str, shape: tuple[int, ...], value: float | None) -> None:
    assert constant_of(tensor(name, shape)) == value


def test_a_tensor_repeats_its_tile_from_a_block_of_its_own() -> None:
    first, second = (tensor(f"blk.{i}.ffn_up.weight", (256, 5), "Q4_K") for i in range(2))
    tiles = {BY_NAME["Q4_K"]: make_tile(BY_NAME["Q4_K"], 3 * 144)}
    made = [b"".join(tensor_pieces(t, tiles)) for t in (first, second)]
    assert [len(data) for data in made] == [first.n_bytes, second.n_bytes]
    assert made[0] != made[1]
    tile = tiles[BY_NAME["Q4_K"]]
    assert all(data[at : at + 144] in tile for data in made for at in range(0, len(data), 144))
    assert len(make_tiles([first])[first.type]) == first.n_bytes


def test_a_hybrid_made_up_in_memory_decodes_and_leaves_no_file() -> None:
    header = open_header(DATA / "archs" / "falcon-h1-dense.hdr")
    anatomy = make_anatomy(header)
    with MemoryFile(header, anatomy.n_vocab) as made:
        done: list[int] = []
        made.fill(done.append)
        assert sum(done) == anatomy.weights_bytes
        path = made.path
        settings = Settings(n_ctx=256, n_threads=1)
        with Engine([path], settings, anatomy.arch) as engine:
            engine.decode([1, 2, 3])
            assert np.isfinite(engine.logits()).all()
            assert np.ptp(engine.logits()) > 0
            # Another context on the same weights.
            engine.change_context(Settings(n_ctx=512, n_threads=1, type_k="q8_0"))
            engine.decode(list(range(100)))
            assert (engine.n_past, engine.n_ctx) == (100, 512)
            assert engine.sample() == engine.logits().argmax()
            with pytest.raises(ValueError, match="loaded again"):
                engine.change_context(Settings(n_ctx=512, repack=False))
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "most_gib", "samples"),
    [
        ("Gemma-3-27B-Q4_K_M", 6, Samples(6, 18)),  # every sixth layer attends to all
        ("Qwen3.5-35B-A3B-Q4_K_M", 6, Samples(4, 8)),  # every fourth attends
        ("DeepSeek-V3.1-Q4_K_M", 12, Samples(3, 4)),  # three dense layers come first
        ("GLM-4.5-Air-Q4_K_M", 6, Samples(1, 4)),  # one dense layer first, one for next tokens last
        ("Nemotron-3-Nano-30B-A3B-Q4_K_M", 6, Samples(3, 13)),  # no pattern
        ("DeepSeek-V3.1-Q4_K_M", 6, None),
    ],
)
def test_parts_are_whole_periods_that_llama_cpp_can_lay_out(
    name: str, most_gib: int, samples: Samples | None, tmp_path: Path
) -> None:
    header = open_header(DATA / "headers" / f"{name}.gguf.hdr")
    anatomy = make_anatomy(header)
    assert choose_samples(anatomy, most_gib << 30) == samples
    if samples is None:
        return
    part = first_layers(header, samples.large)
    cut = make_anatomy(part)
    assert (cut.n_layer, cut.n_layer_mtp) == (samples.large, 0)
    assert [layer.mixer for layer in cut.layers] == [a.mixer for a in anatomy.layers[: samples.large]]
    assert cut.weights_bytes <= most_gib << 30
    head, size = hollow_file(part, cut.n_vocab)
    assert len(read_header(io.BytesIO(head), size).tensors) == len(part.tensors)
    path = tmp_path / "part.gguf"
    path.write_bytes(head)
    with path.open("r+b") as file:
        file.truncate(size)
    assert dry_run([path], Settings(n_ctx=512), cut.arch).bytes_of("compute") > 0


@pytest.mark.parametrize("name", ["gpt-oss-20b-MXFP4", "OLMoE-1B-7B-Q4_K_M", "Gemma-3-27B-Q4_K_M"])
def test_parts_are_small_but_no_farther_from_the_whole_than_their_noise_allows(name: str) -> None:
    found = HeaderOf(name, open_header(DATA / "headers" / f"{name}.gguf.hdr"))
    chosen = choose_parts(found, machine(64), Wishes())
    n_layer, (small, large) = chosen.plan.anatomy.n_layer, (chosen.samples.small, chosen.samples.large)
    assert (n_layer - large) / (large - small) <= 10
    whole_bytes = chosen.plan.anatomy.weights_bytes
    assert make_anatomy(first_layers(found.header, large)).weights_bytes < 0.45 * whole_bytes


def test_parts_do_not_stand_for_layers_in_several_places() -> None:
    found = HeaderOf("moe", open_header(DATA / "headers" / "Qwen3-30B-A3B-Q4_K_M.gguf.hdr"))
    with pytest.raises(DoesNotFit, match="several places"):
        choose_parts(found, machine(64, 12), Wishes())


def test_weights_that_are_mapped_and_copied_count_once() -> None:
    plan = make_plan(MOE, machine(64), Wishes())
    weights = plan.memory[-1].weights_bytes
    buffers = [
        BufferSize("CPU_Mapped", "weights", weights - 100),
        BufferSize("CPU_REPACK", "weights", weights - 300),
    ]
    use = memory_use(plan, buffers)[-1]
    assert (use.device, use.parts["weights"]) == ("CPU", weights)


def test_copies_in_a_layout_of_the_processors_own_are_counted() -> None:
    tensors = [tensor("token_embd.weight", (256, 8), "Q4_K"), tensor("blk.0.ffn_up.weight", (256, 8), "Q4_K")]
    assert repacked_bytes(tensors, "x86_64") == 8 * 144
    assert repacked_bytes(tensors, "riscv64") == 0


def test_a_line_through_two_parts_and_how_far_off_it_may_be() -> None:
    line = Line((10, 25.0), (20, 45.0))  # 2 a layer, and 5
    assert line.at(60) == pytest.approx(125)
    assert line.error_at(60, 1.0, 0.0) == pytest.approx(4.0)
    assert line.error_at(20, 1.0, 0.5) == pytest.approx(0.5)
    assert Line((10, 25.0), (20, 24.0)).at(60) == 24.0  # noise is no speed-up


def test_the_whole_and_its_parts_are_measured_by_header_alone(moetool_here: Moetool) -> None:
    flags = ("bench", "demo", "--header-only", "-p", "32", "-n", "4", "-r", "2", "-t", "1", "-o", "json")
    whole = moetool_here(*flags).document["data"]
    parts = moetool_here(*flags, "--ram", "15000k").document["data"]
    for data in (whole, parts):
        prompt, decode = data["rows"]
        assert (prompt["n_prompt"], decode["n_gen"], prompt["model_filename"]) == (32, 4, "demo")
        assert prompt["avg_ts"] > 0
        assert prompt["memory_bytes"] == pytest.approx(prompt["predicted_memory_bytes"], rel=0.1)
        assert any("made up" in note for note in data["notes"])
        check_document(data)
    assert parts["rows"][0]["sampled_layers"] == "1, 3 of 4"
    assert parts["rows"][0]["model_size"] == whole["rows"][0]["model_size"]
    assert parts["rows"][0]["memory_bytes"] == pytest.approx(whole["rows"][0]["memory_bytes"], rel=0.02)


def test_a_quant_on_the_hub_is_measured_without_a_weight_of_it_here(
    moetool_here: Moetool, world: HubWorld
) -> None:
    data = demo_model_path().read_bytes()
    world.server.put("org/demo-GGUF", {"demo-Q8_0.gguf": data})
    flags = ("--header-only", "-p", "16", "-n", "2", "-r", "1", "-t", "1", "-o", "json")
    done = moetool_here("bench", "org/demo-GGUF:Q8_0", *flags, HF_ENDPOINT=world.server.url)
    assert done.code == 0, done.err
    prompt, decode = done.document["data"]["rows"]
    assert (prompt["model_filename"], decode["n_gen"]) == ("org/demo-GGUF:Q8_0", 2)
    assert prompt["avg_ts"] > 0
    assert any("would be downloaded" in note for note in done.document["data"]["notes"])
    assert not world.final_files()
    # Without a quant, that is the question; a file that is only a header will do as well.
    assert moetool_here("bench", "org/none-GGUF:Q8_0", *flags, HF_ENDPOINT=world.server.url).code == 5


def test_what_was_not_measured_by_header_alone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_only, "measure_settings", lambda *_: ([], ["Not measured, kv q8_0: no"]))
    matrix = Matrix(Wishes(n_threads=1), ({},), (SpeedTest(8, 0),), 1)
    assert "Not measured, kv q8_0: no" in header_only.measure_header("demo", matrix).notes
