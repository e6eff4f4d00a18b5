"""The token loop over a scripted engine: text borders, stops, limits, forced tokens, endings, timing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetool.errors import ContextFull, Interrupted
from moetool.generate import Generation, Limits, Stats, TextAssembler

END = -1


@dataclass
class ScriptedEngine:
    """Says its script token by token; a token's bytes are `pieces[token]`."""

    script: list[int]
    pieces: Sequence[bytes]
    n_ctx: int = 1000
    interrupt_at: int | None = None
    decoded: list[int] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    @property
    def n_past(self) -> int:
        return len(self.decoded)

    def decode(self, tokens: Sequence[int]) -> None:
        if self.n_past + len(tokens) > self.n_ctx:
            raise ContextFull("full")
        if self.interrupt_at is not None and len(self.batches) >= self.interrupt_at:
            raise Interrupted("Interrupted")
        self.decoded += tokens
        self.batches.append(len(tokens))

    def sample(self, rule: Any = None) -> int:
        while rule is not None and not rule.accepts(self.script[0]):
            del self.script[0]
        return self.script.pop(0)

    def piece(self, token: int) -> bytes:
        return self.pieces[token]

    def is_end(self, token: int) -> bool:
        return token == END


class ScriptedGrammar:
    """After a token that is a key of `forces`, its tokens must follow; stopped after `last`."""

    def __init__(
        self,
        forces: dict[int | None, tuple[int, ...]],
        last: int,
        refused: tuple[int, ...] = (),
        closing: bytes | None = None,
        sentences: tuple[bytes, ...] = (),
    ) -> None:
        self.forces, self.last, self.refused = forces, last, refused
        self._closing, self._sentences = closing, sentences
        self.seen: list[int] = []

    def accepts(self, token: int) -> bool:
        return token not in self.refused

    def allowed(self) -> Any:
        raise AssertionError("the scripted engine asks for one token at a time")

    def commit(self, token: int) -> None:
        self.seen.append(token)

    def forced(self) -> tuple[int, ...]:
        return self.forces.get(self.seen[-1] if self.seen else None, ())

    def is_complete(self) -> bool:
        return self.is_stopped()

    def is_stopped(self) -> bool:
        return bool(self.seen) and self.seen[-1] == self.last

    def closing(self, limit_bytes: int) -> bytes | None:
        return b"" if self.is_complete() else self._closing

    def is_sentence(self, text: bytes) -> bool:
        return text in self._sentences


def run(engine: ScriptedEngine, limits: Limits | None = None, grammar: Any = None) -> tuple[str, Stats]:
    generation = Generation(engine, [7, 8, 9], limits or Limits(), grammar)
    text = "".join(token.text for token in generation) + generation.rest()
    assert text == generation.text
    assert generation.stats is not None
    return text, generation.stats


def letters(text: str) -> tuple[list[int], list[bytes]]:
    return list(range(len(text))), [c.encode() for c in text]


def test_the_model_ends_its_answer() -> None:
    script, pieces = letters("hello")
    text, stats = run(ScriptedEngine([*script, END], pieces))
    assert text == "hello"
    assert (stats.finish_reason, stats.prompt_tokens, stats.generated_tokens) == ("stop", 3, 5)
    assert stats.complete is None


def test_max_tokens_ends_it_without_decoding_the_last_token() -> None:
    script, pieces = letters("hello")
    engine = ScriptedEngine([*script, END], pieces)
    text, stats = run(engine, Limits(max_tokens=2))
    assert (text, stats.finish_reason) == ("he", "length")
    assert engine.batches == [3, 1]


def test_a_stop_string_is_cut_off_wherever_its_tokens_begin() -> None:
    pieces = [b"one\nU", b"se", b"r: two"]
    text, stats = run(ScriptedEngine([0, 1, 2, END], pieces), Limits(stop=("User:",)))
    assert (text, stats.finish_reason) == ("one\n", "stop")


def test_text_that_only_looked_like_a_stop_string_is_not_lost() -> None:
    text, _ = run(ScriptedEngine([0, END], [b"a User"]), Limits(stop=("User:",)))
    assert text == "a User"


def test_a_character_split_over_tokens_comes_whole() -> None:
    data = "né🙂".encode()
    engine = ScriptedEngine([*range(len(data)), END], [bytes([b]) for b in data])
    generation = Generation(engine, [1], Limits())
    shown = [token.text for token in generation]
    assert shown == ["n", "", "é", "", "", "", "🙂"]


def test_the_context_running_full_is_an_ending_and_a_prompt_too_long_is_an_error() -> None:
    script, pieces = letters("hello")
    text, stats = run(ScriptedEngine([*script, END], pieces, n_ctx=5))
    assert (text, stats.finish_reason) == ("hel", "context")
    with pytest.raises(ContextFull):
        run(ScriptedEngine([END], [], n_ctx=2))


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_an_interrupt_keeps_what_was_written(batch: int) -> None:
    script, pieces = letters("hello")
    text, stats = run(ScriptedEngine([*script, END], pieces, interrupt_at=batch))
    assert (text, stats.finish_reason) == ("hello"[:batch], "interrupted")


def test_forced_tokens_are_decoded_as_one_batch_with_the_sampled_one() -> None:
    script, pieces = letters('{"a":1}')
    engine = ScriptedEngine([5], pieces)
    grammar = ScriptedGrammar({None: (0, 1, 2, 3, 4), 5: (6,)}, last=6)
    text, stats = run(engine, None, grammar)
    assert text == '{"a":1}'
    assert (stats.finish_reason, stats.forced_tokens, stats.complete) == ("grammar", 6, True)
    assert engine.batches == [3, 5]
    assert script == list(range(7))


