"""The engine on the demo model: what it loads, decodes, draws, refuses and frees."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from moetool.assets import demo_model_path
from moetool.engine.devices import device_pointer, list_devices, read_build
from moetool.engine.dry_run import dry_run
from moetool.engine.huge_pages import parse_ranges, without
from moetool.engine.measured import BufferSize, parse_buffers
from moetool.engine.model import Engine
from moetool.errors import ContextFull, EngineError, Interrupted, UsageError
from moetool.settings import Sampling, Settings, TensorOverride

DEMO = [demo_model_path()]
SETTINGS = Settings(n_ctx=512, n_threads=1)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(DEMO, SETTINGS, "qwen3moe") as loaded:
        yield loaded


def test_the_build_and_its_devices() -> None:
    build = read_build()
    assert "CPU" in build.backends
    assert build.n_devices == len(list_devices())
    cpu = next(device for device in list_devices() if device.kind == "cpu")
    assert cpu.name == "CPU"
    assert cpu.total_bytes > 0
    with pytest.raises(UsageError, match="CUDA7"):
        device_pointer("CUDA7")


def test_text_becomes_tokens_and_comes_back(engine: Engine) -> None:
    vocabulary = engine.vocabulary
    text = "Grüße, 世界 🙂\n\tcode {}"
    tokens = vocabulary.tokenize(text)
    assert b"".join(vocabulary.piece(t) for t in tokens).decode() == text


def test_control_tokens_in_text_are_text_unless_asked_for(engine: Engine) -> None:
    vocabulary = engine.vocabulary
    spelled = vocabulary.special_piece(vocabulary.eos).decode()
    assert vocabulary.tokenize(spelled, parse_special=True) == [vocabulary.eos]
    plain = vocabulary.tokenize(spelled)
    assert vocabulary.eos not in plain
    assert b"".join(vocabulary.piece(t) for t in plain).decode() == spelled
    assert vocabulary.is_end(vocabulary.eos)
    assert vocabulary.piece(vocabulary.eos) == b""


def test_decoding_in_one_batch_or_token_by_token_gives_the_same_logits(engine: Engine) -> None:
    tokens = engine.vocabulary.tokenize(
        "The capital of France is a city on a river, and many people live there now."
    )
    engine.rewind(0)
    engine.decode(tokens)
    at_once = engine.logits().copy()
    engine.rewind(0)
    for token in tokens:
        engine.decode([token])
    assert engine.tokens == tokens
    assert np.abs(engine.logits() - at_once).max() < 0.5
    assert engine.logits().argmax() == at_once.argmax()
    one_by_one = engine.logits().copy()
    engine.rewind(0)
    engine.decode_each(tokens)
    assert engine.tokens == tokens
    assert (engine.logits() == one_by_one).all()


def test_rewinding_forgets_what_came_after(engine: Engine) -> None:
    engine.rewind(0)
    engine.decode([5, 6, 7])
    expected = engine.logits().copy()
    engine.decode([8, 9])
    assert engine.rewind(2)
    engine.decode([7])
    assert engine.tokens == [5, 6, 7]
    assert np.allclose(engine.logits(), expected, atol=1e-3)


def test_greedy_sampling_takes_the_best_token(engine: Engine) -> None:
    engine.rewind(0)
    engine.decode([5, 6, 7])
    engine.use_sampling(Sampling(temperature=0))
    assert engine.sample() == int(engine.logits().argmax())


def test_a_seed_draws_the_same_tokens_again(engine: Engine) -> None:
    def draw(seed: int) -> list[int]:
        engine.rewind(0)
        engine.decode([5, 6, 7])
        engine.use_sampling(Sampling(temperature=2, top_k=0, top_p=1, min_p=0, seed=seed))
        return [engine.sample() for _ in range(8)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_the_context_is_a_border(engine: Engine) -> None:
    engine.rewind(0)
    with pytest.raises(ContextFull, match="513 tokens do not fit"):
        engine.decode([1] * 513)
    assert engine.n_past == 0
    engine.decode([1] * 512)
    with pytest.raises(ContextFull):
        engine.decode([1])
    engine.rewind(500)
    with pytest.raises(ContextFull):
        engine.decode_each([1] * 13)
    assert engine.n_past == 500
    engine.rewind(0)


def test_cancelling_ends_a_load_and_a_long_batch() -> None:
    answers = iter([*[False] * 3, True])
    with pytest.raises(Interrupted):
        Engine(DEMO, SETTINGS, "qwen3moe", is_cancelled=lambda: next(answers, True))
    cancelled = False
    with Engine(DEMO, SETTINGS, "qwen3moe", is_cancelled=lambda: cancelled) as engine:
        engine.decode([1, 2, 3])
        cancelled = True
        with pytest.raises(Interrupted):
            engine.decode(list(range(100)))
        with pytest.raises(Interrupted):
            engine.decode_each([7, 8, 9])
        assert engine.tokens == [1, 2, 3, 7]
        engine.rewind(3)
        # What the interrupted batch left behind must not move the next one.
        cancelled = False
        assert engine.tokens == [1, 2, 3]
        engine.decode([4])
        after = engine.logits().copy()
        engine.rewind(0)
        engine.decode([1, 2, 3])
        engine.decode([4])
        assert np.allclose(engine.logits(), after, atol=1e-3)


def test_llama_cpp_gives_the_reason_for_a_refusal(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(DEMO[0].read_bytes()[:5000])
    with pytest.raises(EngineError, match="llama.cpp cannot load bad.gguf: .+"):
        Engine([bad], SETTINGS, "qwen3moe")


def test_many_loads_leak_no_memory() -> None:
    def resident_bytes() -> int:
        status = Path("/proc/self/status")
        if not status.exists():
            pytest.skip("needs /proc")
        line = next(row for row in status.read_text().splitlines() if row.startswith("RssAnon"))
        return int(line.split()[1]) << 10

    def load() -> None:
        with Engine(DEMO, SETTINGS, "qwen3moe") as loaded:
            loaded.use_sampling(Sampling(seed=1))
            loaded.decode([1, 2, 3])
            loaded.sample()

    for _ in range(3):
        load()
    before = resident_bytes()
    for _ in range(10):
        load()
    assert resident_bytes() - before < 8 << 20


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no huge pages here")
def test_weights_that_are_copied_may_lie_on_huge_pages() -> None:
    """In a process of its own: here the heap may have room for them."""
    program = f"""
