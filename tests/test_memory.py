"""What llama.cpp allocated for published models, row by row, and the rules one by one."""

from __future__ import annotations

import csv
import io
import json
import time
from collections import Counter
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path

import hypothesis
import pytest
from gguf_build import Builder, Row, text, u32
from hypothesis import given
from hypothesis import strategies as st

from moetool import gguf
from moetool.anatomy import Anatomy, kv_bytes_per_token, make_anatomy, state_bytes
from moetool.errors import UsageError
from moetool.machine import Device
from moetool.memory import DeviceMemory, device_memory, make_placement, place_tensors
from moetool.memory import compute as graph
from moetool.quants import BY_NAME
from moetool.settings import Settings, TensorOverride

DATA = Path(__file__).parent / "data"
MIB = 1 << 20
CPU = Device("CPU", "", "cpu", 1 << 40, 1 << 40)
WORKER = Device("RPC0", "", "gpu", 1 << 40, 1 << 40)
EXPERTS_ON_CPU = TensorOverride(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps", "CPU")

with (DATA / "memory_truth.csv").open(newline="") as stream:
    ROWS = list(csv.DictReader(stream))


@cache
def model(name: str) -> Anatomy:
    return make_anatomy(gguf.open_header(next((DATA / "headers").glob(f"{name}-*.hdr"))))


def settings_of(row: dict[str, str]) -> Settings:
    n_layer = len(model(row["model"]).layers)
    layers = {"cpu": 0, "rpc": n_layer + 1, "rpc-half": n_layer // 2, "rpc-moe": n_layer + 1}
    return Settings(
        n_ctx=int(row["n_ctx"]),
        n_seq=int(row["n_seq_max"]),
        devices=() if row["device"] == "cpu" else ("RPC0",),
        n_gpu_layers=layers[row["device"]],
        tensor_overrides=(EXPERTS_ON_CPU,) if row["device"] == "rpc-moe" else (),
        type_k=row["type_k"],
        type_v=row["type_v"],
        n_ubatch=int(row["n_ubatch"]),
        n_outputs_max=int(row["n_outputs_max"]),
        flash_attn=row["flash_attn"] == "on",
        kv_unified=row["kv_unified"] == "1",
        swa_full=row["swa_full"] == "1",
        load_mtp=row["load_mtp"] == "1",
    )


def by_device(json_text: str) -> dict[str, int]:
    """llama.cpp's names of buffers, folded to devices."""
    found: Counter[str] = Counter()
    for name, n_bytes in json.loads(json_text).items():
        found["CPU" if name.startswith("CPU") else name.split("[")[0]] += n_bytes
    return {name: n_bytes for name, n_bytes in found.items() if n_bytes}


@cache
def predicted(number: int) -> tuple[DeviceMemory, ...]:
    """What we say to row `number` of ROWS."""
    row = ROWS[number]
    devices = [CPU] if row["device"] == "cpu" else [CPU, WORKER]
    return device_memory(model(row["model"]), settings_of(row), devices)


# --- against llama.cpp --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({row["model"] for row in ROWS}))
def test_weights_caches_and_states_are_exact(name: str) -> None:
    for number, row in ((n, row) for n, row in enumerate(ROWS) if row["model"] == name):
        memory = predicted(number)
        weights = {m.device: m.weights_bytes for m in memory if m.weights_bytes}
        caches = {m.device: m.kv_bytes + m.state_bytes for m in memory if m.kv_bytes + m.state_bytes}
        assert weights == by_device(row["weights_loaded_by_device"]), row
        assert caches == by_device(row["context_bytes_by_device"]), row
        assert sum(m.kv_bytes for m in memory) == int(row["kv_bytes"]), row
        assert sum(m.state_bytes for m in memory) == int(row["rs_bytes"]), row


def test_compute_buffers_are_near() -> None:
    errors = []
    for number, row in enumerate(ROWS):
        if row["n_outputs_max"] != "1" or row["flash_attn"] != "on":
            continue
        ours = {m.device: m.compute_bytes for m in predicted(number)}
        truth = by_device(row["compute_bytes_by_device"])
        errors += [abs(ours[device] / n_bytes - 1) for device, n_bytes in truth.items()]
    errors.sort()
    assert len(errors) > 60
    assert errors[len(errors) // 2] < 0.001
    assert errors[-1] < 0.08


@pytest.fixture
def dry(monkeypatch: pytest.MonkeyPatch) -> None:
    """As llama.cpp computes sizes without allocating: it forgets to which device norms are bound."""
    monkeypatch.setattr(graph, "_binds_norms", lambda *_: False)


@pytest.mark.usefixtures("dry")
def test_gpus_with_weights_on_the_cpu_and_several_gpus() -> None:
    """From llama.cpp with its RPC back end patched to take over large batches as CUDA does (offload_op):

    experts on the CPU, half of the layers, none, two devices with all layers (four batches at once).
    """
    errors = []
    for line in (DATA / "memory_gpus.jsonl").read_text().splitlines():
        row = json.loads(line)
        chosen = dict(row["settings"])
        rules = tuple(TensorOverride(p, "CPU") for p in chosen.pop("cpu_overrides", []))
        devices = [CPU, *(Device(f"CUDA{i}", "", "gpu", 1 << 40, 1 << 40) for i in range(row["gpus"]))]
        asked = Settings(**chosen, devices=tuple(d.name for d in devices[1:]), tensor_overrides=rules)
        memory = {m.device: m for m in device_memory(model(row["model"].rsplit("-", 1)[0]), asked, devices)}
        assert {n: memory[n].weights_bytes for n in row["weights"]} == row["weights"], row
        errors += [memory[n].compute_bytes / true - 1 for n, true in row["compute"].items() if true]
    sizes = sorted(abs(error) for error in errors)
    assert len(sizes) > 150
    assert sizes[len(sizes) // 2] < 0.001
    assert sizes[int(0.9 * len(sizes))] < 0.03
    assert sizes[-1] < 0.45


def test_small_models_loaded_for_real() -> None:
    """llama.cpp's own small files on the CPU and over one or two workers, really allocated: Falcon-H1's two
    mixers, learned positions, norms bound to the device of their layer, batches as long as the context, Qwen
    4's tables of blocks and hashed rows."""
    for line in (DATA / "memory_archs.jsonl").read_text().splitlines():
        row = json.loads(line)
        chosen = dict(row["settings"])
        rules = tuple(TensorOverride(p, "CPU") for p in chosen.pop("cpu_overrides", []))
        devices = [CPU, *(replace(WORKER, name=f"RPC{i}") for i in range(row["workers"]))]
        chosen["tensor_split"] = tuple(chosen.get("tensor_split", ()))
        asked = Settings(**chosen, devices=tuple(d.name for d in devices[1:]), tensor_overrides=rules)
        anatomy = make_anatomy(gguf.open_header(DATA / "archs" / f"{row['model']}.hdr"))
        memory = {m.device: m for m in device_memory(anatomy, asked, devices)}
        assert {n: memory[n].weights_bytes for n in row["weights"]} == row["weights"], row
        assert {n: memory[n].kv_bytes + memory[n].state_bytes for n in row["context"]} == row["context"], row
        for name, true in row["compute"].items():
            assert memory[name].compute_bytes == pytest.approx(true, rel=0.002, abs=1 << 12), (row, name)


def test_norms_are_computed_where_their_layer_is() -> None:
    """A real load of all layers on two devices sends one copy of what a layer hands on, for each of four
    batches; a dry run sends two."""
    dealt = Settings(n_ctx=8192, devices=("GPU0", "GPU1"), n_gpu_layers=99)
    bound = device_memory(model("OLMoE"), dealt, gpus(8, 8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "_binds_norms", lambda *_: False)
        unbound = device_memory(model("OLMoE"), dealt, gpus(8, 8))
    copies = [a.compute_bytes - b.compute_bytes for a, b in zip(unbound, bound, strict=True)]
    assert copies == [0, 0, 4 * 4 * 2048 * 512]


@pytest.mark.usefixtures("dry")
def test_hybrids_of_which_a_part_is_offloaded() -> None:
    """From llama.cpp without allocating, one or two workers: where the last layer on the CPU attends and the
    first one elsewhere recurs, the worker attends for the CPU, and needs room for a copy of its cache."""
    errors = []
    for line in (DATA / "memory_partial.jsonl").read_text().splitlines():
        row = json.loads(line)
        workers = tuple(f"RPC{i}" for i in range(row["workers"]))
        devices = [CPU, *(replace(WORKER, name=name) for name in workers)]
        asked = Settings(**row["settings"], devices=workers, tensor_split=(1.0,) * len(workers))
        memory = {m.device: m for m in device_memory(model(row["model"].rsplit("-", 1)[0]), asked, devices)}
        assert {n: memory[n].weights_bytes for n in row["weights"]} == row["weights"], row
        assert {n: memory[n].kv_bytes + memory[n].state_bytes for n in row["context"]} == row["context"], row
        errors += [memory[n].compute_bytes / true - 1 for n, true in row["compute"].items()]
    sizes = sorted(abs(error) for error in errors)
    assert len(sizes) > 150
    assert sizes[len(sizes) // 2] < 0.001
    assert sizes[int(0.95 * len(sizes))] < 0.02
    assert sizes[-1] < 0.22


def test_figures_of_published_logs() -> None:
    """Qwen3.6-35B on CUDA: CUDA0 compute 493, context 72, host 9 MiB; its size twin here the same."""
    qwen = model("Qwen3.5-35B-A3B")
    settings = Settings(n_ctx=512, devices=("RPC0",), n_gpu_layers=99, n_outputs_max=0)
    cpu, gpu = device_memory(qwen, settings, [CPU, WORKER])
    assert gpu.compute_bytes / MIB == pytest.approx(493, rel=0.01)
    assert (gpu.kv_bytes + gpu.state_bytes) / MIB == pytest.approx(72.8, abs=0.1)
    assert cpu.compute_bytes / MIB == pytest.approx(8.5, abs=0.1)
    assert cpu.output_bytes == 4 * 248_320


def test_a_placement_takes_milliseconds() -> None:
    big = model("DeepSeek-V3.1")
    settings = Settings(devices=("RPC0",), n_gpu_layers=99, tensor_overrides=(EXPERTS_ON_CPU,))
    device_memory(big, settings, [CPU, WORKER])
    start = time.process_time()
    for _ in range(5):
        device_memory(big, settings, [CPU, WORKER])
    assert (time.process_time() - start) / 5 < 0.05  # 3 ms on an idle core; room for a busy one


# --- layers and tensors on devices --------------------------------------------------------------------------


def gpus(*free_gib: int) -> list[Device]:
    return [CPU, *(Device(f"GPU{i}", "", "gpu", gib << 30, gib << 30) for i, gib in enumerate(free_gib))]


def layer_counts(settings: Settings, devices: list[Device]) -> Counter[str]:
    placement = make_placement(model("OLMoE"), settings, devices)
    return Counter((*placement.layers, placement.output))


@pytest.mark.parametrize(
    ("n_gpu_layers", "on_gpu"),
    [(0, 0), (1, 1), (5, 5), (16, 16), (17, 17), (99, 17)],
)
def test_gpu_layers_count_the_output_first(n_gpu_layers: int, on_gpu: int) -> None:
    """OLMoE has 16 layers; the output is the first to go."""
    settings = Settings(devices=("GPU0",), n_gpu_layers=n_gpu_layers)
    assert layer_counts(settings, gpus(8))["GPU0"] == on_gpu
    placement = make_placement(model("OLMoE"), settings, gpus(8))
    assert placement.output == ("GPU0" if on_gpu else "CPU")
    assert placement.layers == ("CPU",) * (17 - max(on_gpu, 1)) + ("GPU0",) * (max(on_gpu, 1) - 1)


def test_layers_are_dealt_out_by_free_memory_or_by_a_split() -> None:
    everything = Settings(devices=("GPU0", "GPU1"), n_gpu_layers=99)
    assert layer_counts(everything, gpus(24, 8)) == {"GPU0": 13, "GPU1": 4}
    assert layer_counts(replace(everything, tensor_split=(1, 1)), gpus(24, 8)) == {"GPU0": 9, "GPU1": 8}
    assert layer_counts(replace(everything, tensor_split=(1,)), gpus(24, 8)) == {"GPU0": 17}
    assert layer_counts(replace(everything, tensor_split=(0, 1)), gpus(24, 8)) == {"GPU1": 17}
    assert layer_counts(replace(everything, devices=("GPU1",)), gpus(24, 8)) == {"GPU1": 17}


def test_no_device_named_is_none_as_for_the_engine() -> None:
    everything = Settings(n_gpu_layers=99)
    assert layer_counts(everything, gpus(24)) == {"CPU": 17}
    assert device_memory(model("OLMoE"), everything, gpus(24)) == device_memory(
        model("OLMoE"), Settings(), [CPU]
    )


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="no device CUDA7"):
        make_placement(model("OLMoE"), Settings(devices=("CUDA7",), n_gpu_layers=3), gpus(8))


def test_the_first_matching_override_wins() -> None:
    rules = (
        TensorOverride(r"blk\.3\.ffn_up_exps", "GPU1"),
        TensorOverride("exps", "CPU"),
        TensorOverride("ffn", "GPU1"),
    )
    both = ("GPU0", "GPU1")
    settings = Settings(devices=both, n_gpu_layers=99, tensor_overrides=rules, tensor_split=(1, 0))
    placed = place_tensors(model("OLMoE"), settings, gpus(8, 8))
    assert placed["blk.3.ffn_up_exps.weight"] == "GPU1"
    assert placed["blk.3.ffn_down_exps.weight"] == "CPU"
    assert placed["blk.3.ffn_gate_inp.weight"] == "GPU1"
    assert placed["blk.3.attn_q.weight"] == "GPU0"
    assert placed["token_embd.weight"] == "CPU"
    assert placed["output.weight"] == "GPU0"


def test_a_pattern_that_is_no_pattern() -> None:
    rule = TensorOverride("blk.(", "CPU")
    with pytest.raises(UsageError, match="not a regular expression"):
        device_memory(model("OLMoE"), Settings(tensor_overrides=(rule,)), [CPU])


def test_a_tied_embedding_is_held_twice() -> None:
    gemma = model("Gemma-3-27B")
    embedding = next(t.info.n_bytes for t in gemma.tensors if t.info.name == "token_embd.weight")
    settings = {n: Settings(devices=("GPU0",), n_gpu_layers=n) for n in (0, 99)}
    held = {n: device_memory(gemma, asked, gpus(24)) for n, asked in settings.items()}
    weights = {n: sum(m.weights_bytes for m in memory) for n, memory in held.items()}
    assert weights[99] - weights[0] == embedding
    assert place_tensors(gemma, settings[99], gpus(24))["token_embd.weight"] == "GPU0"


@pytest.mark.parametrize(("arch", "home"), [("bloom", "GPU0"), ("lfm2moe", "GPU1")])
def test_a_norm_of_the_embeddings_is_the_first_layers_and_lfm2s_the_last(arch: str, home: str) -> None:
    olmoe = model("OLMoE")
    norm = next(tensor for tensor in olmoe.tensors if tensor.info.name == "output_norm.weight")
    renamed = replace(norm, info=replace(norm.info, name="token_embd_norm.weight"))
    changed = replace(olmoe, arch=arch, tensors=(renamed,))
    settings = Settings(devices=("GPU0", "GPU1"), n_gpu_layers=99)
    placed = place_tensors(changed, settings, gpus(8, 8))
    assert placed == {"token_embd_norm.weight": home}


def test_next_token_layers_are_loaded_when_asked_for() -> None:
    glm = model("GLM-4.5-Air")
    without, loaded = (device_memory(glm, Settings(load_mtp=mtp), [CPU])[0] for mtp in (False, True))
    assert loaded.weights_bytes - without.weights_bytes == glm.bytes_by_role["mtp"] > 0
    assert loaded.kv_bytes == without.kv_bytes
    assert not any("nextn" in name for name in place_tensors(glm, Settings(), [CPU]))


# --- caches -------------------------------------------------------------------------------------------------


def kv(anatomy: Anatomy, settings: Settings) -> int:
    return device_memory(anatomy, settings, [CPU])[0].kv_bytes


def test_contexts_are_padded() -> None:
    olmoe = model("OLMoE")
    a_cell = kv_bytes_per_token(olmoe, BY_NAME["F16"], BY_NAME["F16"])
    assert kv(olmoe, Settings(n_ctx=1)) == 256 * a_cell
    assert kv(olmoe, Settings(n_ctx=5000)) == 5120 * a_cell
    assert kv(olmoe, Settings(n_ctx=0)) == olmoe.n_ctx_train * a_cell
    assert kv(olmoe, Settings(n_ctx=1000, n_seq=3)) == 3 * 512 * a_cell
    assert kv(olmoe, Settings(n_ctx=1000, n_seq=3, kv_unified=True)) == 1024 * a_cell


def test_cache_types() -> None:
    olmoe = model("OLMoE")
    whole = kv(olmoe, Settings(type_k="f32", type_v="f32"))
    for name, bits in {"bf16": 16, "q8_0": 8.5, "q5_1": 6, "q5_0": 5.5, "q4_1": 5, "iq4_nl": 4.5}.items():
        assert kv(olmoe, Settings(type_k=name, type_v=name)) == whole * bits / 32
    assert kv(olmoe, Settings(type_k="q8_0", type_v="f16")) == whole * 12.25 / 32


def test_a_sliding_window_keeps_the_window_and_a_batch() -> None:
    """gpt-oss: 12 of 24 layers keep 128 tokens; with all kept there is no difference between layers."""
    oss = model("gpt-oss-20b")
    row = 2 * 2 * 8 * 64
    assert kv(oss, Settings(n_ctx=32768)) == 12 * row * (32768 + 768)
    assert kv(oss, Settings(n_ctx=32768, n_ubatch=2048)) == 12 * row * (32768 + 2304)
    assert kv(oss, Settings(n_ctx=32768, swa_full=True)) == 24 * row * 32768
    assert kv(oss, Settings(n_ctx=32768, n_seq=4)) == 12 * row * 4 * (8192 + 768)
    assert kv(oss, Settings(n_ctx=32768, n_seq=4, kv_unified=True)) == 12 * row * (32768 + 1024)


def test_states_are_kept_for_each_sequence() -> None:
    nemotron = model("Nemotron-3-Nano-30B")
    for n_seq in (1, 4):
        memory = device_memory(nemotron, Settings(n_seq=n_seq, n_ctx=8192), [CPU])[0]
        assert memory.state_bytes == state_bytes(nemotron, n_seq) == n_seq * state_bytes(nemotron)


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("OLMoE", {"type_v": "q8_0", "flash_attn": False}, "needs flash attention"),
        ("DeepSeek-V3.1", {"type_k": "q8_0"}, "one type for K and V"),
        ("OLMoE", {"type_k": "q9_9"}, "not a cache type"),
        ("gpt-oss-20b", {"type_k": "q4_K"}, "multiple of 256"),
    ],
)
def test_refused_as_llama_cpp_does(name: str, wrong: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        device_memory(model(name), replace(Settings(), **wrong), [CPU])  # type: ignore[arg-type]


# --- compute buffers ----------------------------------------------------------------------------------------


def compute(anatomy: Anatomy, settings: Settings) -> int:
    return device_memory(anatomy, settings, [CPU])[0].compute_bytes


def test_compute_buffers_grow_with_the_context_and_the_batch() -> None:
    qwen = model("Qwen3-30B-A3B")
    base = Settings(n_ctx=32768, n_ubatch=512)
    assert compute(qwen, replace(base, n_ctx=65536)) - compute(qwen, base) == 2 * 512 * 32768
    assert compute(qwen, replace(base, n_ubatch=1024)) == pytest.approx(2 * compute(qwen, base), rel=0.01)
    assert compute(qwen, replace(base, flash_attn=False)) > 15 * compute(qwen, base)
    assert compute(qwen, replace(base, n_outputs_max=0)) > 4 * 512 * qwen.n_vocab
    assert compute(qwen, replace(base, experts=4)) < compute(qwen, base)


def test_memory_adds_up() -> None:
    rows = device_memory(model("OLMoE"), Settings(devices=("GPU0",), n_gpu_layers=9), gpus(8))
    assert [row.device for row in rows] == ["CPU", "GPU0"]
    for row in rows:
        parts = (row.weights_bytes, row.kv_bytes, row.state_bytes, row.compute_bytes, row.output_bytes)
        assert row.total_bytes == sum(parts)
        assert min(parts) >= 0


def tiny(n_layer: int, head: int, n_head: int, n_ff: int, n_vocab: int) -> Anatomy:
    """A plain model of any size: keys as llama.cpp reads them, tensors as it wants them."""
    n_embd = head * n_head
    keys = {
        "block_count": n_layer,
        "context_length": 128,
        "embedding_length": n_embd,
        "feed_forward_length": n_ff,
        "attention.head_count": n_head,
        "vocab_size": n_vocab,
    }
    block = {f"attn_{part}": (n_embd, n_embd) for part in ("q", "k", "v", "output")}
    block |= {"ffn_gate": (n_embd, n_ff), "ffn_up": (n_embd, n_ff), "ffn_down": (n_ff, n_embd)}
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (n_embd, n_vocab), "output_norm": (n_embd,)}
    for index in range(n_layer):
        shapes |= {f"blk.{index}.{name}": shape for name, shape in block.items()}
        shapes |= {f"blk.{index}.{name}": (n_embd,) for name in ("attn_norm", "ffn_norm")}
    rows, at = [], 0
    for name, shape in shapes.items():
        rows.append(Row(f"{name}.weight", shape, 0, at))
        at += -(-4 * prod(shape) // 32) * 32
    metadata = {"general.architecture": text("llama")} | {f"llama.{k}": u32(v) for k, v in keys.items()}
    file = Builder(metadata=metadata, tensors=rows).file()
    return make_anatomy(gguf.read_header(io.BytesIO(file)))


@given(
    n_layer=st.integers(1, 6),
    head=st.integers(1, 9).map(lambda n: 8 * n),
    n_head=st.integers(1, 4),
    n_ff=st.integers(1, 300),
    n_vocab=st.integers(1, 300),
    n_gpu_layers=st.integers(0, 8),
    n_ctx=st.integers(0, 5000),
    n_ubatch=st.integers(1, 600),
    n_seq=st.integers(1, 5),
    n_outputs_max=st.integers(0, 5),
)
@hypothesis.settings(max_examples=40, deadline=None)
def test_any_model_anywhere(
    n_layer: int, head: int, n_head: int, n_ff: int, n_vocab: int, **choices: int
) -> None:
    """Whatever is asked, every device gets its share, and nothing is lost between them."""
    anatomy = tiny(n_layer, head, n_head, n_ff, n_vocab)
    chosen = Settings(devices=("GPU0", "GPU1"), **choices)  # type: ignore[arg-type]
    devices = gpus(2, 1)
    memory = device_memory(anatomy, chosen, devices)
    alone = device_memory(anatomy, replace(chosen, devices=(), n_gpu_layers=0), [CPU])
    assert sum(m.kv_bytes for m in memory) == sum(m.kv_bytes for m in alone)
    copied = sum(m.weights_bytes for m in memory) - sum(m.weights_bytes for m in alone)
    assert copied == (padded_size(anatomy, "token_embd.weight") if chosen.n_gpu_layers else 0)
    assert all(m.compute_bytes > 0 for m in memory)
    widest = 4 * min(chosen.n_ubatch, 2048) * anatomy.n_embd
    assert min(m.compute_bytes for m in memory) >= min(widest, 4 * anatomy.n_embd)


def padded_size(anatomy: Anatomy, name: str) -> int:
    n_bytes = next(t.info.n_bytes for t in anatomy.tensors if t.info.name == name)
    return -(-n_bytes // 32) * 32