def test_a_refused_token_is_not_written() -> None:
    _, pieces = letters("abc")
    engine = ScriptedEngine([2, 0], pieces)
    text, stats = run(engine, None, ScriptedGrammar({}, last=0, refused=(2,)))
    assert (text, stats.generated_tokens, stats.finish_reason) == ("a", 1, "grammar")


def test_max_tokens_inside_a_grammar_is_reported_as_incomplete() -> None:
    _, pieces = letters('{"a":1}')
    grammar = ScriptedGrammar({None: (0, 1, 2, 3, 4), 5: (6,)}, last=6)
    text, stats = run(ScriptedEngine([5], pieces), Limits(max_tokens=3), grammar)
    assert (text, stats.finish_reason, stats.complete) == ('{"a', "length", False)


def test_what_closes_a_cut_off_answer_is_part_of_the_text_and_told_apart() -> None:
    _, pieces = letters('{"a":1}')
    grammar = ScriptedGrammar({None: (0, 1, 2, 3, 4), 5: (6,)}, last=6, closing=b'":null}')
    limits = Limits(max_tokens=3, stop=("null",))
    text, stats = run(ScriptedEngine([5], pieces), limits, grammar)
    assert text == '{"a":null}'
    assert (stats.finish_reason, stats.complete, stats.closing) == ("length", True, '":null}')
    assert stats.generated_tokens == 3


def test_a_full_context_is_closed_and_ctrl_c_is_not() -> None:
    _, pieces = letters("[1,")
    full = ScriptedEngine([0, 1, 2], pieces, n_ctx=5)
    text, stats = run(full, None, ScriptedGrammar({}, last=9, closing=b"0]"))
    assert (text, stats.finish_reason, stats.complete) == ("[1,0]", "context", True)
    stopped = ScriptedEngine([0, 1, 2], pieces, interrupt_at=2)
    text, stats = run(stopped, None, ScriptedGrammar({}, last=9, closing=b"0]"))
    assert (text, stats.finish_reason, stats.complete, stats.closing) == ("[1", "interrupted", False, "")


def test_a_character_that_a_limit_cut_in_two_is_closed_as_one() -> None:
    pieces = [b'"', "é".encode()[:1]]
    grammar = ScriptedGrammar({}, last=9, closing="é".encode()[1:] + b'"')
    text, stats = run(ScriptedEngine([0, 1], pieces), Limits(max_tokens=2), grammar)
    assert (text, stats.complete) == ('"é"', True)


@pytest.mark.parametrize(("stop", "whole"), [("}", False), ("x", True)])
def test_what_a_stop_string_leaves_is_held_against_the_grammar(stop: str, whole: bool) -> None:
    script, pieces = letters("{}x")
    grammar = ScriptedGrammar({}, last=script[-1], sentences=(b"{}",))
    text, stats = run(ScriptedEngine(script, pieces), Limits(stop=(stop,)), grammar)
    assert (text, stats.complete) == ("{}" if whole else "{", whole)


def test_times_are_those_of_the_clock() -> None:
    script, pieces = letters("abc")
    ticks = iter(range(100))
    generation = Generation(
        ScriptedEngine([*script, END], pieces), [1, 2], Limits(), None, lambda: next(ticks)
    )
    list(generation)
    stats = generation.stats
    assert stats is not None
    assert (stats.prompt_s, stats.ttft_s, stats.decode_s) == (1, 2, 1)
    assert (stats.prompt_tok_s, stats.decode_tok_s) == (2, 2)


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=4), max_size=3), st.data())
def test_however_text_is_cut_into_tokens_it_ends_before_the_first_stop(
    text: str, stop: list[str], data: st.DataObject
) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    assembler, shown = TextAssembler(stop), ""
    for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        if not assembler.stopped:
            shown += assembler.add(raw[start:end])
    if not assembler.stopped:
        shown += assembler.flush()
    assert not any(s in shown for s in stop)
    assert text.startswith(shown)
    if not any(s in text for s in stop):
        assert shown == text


def test_a_full_context_makes_room_and_goes_on_as_often_as_it_is_given() -> None:
    script, pieces = letters("abcdefghij")
    engine = ScriptedEngine([*script, END], pieces, n_ctx=6)
    asked: list[int] = []

    def make_room(n_more: int) -> int:
        asked.append(n_more)
        del engine.decoded[:2]
        return 2

    generation = Generation(engine, [7, 8, 9], Limits())
    generation.make_room = make_room
    assert "".join(token.text for token in generation) == "abcdefghij"
    stats = generation.stats
    assert stats is not None
    assert (stats.finish_reason, stats.generated_tokens, stats.shifted_tokens) == ("stop", 10, 2 * len(asked))
    assert asked == [1, 1, 1, 1]


def test_room_that_cannot_be_made_ends_the_answer() -> None:
    script, pieces = letters("abcdefghij")
    grammar = ScriptedGrammar({2: (3, 4, 5)}, last=9, closing=b"]")
    engine = ScriptedEngine([*script, END], pieces, n_ctx=6)
    generation = Generation(engine, [7, 8, 9], Limits(), grammar)
    generation.make_room = lambda n_more: 0
    text = "".join(token.text for token in generation) + generation.rest()
    stats = generation.stats
    assert stats is not None
    assert (text, stats.finish_reason, stats.shifted_tokens) == ("abcdef]", "context", 0)
