"""Thinking on the command line: an answer told apart from the thinking before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetool.cli.think import Think
from moetool.engine.model import Engine
from moetool.generate import Generation, Grammar, Limits, Token
from moetool.prompt import Prompt
from moetool.render.plain import AnswerWriter, ThinkingWriter
from moetool.thinking import AfterThinking, Splitter

if TYPE_CHECKING:
    from moetool.engine.slots import Slot


def wished(think: Think | None) -> bool | None:
    """What the template is told; nothing where nothing was asked for."""
    return None if think is None else think is not Think.off


def make_generation(
    engine: Engine | Slot, prompt: Prompt, tokens: list[int], limits: Limits, grammar: Grammar | None
) -> Generation:
    """A generation from `tokens`, those of the prompt that are not in the cache; where the model may think,
    the grammar holds for the answer alone."""
    if prompt.markers is None:
        return Generation(engine, tokens, limits, grammar)
    spelled = engine.vocabulary.special_piece

    def splitter() -> Splitter:
        assert prompt.markers is not None
        return Splitter(prompt.markers, spelled, is_open=prompt.is_thinking)

    after = None
    if grammar is not None:
        after = AfterThinking(grammar, splitter(), spelled, engine.vocabulary.n_vocab)
    return Generation(engine, tokens, limits, after, split=splitter())


class Show:
    """An answer and the thinking before it, each written where it belongs."""

    def __init__(self, answer: AnswerWriter, thinking: ThinkingWriter | None) -> None:
        self._answer = answer
        self._thinking = thinking

    def write(self, token: Token) -> None:
        """Show what became certain with a token."""
        if self._thinking is not None:
            self._thinking.write(token.thinking)
            if token.text:
                self._thinking.end()
        self._answer.write(token.text)

    def end(self) -> None:
        """After the last token: nothing more will be thought."""
        if self._thinking is not None:
            self._thinking.end()
