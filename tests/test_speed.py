"""Predicted speed: what must hold for any machine and model, and published results inside the interval."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moetool import anatomy, gguf
from moetool.machine import Device, Machine
from moetool.memory import make_placement, place_tensors
from moetool.settings import Settings, TensorOverride
from moetool.speed import (
    Cache,
    DeviceWork,
    Lane,
    Load,
    Read,
    Where,
    Work,
    lane_kind,
    load_constants,
    make_lanes,
    make_target,
    make_work,
    predict_speed,
    predict_work,
)
from moetool.speed.constants import quant_group
from moetool.speed.predict import touched_bytes

HEADERS = Path(__file__).parent / "data" / "headers"
GB = 1e9


# --- by hand ------------------------------------------------------------------------------------------------


def read(billions: float, bits: float, quant: str = "Q4_K", used: float = 1.0) -> Read:
    held = 1e9 * billions * bits / 8
    return Read(quant, 1e9 * billions * used, held * used, held, routed=used < 1)


def whole(*reads: Read, n_layers: int = 32, n_moe: int = 0, caches: tuple[Cache, ...] = ()) -> Work:
    return Work((DeviceWork("D", reads, caches, n_layers=n_layers, n_moe=n_moe),), n_hops=1)


def lane(kind: str = "cuda", gb_s: float = 936.2, **more: float) -> Lane:
    return replace(Lane("D", kind, gb_s * GB), **more)  # type: ignore[arg-type]


def decode(work: Work, *lanes: Lane, depth: int = 0) -> float:
    speed = predict_work(work, lanes, Load(depth=depth))
    assert speed.decode_tok_s is not None
    return speed.decode_tok_s


def prompt(work: Work, *lanes: Lane, n_prompt: int = 512, n_ubatch: int = 512) -> float:
    speed = predict_work(work, lanes, Load(n_prompt, n_ubatch))
    assert speed.prompt_tok_s is not None
    return speed.prompt_tok_s


LLAMA_8B = whole(read(6.98, 4.7), read(0.53, 6.56, "Q6_K"))
QWEN_30B_A3B = whole(
    read(0.92, 4.8), read(0.31, 6.56, "Q6_K"), read(28.99, 4.85, used=8 / 128), n_layers=48, n_moe=48
)

# Published llama-bench results, tg128 at depth 0 (llama.cpp benches/mac-m2-ultra.md; XiongjieDai's GPU
# benchmarks; results files of an Arc Pro B70 and an RTX PRO 6000), with the data sheets' bandwidth.
PUBLISHED = [
    pytest.param(LLAMA_8B, "cuda", 936.2, 111.7, id="3090"),
    pytest.param(LLAMA_8B, "cuda", 1008.0, 127.7, id="4090"),
    pytest.param(LLAMA_8B, "metal", 800.0, 76.3, id="M2 Ultra"),
    pytest.param(LLAMA_8B, "vulkan", 640.0, 119.6, id="RX 9070 XT"),
    pytest.param(QWEN_30B_A3B, "vulkan", 608.0, 109.6, id="Arc Pro B70"),
    pytest.param(QWEN_30B_A3B, "cuda", 1792.0, 251.6, id="RTX PRO 6000"),
    pytest.param(QWEN_30B_A3B, "vulkan", 256.0, 86.1, id="Strix Halo"),
]


@pytest.mark.parametrize(("work", "kind", "gb_s", "measured"), PUBLISHED)
def test_published_results_lie_in_the_interval(work: Work, kind: str, gb_s: float, measured: float) -> None:
    speed = predict_work(work, [lane(kind, gb_s)])
    assert speed.decode_low is not None
    assert speed.decode_high is not None
    assert speed.decode_low <= measured <= speed.decode_high


def test_a_tiny_model_is_bound_by_layers_not_bytes() -> None:
    """8 MB over 8 layers on two cores: 0.2 ms of reading, and most of a millisecond of everything else."""
    work = Work((DeviceWork("CPU", (read(0.008, 8.5, "Q8_0"),), n_layers=8, n_moe=8),))
    tok_s = decode(work, Lane("CPU", "cpu", 40 * GB, measured=True, n_threads=2))
    assert 300 < tok_s < 2000


# --- what must hold -----------------------------------------------------------------------------------------

KINDS = st.sampled_from(sorted(load_constants().kernels))
QUANTS = st.sampled_from(["F16", "Q8_0", "Q6_K", "Q4_K", "Q4_0", "MXFP4", "IQ4_XS", "IQ2_XS"])


@settings(deadline=None)
@given(kind=KINDS, quant=QUANTS, billions=st.floats(0.1, 100.0), factor=st.floats(1.0, 4.0))
def test_more_to_read_is_never_faster(kind: str, quant: str, billions: float, factor: float) -> None:
    small, large = whole(read(billions, 4.0, quant)), whole(read(billions * factor, 4.0, quant))
    where = lane(kind, 300.0, n_threads=8)
    assert decode(large, where) <= decode(small, where)
    assert prompt(large, where) <= prompt(small, where)


@settings(deadline=None)
@given(kind=KINDS, quant=QUANTS, gb_s=st.floats(10.0, 3000.0), factor=st.floats(1.0, 4.0))
def test_more_bandwidth_is_never_slower(kind: str, quant: str, gb_s: float, factor: float) -> None:
    work = whole(read(7.0, 4.5, quant))
    assert decode(work, lane(kind, gb_s * factor)) >= decode(work, lane(kind, gb_s))
    assert prompt(work, lane(kind, gb_s * factor)) >= prompt(work, lane(kind, gb_s))


@settings(deadline=None)
@given(kind=KINDS, depth=st.integers(0, 100_000), more=st.integers(1, 100_000))
def test_depth_slows_down_and_a_window_stops_it(kind: str, depth: int, more: int) -> None:
    full, sliding = Cache(131072.0, 0, 524288.0), Cache(131072.0, 1024, 524288.0)
    deep = whole(read(7.0, 4.5), caches=(full,))
    assert decode(deep, lane(kind), depth=depth + more) < decode(deep, lane(kind), depth=depth)
    window = whole(read(7.0, 4.5), caches=(sliding,))
    assert decode(window, lane(kind), depth=1024 + more) == decode(window, lane(kind), depth=1024)


@settings(deadline=None)
@given(kind=KINDS, gb_s=st.floats(10.0, 3000.0))
def test_the_interval_holds_the_prediction(kind: str, gb_s: float) -> None:
    speed = predict_work(LLAMA_8B, [lane(kind, gb_s)])
    assert speed.decode_low < speed.decode_tok_s < speed.decode_high  # type: ignore[operator]
    assert speed.prompt_low < speed.prompt_tok_s < speed.prompt_high  # type: ignore[operator]


@settings(deadline=None)
@given(n_tokens=st.integers(1, 4096))
def test_a_batch_touches_at_most_all_experts(n_tokens: int) -> None:
    experts = read(28.99, 4.85, used=8 / 128)
    assert experts.n_bytes * 0.999 <= touched_bytes(experts, n_tokens) <= experts.held_bytes
    assert touched_bytes(read(1.0, 8.0), n_tokens) == pytest.approx(1e9)


def test_larger_batches_read_prompts_of_a_mixture_faster() -> None:
    assert prompt(QWEN_30B_A3B, lane(), n_prompt=2048, n_ubatch=2048) > prompt(QWEN_30B_A3B, lane())


def test_few_threads_can_be_slower_than_the_memory() -> None:
    work = whole(read(7.0, 4.5))
    one, many = (lane("cpu", 400.0, measured=True, n_threads=n) for n in (1, 64))
    assert decode(work, one) < decode(work, many) / 3


def test_data_sheets_promise_more_ram_than_can_be_measured() -> None:
    work = whole(read(7.0, 4.5))
    sheet, measured = (lane("cpu", 80.0, measured=m, n_threads=16) for m in (False, True))
    assert decode(work, sheet) < decode(work, measured)


# --- what is unknown ----------------------------------------------------------------------------------------


def test_unknown_bandwidth_is_no_guess() -> None:
    speed = predict_work(LLAMA_8B, [Lane("D", "cuda", None)])
    assert (speed.decode_tok_s, speed.prompt_tok_s, speed.decode_low, speed.prompt_high) == (None,) * 4
    assert "memory bandwidth of D is unknown" in speed.missing


def test_a_device_that_is_not_there_is_unknown_too() -> None:
    assert "unknown" in predict_work(LLAMA_8B, []).missing


EXPERTS_IN_RAM = Work(
    (
        DeviceWork("D", (read(1.2, 5.0),), n_layers=48, n_moe=48),
        DeviceWork("CPU", (read(29.0, 4.85, used=1 / 16),)),
    ),
    n_hops=97,
)


def test_an_unknown_link_leaves_only_the_prompt_open() -> None:
    ram = Lane("CPU", "cpu", 60 * GB, measured=True, n_threads=8)
    speed = predict_work(EXPERTS_IN_RAM, [lane(), ram])
    assert speed.decode_tok_s is not None
    assert speed.prompt_tok_s is None
    assert "link between RAM and D is unknown" in speed.missing
    assert predict_work(EXPERTS_IN_RAM, [lane(link_bytes_s=16 * GB), ram]).prompt_tok_s is not None


def test_experts_in_ram_cross_the_link_in_prompts() -> None:
    ram = Lane("CPU", "cpu", 60 * GB, measured=True, n_threads=8)
    slow, fast = (prompt(EXPERTS_IN_RAM, lane(link_bytes_s=gb_s * GB), ram) for gb_s in (8, 32))
    assert slow < fast / 2


def test_experts_in_ram_as_published() -> None:
    """Qwen3-30B-A3B Q4_K_M, experts of 40 of 48 layers in RAM: a Quadro RTX 5000 (448 GB/s, PCIe 3.0 x16) and
    two channels of DDR5-4000 gave 37.0 tok/s and 265 tok/s of prompt."""
    work = Work(
        (
            DeviceWork("D", (read(1.23, 5.2), read(28.99 / 6, 4.85, used=1 / 16)), n_layers=48, n_moe=48),
            DeviceWork("CPU", (read(28.99 * 5 / 6, 4.85, used=1 / 16),)),
        ),
        n_hops=81,
    )
    lanes = [lane("cuda", 448.0, link_bytes_s=15.75 * GB), Lane("CPU", "cpu", 64 * GB, n_threads=6)]
    speed = predict_work(work, lanes)
    assert speed.decode_low <= 37.0 <= speed.decode_high  # type: ignore[operator]
    assert speed.prompt_low <= 265 <= speed.prompt_high  # type: ignore[operator]


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "description", "kind"),
    [
        ("CPU", "", "cpu"),
        ("CUDA0", "NVIDIA GeForce RTX 3090", "cuda"),
        ("CUDA1", "NVIDIA H100 80GB HBM3", "cuda_hbm"),
        ("CUDA0", "NVIDIA RTX A6000", "cuda"),
        ("ROCm0", "AMD Radeon RX 7900 XTX", "rocm"),
        ("Vulkan3", "", "vulkan"),
        ("MTL0", "Apple M3 Max", "metal"),
        ("Metal", "", "metal"),
        ("RPC0", "CPU at 10.0.0.2:50052", "cpu"),
        ("RPC0", "CUDA at 10.0.0.2:50052", "cuda"),
        ("RPC0", "10.0.0.2:50052", "cpu"),
        ("SYCL0", "", "other"),
        ("", "", "other"),
    ],
)
def test_kinds_of_devices(name: str, description: str, kind: str) -> None:
    assert lane_kind(name, description) == kind


@pytest.mark.parametrize(
    ("quant", "group"),
    [
        ("BF16", "float"),
        ("Q8_0", "simple"),
        ("MXFP4", "simple"),
        ("Q6_K", "k"),
        ("IQ4_XS", "k"),
        ("IQ2_XS", "iq"),
    ],
)
def test_groups_of_types(quant: str, group: str) -> None:
    assert quant_group(quant) == group


# --- from a header ------------------------------------------------------------------------------------------


def load(name: str) -> anatomy.Anatomy:
    return anatomy.make_anatomy(gguf.open_header(HEADERS / f"{name}.gguf.hdr"))


CPU = Device("CPU", "a CPU", "cpu", 64 << 30, 60 << 30, 50 * GB, "measured")
CARD = Device("CUDA0", "NVIDIA GeForce RTX 3090", "gpu", 24 << 30, 23 << 30, 936 * GB, "nvml", 25 * GB)
MACHINE = Machine((CPU, CARD), "a CPU", 8, 8, 64 << 30, 60 << 30, 1 << 40, "linux", "x86_64")
ALL = Settings(devices=("CUDA0",), n_gpu_layers=999)
EXPERTS = replace(ALL, tensor_overrides=(TensorOverride(r"ffn_(up|down|gate)_exps", "CPU"),))


def where(model: anatomy.Anatomy, settings: Settings) -> Where:
    placement = make_placement(model, settings, MACHINE.devices)
    return Where(place_tensors(model, settings, MACHINE.devices), placement.layers, placement.output)


@pytest.mark.parametrize("name", ["Qwen3-30B-A3B-Q4_K_M", "Qwen3.5-35B-A3B-Q4_K_M", "gpt-oss-20b-MXFP4"])
def test_all_bytes_of_a_token_are_read(name: str) -> None:
    model = load(name)
    for wanted in (Settings(), ALL, EXPERTS, replace(ALL, n_gpu_layers=10)):
        work = make_work(model, wanted, where(model, wanted))
        total = sum(read.n_bytes for share in work.devices for read in share.reads)
        assert total == pytest.approx(model.bytes_per_token, rel=0.001)
        assert sum(share.n_layers for share in work.devices) == model.n_layer
        assert sum(share.n_moe for share in work.devices) == model.n_layer_moe


def test_hops_are_counted_where_experts_lie_in_ram() -> None:
    model = load("Qwen3-30B-A3B-Q4_K_M")
    assert make_work(model, Settings(), where(model, Settings())).n_hops == 0
    assert make_work(model, ALL, where(model, ALL)).n_hops == 1
    assert make_work(model, EXPERTS, where(model, EXPERTS)).n_hops == 1 + 2 * model.n_layer_moe


def test_placements_in_their_order() -> None:
    """All on the card is fastest, then experts in RAM, then all in RAM; a header.s prediction is whole."""
    model = load("Qwen3-30B-A3B-Q4_K_M")
    speeds = [predict_speed(model, s, where(model, s), MACHINE) for s in (ALL, EXPERTS, Settings())]
    rates = [speed.decode_tok_s or 0.0 for speed in speeds]
    assert rates == sorted(rates, reverse=True)
    assert 100 < rates[0] < 250
    assert all(speed.missing == "" and "no calibration" in speed.basis for speed in speeds)


def test_fewer_experts_are_faster() -> None:
    model = load("Qwen3-30B-A3B-Q4_K_M")
    half = replace(ALL, experts=4)
    fewer, all_of_them = (predict_speed(model, s, where(model, s), MACHINE) for s in (half, ALL))
    assert fewer.decode_tok_s > all_of_them.decode_tok_s  # type: ignore[operator]


def test_narrow_caches_help_at_depth() -> None:
    model = load("Qwen3-30B-A3B-Q4_K_M")
    narrow = replace(ALL, type_k="q8_0", type_v="q8_0")
    at = Load(depth=30_000)
    wide_speed, narrow_speed = (
        predict_speed(model, s, where(model, s), MACHINE, load=at).decode_tok_s for s in (ALL, narrow)
    )
    assert narrow_speed > wide_speed  # type: ignore[operator]


def test_lanes_of_a_machine() -> None:
    cpu, card = make_lanes(MACHINE, n_threads=4)
    assert (cpu.kind, cpu.measured, cpu.n_threads) == ("cpu", True, 4)
    assert (card.kind, card.measured, card.link_bytes_s) == ("cuda", False, 25 * GB)
    assert make_lanes(MACHINE)[0].n_threads == MACHINE.n_threads
    # More threads than cores do not compute more.
    assert make_lanes(MACHINE, n_threads=500)[0].n_threads == max(MACHINE.n_cores, MACHINE.n_threads)


def test_an_integrated_gpu_needs_no_link() -> None:
    shared = Device("Vulkan0", "Radeon 8060S", "igpu", 64 << 30, 60 << 30, 256 * GB, "table: …")
    assert make_lanes(replace(MACHINE, devices=(CPU, shared)))[1].link_bytes_s == 256 * GB


def test_few_threads_cannot_ask_for_all_the_memory_gives() -> None:
    cpu = replace(CPU, bandwidth_bytes_s=200 * GB, thread_bandwidth_bytes_s=30 * GB)
    machine = replace(MACHINE, devices=(cpu,), n_cores=16, n_threads=16)
    rates = [make_lanes(machine, n)[0].bandwidth_bytes_s for n in (1, 4, 16)]
    assert rates == [30 * GB, 120 * GB, 200 * GB]


def test_what_crosses_the_way_to_a_device() -> None:
    """As counted on a worker's connection: 1 fetch a token with all layers there, 2 for each layer and 1 with
    experts in RAM, when each piece of the graph is described anew besides."""
    model = load("Qwen3-30B-A3B-Q4_K_M")
    together, apart = (make_work(model, s, where(model, s)).devices[0] for s in (ALL, EXPERTS))
    assert (together.n_waits, together.token_link_bytes) == (1, 4 * model.n_embd)
    assert together.batch_link_bytes == 4 * model.n_vocab
    assert apart.n_waits == 2 * model.n_layer_moe + 1
    assert apart.token_link_bytes == (1 + 2 * model.n_layer_moe) * 4 * model.n_embd
    assert apart.batch_link_bytes > together.batch_link_bytes + model.n_layer_moe * 30_000


def test_a_worker_is_slowed_down_by_its_link_only() -> None:
    model = load("Qwen3-30B-A3B-Q4_K_M")

    def token_s(latency_s: float | None, bytes_s: float | None) -> float:
        card = replace(CARD, description="CUDA at far:1", link_latency_s=latency_s, link_bytes_s=bytes_s)
        card = replace(card, name="RPC0")
        machine = replace(MACHINE, devices=(CPU, card))
        settings = replace(ALL, devices=("RPC0",))
        placement = make_placement(model, settings, machine.devices)
        there = Where(place_tensors(model, settings, machine.devices), placement.layers, placement.output)
        return 1 / predict_speed(model, settings, there, machine).decode_tok_s  # type: ignore[operator]

    near, far, narrow = token_s(1e-9, 1e15), token_s(0.005, 1e15), token_s(1e-9, 125e6)
    assert far - near == pytest.approx(0.005, rel=0.01)
    assert narrow - near == pytest.approx(4 * (model.n_vocab + model.n_embd) / 125e6, rel=0.01)


def test_the_output_and_the_last_feed_forward_are_met_by_a_prompts_last_token_only() -> None:
    """build_inp_out_ids, src/llama-graph.cpp: rows without logits are dropped before them."""
    model = load("OLMoE-1B-7B-Q4_K_M")
    on_card = Where({t.info.name: "D" for t in model.tensors}, ("D",) * len(model.layers), "D")
    work = make_work(model, Settings(), on_card)
    (share,) = work.devices
    last_only = sum(read.held_bytes for read in share.reads if read.last_only)
    feed_forward = ("router", "routed experts", "shared experts", "dense ffn")
    last = len(model.layers) - 1
    behind = {"output.weight", "output_norm.weight"}
    expected = [
        t for t in model.tensors if t.info.name in behind or (t.layer == last and t.role in feed_forward)
    ]
    assert last_only == sum(t.info.n_bytes for t in expected) > 0
    all_of_it = replace(share, reads=tuple(replace(read, last_only=False) for read in share.reads))
    lanes = [Lane("D", "cuda", 936 * GB)]
    less, more = predict_work(work, lanes), predict_work(replace(work, devices=(all_of_it,)), lanes)
    assert less.decode_tok_s == more.decode_tok_s
    assert less.prompt_tok_s is not None and more.prompt_tok_s is not None
    assert less.prompt_tok_s > 1.05 * more.prompt_tok_s


def test_devices_work_in_llama_cpps_order() -> None:
    """The first one multiplies experts from RAM: which that is must not change from run to run."""
    model, used = load("OLMoE-1B-7B-Q4_K_M"), ("CUDA7", "CUDA1", "CUDA3", "CUDA0")
    where = Where({t.info.name: "CPU" for t in model.tensors}, (used * 4), "CUDA1")
    work = make_work(model, replace(ALL, devices=used), where)
    assert [share.device for share in work.devices] == [*used, "CPU"]


def test_a_target_names_where_the_model_lies() -> None:
    model = load("OLMoE-1B-7B-Q4_K_M")
    assert make_target(model, ALL, MACHINE).devices == ("CUDA0",)
    assert make_target(model, Settings(), MACHINE).devices == ("CPU",)
    assert make_target(model, Settings(n_threads=3), MACHINE).n_threads == 3
    assert make_target(model, Settings(), MACHINE).n_threads == MACHINE.n_threads


# --- measured -----------------------------------------------------------------------------------------------


def test_cpu_kernels_as_measured() -> None:
    """scripts/measure_cpu_speed.py on two cores with AVX-512, synthetic models of 20 types."""
    errors: dict[str, list[float]] = {}
    for line in (Path(__file__).parent / "data" / "cpu_speed.jsonl").read_text().splitlines():
        record = json.loads(line)
        share = record["work"]["devices"][0]
        reads = tuple(Read(**read) for read in share.pop("reads"))
        caches = tuple(Cache(**cache) for cache in share.pop("caches"))
        work = Work((DeviceWork(reads=reads, caches=caches, **share),), record["work"]["n_hops"])
        speed = predict_work(work, [Lane(**record["lane"])])
        rate = speed.prompt_tok_s if record["n_prompt"] else speed.decode_tok_s
        assert rate is not None
        errors.setdefault(record["test"], []).append(abs(rate / record["measured_tok_s"] - 1))
    assert len(errors["tg64"]) == len(errors["pp512"]) == 109
    assert statistics.median(errors["tg64"]) < 0.12
    assert statistics.median(errors["pp512"]) < 0.10


def test_a_workers_device_goes_by_what_and_where_it_is() -> None:
    """ "RPC0" is whatever worker was named first: two workers are not one, and their order says nothing."""
    model = load("OLMoE-1B-7B-Q4_K_M")
    places = ("CPU at 10.0.0.2:50052", "CUDA at 10.0.0.3:50052", "CUDA at 10.0.0.3:50052", "")
    lent = [Device(f"RPC{i}", place, "gpu", 1 << 34, 1 << 34) for i, place in enumerate(places)]

    def named(devices: list[Device], *used: str) -> tuple[str, ...]:
        machine = replace(MACHINE, devices=(*devices, *MACHINE.devices))
        return make_target(model, replace(ALL, devices=used), machine).devices

    first, second, third = named(lent, "RPC0", "RPC1", "RPC2")
    assert first == "RPC0 CPU at 10.0.0.2:50052"
    assert (second, third) == (f"RPC0 {places[1]}", f"RPC1 {places[1]}")
    turned = [replace(lent[n], name=f"RPC{i}") for i, n in enumerate((1, 2, 0))]
    assert named(turned, "RPC0", "RPC1", "RPC2") == (second, third, first)
    assert named(lent, "RPC3", "CUDA0") == ("RPC0 ", "CUDA0")  # a machine file may say nothing of a worker