import re, sys
from pathlib import Path
from moetool.engine.model import Engine
from moetool.settings import Settings

def advised_kib():
    entries = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.M)
    return sum(int(re.findall(r"^Size: +(\\d+)", text, re.M)[0]) for text in entries if " hg" in text)

before = advised_kib()
with Engine([Path({str(DEMO[0])!r})], Settings(n_ctx=64, n_threads=1, use_mmap=False), "qwen3moe"):
    print(advised_kib() - before)
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(answer.stdout) > DEMO[0].stat().st_size / 1024 / 2


def mib(ranges: list[tuple[int, int]], sign: int) -> list[tuple[int, int]]:
    """Ranges in MiB as bytes (1), or back (-1)."""
    return [(a << 20, b << 20) if sign > 0 else (a >> 20, b >> 20) for a, b in ranges]


def test_only_new_anonymous_memory_is_advised() -> None:
    maps = """\
7f0000000000-7f0000400000 rw-p 00000000 00:00 0
7f0000400000-7f0000800000 r--p 00000000 00:00 0
7f0000800000-7f0000c00000 rw-p 00000000 08:01 77 /model.gguf
7f0000c00000-7f0001000000 rw-p 00000000 00:00 0                          [stack]
"""
    assert parse_ranges(maps) == [(0x7F0000000000, 0x7F0000400000)]
    # What was there may have grown on either side, or lie between two new parts.
    old, new = [(16, 24), (100, 200)], [(0, 64), (96, 240)]
    assert mib(without(mib(new, 1), mib(old, 1)), -1) == [(0, 16), (24, 64), (96, 100), (200, 240)]
    assert without(mib(old, 1), mib(old, 1)) == []
    assert without(mib([(4, 9), (10, 13)], 1), mib([(5, 6)], 1)) == []
    assert without(mib([(5, 10)], 1), []) == mib([(5, 10)], 1)


