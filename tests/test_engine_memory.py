"""What a context remembers, on models that keep windows or have states: rewinding, checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_model import write_one_layer, write_tiny_model

from moetool.anatomy import make_anatomy, why_no_shift
from moetool.assets import demo_model_path
from moetool.engine.model import Engine
from moetool.errors import ContextFull, EngineError
from moetool.gguf import open_header
from moetool.prompt import keep_prefix
from moetool.settings import Settings

# llama.cpp keeps 256 cells of a window of 32: what is further back than that is lost.
SETTINGS = Settings(n_ctx=512, n_batch=32, n_ubatch=32, n_threads=1)
TEXT = np.random.default_rng(0).integers(5, 120, 420).tolist()
OTHER = np.random.default_rng(9).integers(5, 120, 40).tolist()


@pytest.fixture(scope="module", params=["window", "states"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    name = {"window": "olmo2-dense", "states": "nemotron_h-dense"}[request.param]
    arch = write_tiny_model(path, name)
    with Engine([path], SETTINGS, arch) as loaded:
        yield loaded


def has_states(engine: Engine) -> bool:
    return any(buffer.holds == "state" for buffer in engine.buffers)


def fresh_logits(engine: Engine, tokens: list[int]) -> np.ndarray:
    engine.rewind(0)
    engine.decode(tokens)
    return engine.logits().copy()


def agree(ours: np.ndarray, expected: np.ndarray) -> bool:
    """Equal but for the rounding of batches cut elsewhere; a lost window is off by a hundred times that."""
    return float(np.abs(ours - expected).max()) < 0.01 * float(np.abs(expected).max())


def test_a_rewind_that_is_impossible_forgets_everything(engine: Engine) -> None:
    expected = fresh_logits(engine, TEXT[:100] + OTHER)
    fresh_logits(engine, TEXT)
    assert engine.rewind(100) == len(engine.tokens) == 0
    engine.decode(TEXT[:100] + OTHER)
    assert agree(engine.logits(), expected)
    # The measure is no matter of chance: a few other words, further back than a window, are not the same.
    assert not agree(expected, fresh_logits(engine, [*TEXT[:60], *OTHER, *OTHER, *OTHER]))


def test_a_few_tokens_can_be_taken_back_where_windows_are_kept(engine: Engine) -> None:
    expected = fresh_logits(engine, TEXT[:410] + OTHER)
    fresh_logits(engine, TEXT)
    left = engine.rewind(410)
    assert left == (0 if has_states(engine) else 410)
    engine.decode((TEXT[:410] + OTHER)[left:])
    assert agree(engine.logits(), expected)


def test_the_latest_checkpoint_before_is_come_back_to(engine: Engine) -> None:
    expected = fresh_logits(engine, TEXT[:120] + OTHER)
    engine.rewind(0)
    for at in (50, 110, 200):
        engine.memory.mark(at)
    engine.decode(TEXT[:150])
    engine.decode(TEXT[150:])
    for shared, nearest in ((120, 110), (120, 110), (60, 50), (40, 0)):
        left = engine.rewind(shared)
        assert left == nearest if has_states(engine) else nearest <= left <= shared
        engine.decode((TEXT[:120] + OTHER)[left:])
        assert agree(engine.logits(), expected)


def test_the_second_turn_of_a_chat_reads_what_is_new(engine: Engine) -> None:
    """After a first prompt and its answer: the next prompt; one whose history leaves the answer's thinking
    out; and the first prompt again."""
    first, answer = TEXT[:100], TEXT[100:]
    thought_left_out = [*first, *answer[300:], *OTHER]
    for prompt, n_new in (
        ([*first, *answer, *OTHER], len(OTHER)),
        (thought_left_out, len(thought_left_out) - len(first) + 1),
        (first, 1),
    ):
        engine.rewind(0)
        assert keep_prefix(engine, first) == first
        engine.memory.mark(len(first) - 1)
        engine.decode(first)
        for token in answer:
            engine.decode([token])
        new = keep_prefix(engine, prompt)
        assert len(new) == n_new
        engine.decode(new)
        assert agree(engine.logits(), fresh_logits(engine, prompt))


def test_where_two_texts_parted_a_third_one_finds_a_checkpoint(engine: Engine) -> None:
    """A long beginning under three questions, as one-shot runs of a session have it."""
    beginning, questions = TEXT[:100], (TEXT[200:], TEXT[300:], OTHER)
    engine.rewind(0)
    n_new = []
    for question in questions:
        prompt = [*beginning, *question]
        new = keep_prefix(engine, prompt)
        n_new.append(len(new) - len(question))
        engine.decode(new)
    if has_states(engine):
        # Read whole, read whole again but marked, and read from the mark at 96 on.
        assert n_new == [100, 100, 4]
    assert agree(engine.logits(), fresh_logits(engine, [*beginning, *OTHER]))


def test_checkpoints_take_no_more_room_than_they_may(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def left_after(room: int) -> int:
        monkeypatch.setattr("moetool.engine.memory.CHECKPOINT_BYTES", room)
        engine.rewind(0)
        for at in (50, 60, 70):
            engine.memory.mark(at)
        engine.decode(TEXT)
        left = engine.rewind(65)
        engine.rewind(0)
        return left

    assert left_after(1 << 30) == 60
    assert left_after(1) == 0


# -- shifting ----------------------------------------------------------------------------------------


def test_a_shifted_context_is_that_of_the_text_without_what_was_dropped(tmp_path: Path) -> None:
    """Exactly so with one layer, whose keys and values depend on nothing but a token and its position."""
    path = tmp_path / "one.gguf"
    arch = write_one_layer(path)
    header = open_header(path)
    for kind, near in (("f16", 0.005), ("q8_0", 0.05)):
        settings = replace(SETTINGS, n_ctx=300, type_k=kind, type_v=kind)
        assert not why_no_shift(header, make_anatomy(header), settings)
        with Engine([path], settings, arch) as engine:
            expected = fresh_logits(engine, TEXT[:20] + TEXT[160:300] + OTHER)
            everything = fresh_logits(engine, TEXT[:300])
            with pytest.raises(ContextFull):
                engine.decode(OTHER)
            assert engine.make_room(20, len(OTHER)) == 140
            assert engine.tokens == TEXT[:20] + TEXT[160:300]
            engine.decode(OTHER)
            off = float(np.abs(engine.logits() - expected).max()) / float(np.abs(expected).max())
            assert off < near, (kind, off)
            assert not agree(everything, expected)
            # It is saved as it is now, and gone back in.
            about = engine.memory.save(tmp_path / "state")
            assert engine.memory.load(tmp_path / "state", about)
            assert engine.rewind(100) == 100
            engine.decode(TEXT[:20] + TEXT[160:300][80:])


def test_room_is_made_of_half_of_what_may_go_or_more_and_never_of_all(tmp_path: Path) -> None:
    path = tmp_path / "one.gguf"
    with Engine([path], replace(SETTINGS, n_ctx=100), write_one_layer(path)) as engine:
        engine.decode(TEXT[:100])
        assert engine.make_room(99, 1) == 0
        assert engine.make_room(100, 1) == 0
        assert engine.make_room(60, 40) == 0
        assert engine.make_room(60, 30) == 30
        assert engine.n_past == 70
        engine.decode(TEXT[:30])
        assert engine.make_room(0, 1) == 50
        # What was not decoded yet is not moved yet, and not saved.
        engine.memory.save(tmp_path / "state")
        assert engine.tokens == []


def test_states_and_windows_make_no_room(engine: Engine) -> None:
    engine.rewind(0)
    engine.decode(TEXT)
    if not has_states(engine):
        assert engine.make_room(10, 100) == 0
        assert engine.tokens == TEXT


# -- on disk -----------------------------------------------------------------------------------------


def test_what_is_saved_is_remembered_again_checkpoints_too(engine: Engine, tmp_path: Path) -> None:
    expected = fresh_logits(engine, TEXT + OTHER)
    branched = fresh_logits(engine, TEXT[:80] + OTHER)
    engine.rewind(0)
    engine.memory.mark(70)
    engine.decode(TEXT)
    path = tmp_path / "state"
    about = engine.memory.save(path)
    assert abs(path.stat().st_size - engine.memory.state_bytes()) < 4096
    with path.open("ab") as file:
        file.write(b"whatever stands behind it")
    engine.rewind(0)
    assert engine.memory.load(path, about)
    assert engine.tokens == TEXT
    engine.decode(OTHER)
    assert agree(engine.logits(), expected)
    assert engine.memory.load(path, about)
    left = engine.rewind(80)
    assert left == 70
    engine.decode((TEXT[:80] + OTHER)[left:])
    assert agree(engine.logits(), branched)


def test_a_state_that_does_not_suit_is_refused_and_nothing_is_left_of_it(tmp_path: Path) -> None:
    demo, path = [demo_model_path()], tmp_path / "state"
    with Engine(demo, Settings(n_ctx=1024, n_threads=1), "qwen3moe") as engine:
        engine.decode(TEXT)
        about = engine.memory.save(path)
    others = (
        Settings(n_ctx=256, n_threads=1),
        Settings(n_ctx=1024, type_k="q8_0", n_threads=1),
        Settings(n_ctx=1024, type_v="q8_0", n_threads=1),
        Settings(n_ctx=1024, flash_attn=False, n_threads=1),
    )
    for settings in others:
        with Engine(demo, settings, "qwen3moe") as engine:
            assert not engine.memory.load(path, about)
            assert engine.tokens == []
            alone = fresh_logits(engine, TEXT[:20])
            engine.rewind(0)
            engine.decode(TEXT[:20])
            assert agree(engine.logits(), alone)
    tiny = tmp_path / "tiny.gguf"
    with Engine([tiny], SETTINGS, write_tiny_model(tiny, "olmo2-dense")) as engine:
        assert not engine.memory.load(path, about)
        assert engine.tokens == []


def test_a_state_on_a_full_disk_is_told(engine: Engine) -> None:
    engine.rewind(0)
    engine.decode(TEXT)
    with pytest.raises(EngineError, match="cannot write its state"):
        engine.memory.save(Path("/dev/full"))
