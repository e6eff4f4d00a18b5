"""Several sequences in one context: each is as if it were alone, and beginnings are shared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_model import write_tiny_model

from moetool.assets import demo_model_path
from moetool.batch.prefix import SharedPrefix
from moetool.engine.model import Engine
from moetool.engine.slots import Slot, Slots
from moetool.errors import ContextFull, Interrupted
from moetool.settings import Sampling, Settings

DEMO = [demo_model_path()]
SETTINGS = Settings(n_ctx=3 * 256, n_seq=3, kv_unified=True, n_outputs_max=3, n_threads=1)
TEXT = np.random.default_rng(0).integers(300, 900, 200).tolist()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(DEMO, SETTINGS, "qwen3moe") as loaded:
        yield loaded


@pytest.fixture
def slots(engine: Engine) -> Iterator[Slots]:
    with Slots(engine) as made:
        yield made
        for slot in made.all:
            slot.rewind(0)


def logits(slots: Slots, slot: Slot) -> np.ndarray:
    return slots.logits(slot.row).copy()


def alone(slots: Slots, tokens: list[int]) -> np.ndarray:
    slot = slots.all[2]
    slot.rewind(0)
    slot.decode(tokens)
    found = logits(slots, slot)
    slot.rewind(0)
    return found


def agree(ours: np.ndarray, expected: np.ndarray) -> bool:
    """Equal but for the rounding of batches cut elsewhere."""
    return float(np.abs(ours - expected).max()) < 0.02 * float(np.abs(expected).max())


def test_sequences_of_one_batch_do_not_see_each_other(slots: Slots) -> None:
    one, other = TEXT[:30], TEXT[50:57]
    expected = alone(slots, one), alone(slots, other), alone(slots, [*one, 5]), alone(slots, [*other, 6, 7])
    a, b, _ = slots.all
    slots.decode([(b, other), (a, one)])
    assert agree(logits(slots, a), expected[0])
    assert agree(logits(slots, b), expected[1])
    slots.decode([(a, [5]), (b, [6, 7])])
    assert agree(logits(slots, a), expected[2])
    assert agree(logits(slots, b), expected[3])
    assert (a.tokens, b.tokens) == ([*one, 5], [*other, 6, 7])
    assert not agree(expected[2], expected[3])


def test_going_back_in_one_leaves_the_others(slots: Slots) -> None:
    expected = alone(slots, [*TEXT[:20], 9])
    a, b, _ = slots.all
    slots.decode([(a, TEXT[:20]), (b, TEXT[50:90])])
    assert b.rewind(10) == b.n_past == 10
    assert b.rewind(0) == 0
    slots.decode([(a, [9]), (b, TEXT[:5])])
    assert agree(logits(slots, a), expected)


def test_a_beginning_is_shared_whatever_its_giver_goes_on_with(slots: Slots) -> None:
    expected = alone(slots, [*TEXT[:40], 9, 8])
    giver, taker, _ = slots.all
    giver.decode(TEXT[:60])
    taker.decode(TEXT[100:120])
    assert taker.share(giver, 40) == 40
    assert taker.tokens == TEXT[:40]
    giver.decode(TEXT[60:70])
    giver.rewind(0)
    taker.decode([9, 8])
    assert agree(logits(slots, taker), expected)


def test_a_slot_is_sampled_after_its_own_decoding_only(slots: Slots) -> None:
    a, b, _ = slots.all
    a.decode(TEXT[:5])
    a.use_sampling(Sampling(temperature=0))
    assert a.sample() == int(slots.logits(a.row).argmax())
    b.decode(TEXT[:5])
    with pytest.raises(ValueError, match="not in the last batch"):
        a.sample()


def test_each_slot_draws_by_its_own_seed(slots: Slots) -> None:
    a, b, _ = slots.all
    flat = Sampling(temperature=3, top_k=0, top_p=1, min_p=0)

    def draw(seeds: tuple[int, int]) -> list[list[int]]:
        slots.decode([(a, TEXT[:5]), (b, TEXT[:5])])
        for slot, seed in zip((a, b), seeds, strict=True):
            slot.use_sampling(Sampling(**{**flat.__dict__, "seed": seed}))
        drawn = [[slot.sample() for _ in range(6)] for slot in (a, b)]
        for slot in (a, b):
            slot.rewind(0)
        return drawn

    assert draw((1, 1))[0] == draw((1, 2))[0]
    one, two = draw((1, 2))
    assert one != two


def test_the_context_of_a_slot_is_its_share(slots: Slots) -> None:
    a, b, _ = slots.all
    with pytest.raises(ContextFull, match="257 tokens do not fit into a context of 256"):
        a.decode([1] * 257)
    a.decode([1] * 256)
    b.decode([1] * 256)
    with pytest.raises(ContextFull):
        a.decode([1])


def test_cancelling_ends_a_decoding(engine: Engine) -> None:
    cancelled = False
    with Slots(engine, lambda: cancelled) as slots:
        slots.all[0].decode([1])
        cancelled = True
        with pytest.raises(Interrupted):
            slots.all[0].decode(TEXT)
        for slot in slots.all:
            slot.rewind(0)


def test_a_common_beginning_is_decoded_once(slots: Slots) -> None:
    prompts = [[*TEXT[:50], *TEXT[n : n + 9]] for n in (60, 70, 80)]
    shared = SharedPrefix(prompts)
    assert shared.tokens == TEXT[:50]
    for slot, prompt in zip(slots.all, prompts, strict=True):
        assert shared.enter(slot, slots.all, prompt) == prompt[50:]
        slot.decode(prompt[50:])
        found = logits(slots, slot)
        assert slot.tokens == prompt
        slot.rewind(0)
        slot.decode(prompt)
        assert agree(found, logits(slots, slot))
    # The next prompt of a slot finds it there; one that begins otherwise starts anew.
    assert shared.enter(slots.all[0], slots.all, prompts[1]) == prompts[1][50:]
    assert slots.all[0].tokens == TEXT[:50]
    assert shared.enter(slots.all[0], slots.all, TEXT[40:60]) == TEXT[40:60]
    assert slots.all[0].tokens == []


def test_little_in_common_is_not_shared() -> None:
    assert SharedPrefix([TEXT[:9], TEXT[:8], TEXT[:30]]).tokens == []
    assert SharedPrefix([TEXT[:90]]).tokens == []
    assert SharedPrefix([]).tokens == []
    assert SharedPrefix([TEXT[:30], TEXT[:30]]).tokens == TEXT[:29]


@pytest.mark.parametrize(("kind", "name"), [("window", "olmo2-dense"), ("states", "nemotron_h-dense")])
def test_windows_and_states_are_begun_anew_where_they_cannot_go_back(
    tmp_path: Path, kind: str, name: str
) -> None:
    arch = write_tiny_model(tmp_path / "tiny.gguf", name)
    # llama.cpp keeps 256 cells of windows of 32: what is further back than that is lost.
    settings = Settings(
        n_ctx=1024, n_seq=2, kv_unified=True, n_outputs_max=2, n_batch=32, n_ubatch=32, n_threads=1
    )
    text = np.random.default_rng(0).integers(5, 120, 420).tolist()
    with Engine([tmp_path / "tiny.gguf"], settings, arch) as engine, Slots(engine) as slots:
        assert slots.can_rewind == (kind == "window")
        a, b = slots.all
        b.decode(text[:110])
        expected = logits(slots, b)
        b.rewind(0)
        a.decode(text)
        assert b.share(a, 100) == b.n_past == 0
        b.decode(text[:110])
        assert agree(logits(slots, b), expected)
        slots.decode([(a, [5]), (b, [6, 7])])
        together = logits(slots, b)
        assert a.rewind(100) == a.n_past == 0
        a.decode(text[:110])
        assert agree(logits(slots, a), expected)
        a.decode([6, 7])
        assert agree(together, logits(slots, a))