def test_a_mapped_library_whose_name_is_no_text_does_not_end_a_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = tmp_path / "maps"
    maps.write_bytes(b"7f0000000000-7f0000400000 r-xp 00000000 08:01 5 /opt/l\xe4t/libm.so\n")
    monkeypatch.setattr("moetool.engine.huge_pages._MAPS", maps)
    with Engine(DEMO, SETTINGS, "qwen3moe") as engine:
        assert engine.n_vocab


def test_the_number_of_experts_can_be_changed_and_changes_the_answer() -> None:
    with (
        Engine(DEMO, SETTINGS, "qwen3moe") as two,
        Engine(DEMO, Settings(512, experts=1, n_threads=1), "qwen3moe") as one,
    ):
        for loaded in (one, two):
            loaded.decode([5, 6, 7])
        assert np.abs(one.logits() - two.logits()).max() > 0.1


def test_a_dry_run_says_what_a_load_takes() -> None:
    planned = dry_run(DEMO, SETTINGS, "qwen3moe")
    with Engine(DEMO, SETTINGS, "qwen3moe") as loaded:
        taken = {
            holds: sum(b.n_bytes for b in loaded.buffers if b.holds == holds)
            for holds in ("kv", "compute", "output")
        }
    assert planned.kv_bytes == taken["kv"] > 0
    assert planned.bytes_of("compute") == taken["compute"] > 0
    assert planned.bytes_of("output") == taken["output"] > 0


def test_overrides_reach_llama_cpp() -> None:
    settings = Settings(n_ctx=512, n_threads=1, tensor_overrides=(TensorOverride(r"ffn_.*_exps", "CPU"),))
    with Engine(DEMO, settings, "qwen3moe") as loaded:
        loaded.decode([5, 6, 7])
    wrong = Settings(n_ctx=512, tensor_overrides=(TensorOverride("exps", "CUDA7"),))
    with pytest.raises(UsageError, match="CUDA7"):
        Engine(DEMO, wrong, "qwen3moe")


def test_buffer_lines_are_read_whatever_the_device() -> None:
    lines = [
        "load_tensors:   CPU_Mapped model buffer size =  1918.35 MiB",
        "load_tensors:        CUDA0 model buffer size = 16860.21 MiB",
        "llama_kv_cache:      CUDA0 KV buffer size =   640.00 MiB",
        "llama_memory_recurrent:      CUDA0 RS buffer size =    62.81 MiB",
        "llama_context:  CUDA_Host  output buffer size =     0.95 MiB",
        "sched_reserve:      CUDA0 compute buffer size =   493.00 MiB",
        "something else = 3",
    ]
    assert parse_buffers(lines)[1:4] == (
        BufferSize("CUDA0", "weights", round(16860.21 * (1 << 20))),
        BufferSize("CUDA0", "kv", 640 << 20),
        BufferSize("CUDA0", "state", round(62.81 * (1 << 20))),
    )
    assert [b.holds for b in parse_buffers(lines)] == [
        "weights",
        "weights",
        "kv",
        "state",
        "output",
        "compute",
    ]


def test_a_context_that_is_no_multiple_of_256_holds_what_was_asked_for_and_no_more() -> None:
    with Engine(DEMO, Settings(n_ctx=70, n_threads=1), "qwen3moe") as small:
        assert small.n_ctx == 70
        small.decode([5] * 70)
        with pytest.raises(ContextFull, match="71 tokens do not fit into a context of 70"):
            small.decode([5])
    with Engine(DEMO, Settings(n_ctx=300, n_batch=16, n_ubatch=16, n_threads=1), "qwen3moe") as small:
        small.decode([5] * 190)
        small.decode([6] * 20)
        assert small.n_past == 210
