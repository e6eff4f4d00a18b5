"""Messages or plain text -> the tokens that still have to be decoded. Knows no terminal and no sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from moetool.template import render_pieces


class Tokenizer(Protocol):
    """What is needed of a model's vocabulary."""

    @property
    def bos(self) -> int: ...
    @property
    def eos(self) -> int: ...
    @property
    def adds_bos(self) -> bool: ...
    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]: ...
    def special_piece(self, token: int) -> bytes: ...


class Cache(Protocol):
    """What is needed of an engine: the tokens it has seen, and going back."""

    @property
    def tokens(self) -> list[int]: ...
    def rewind(self, n_past: int) -> bool: ...


@dataclass(frozen=True)
class Message:
    """One turn of a chat; `role` is "system", "user" or "assistant"."""

    role: str
    content: str


def plain_tokens(vocabulary: Tokenizer, text: str) -> list[int]:
    """The tokens of bare text, with the start token the model wants; control tokens are not parsed."""
    return vocabulary.tokenize(text, add_special=True) or _start(vocabulary)


def chat_tokens(vocabulary: Tokenizer, template: str, messages: Sequence[Message]) -> list[int]:
    """The tokens of a chat up to where the assistant speaks.

    Control tokens come from the template only: what a user writes is tokenized as text, whatever it says.
    """
    values: list[Mapping[str, str]] = [{"role": m.role, "content": m.content} for m in messages]
    pieces = render_pieces(
        template,
        values,
        bos_token=_spelled(vocabulary, vocabulary.bos),
        eos_token=_spelled(vocabulary, vocabulary.eos),
    )
    tokens: list[int] = []
    for piece in pieces:
        tokens += vocabulary.tokenize(piece.text, parse_special=piece.trusted)
    # Some templates write the start token themselves, some leave it to the tokenizer.
    if vocabulary.adds_bos and tokens[:1] != [vocabulary.bos]:
        tokens = [vocabulary.bos, *tokens]
    return tokens or _start(vocabulary)


def keep_prefix(engine: Cache, tokens: Sequence[int]) -> list[int]:
    """Rewind the engine to what it shares with `tokens`; returns the rest, which is never empty."""
    shared = 0
    for seen, wanted in zip(engine.tokens, tokens[:-1], strict=False):
        if seen != wanted:
            break
        shared += 1
    if shared < len(engine.tokens) and not engine.rewind(shared):
        shared = 0
    return list(tokens[shared:])


def _spelled(vocabulary: Tokenizer, token: int) -> str:
    return vocabulary.special_piece(token).decode("utf-8", "replace") if token >= 0 else ""


def _start(vocabulary: Tokenizer) -> list[int]:
    # An empty prompt still needs one token to begin from.
    return [vocabulary.bos if vocabulary.bos >= 0 else max(vocabulary.eos, 0)]
