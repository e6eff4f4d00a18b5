"""Messages or plain text -> the tokens that still have to be decoded. Knows no terminal and no sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from moetool.errors import TemplateError
from moetool.template import Piece, render_pieces
from moetool.thinking import Markers, find_markers, thinking_switches

# Characters of messages from which on they are not cut into tokens twice.
_LONG = 50_000
# Fewer tokens in common are no reason to keep what the engine has seen out of order.
LONG_ENOUGH = 32


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
    def special_tokens(self) -> frozenset[int]: ...


class Cache(Protocol):
    """What is needed of an engine: the tokens it has seen, and going back."""

    @property
    def tokens(self) -> list[int]: ...
    def rewind(self, n_past: int) -> int: ...


@dataclass(frozen=True)
class Message:
    """One turn of a chat; `role` is "system", "user" or "assistant"."""

    role: str
    content: str


def plain_tokens(vocabulary: Tokenizer, text: str) -> list[int]:
    """The tokens of bare text, with the start token the model wants; control tokens are not parsed."""
    return vocabulary.tokenize(text, add_special=True) or _start(vocabulary)


@dataclass(frozen=True)
class Prompt:
    """Tokens, and what is known of the thinking that may come first: how it is marked (None where none is
    expected), and whether the prompt itself has opened it."""

    tokens: list[int]
    markers: Markers | None = None
    is_thinking: bool = False


def chat_prompt(
    vocabulary: Tokenizer, template: str, messages: Sequence[Message], think: bool | None = None
) -> Prompt:
    """The tokens of a chat up to where the assistant speaks.

    Control tokens come from the template only: what a user writes is tokenized as text, whatever it says.
    `think` asks the model to think or to answer at once; None leaves that to the template.
    """
    special = {
        "bos_token": _spelled(vocabulary, vocabulary.bos),
        "eos_token": _spelled(vocabulary, vocabulary.eos),
        "control_tokens": _control_tokens(vocabulary, messages),
    }
    markers = find_markers(template)
    wished = {} if think is None else thinking_switches(markers, think)
    pieces = _rendered(template, messages, {**special, **wished})
    if markers is not None and think is False:
        other = _rendered(template, messages, {**special, **thinking_switches(markers, True)})
        pieces = [*pieces, *_closed(pieces, markers, heeds_the_wish=pieces != other)]
        markers = None
    is_open = markers is not None and _ends_with(pieces, markers.start)
    is_closed = markers is not None and _ends_with(pieces, markers.end)
    return Prompt(_tokens_of(vocabulary, pieces), None if is_closed else markers, is_open)


def _control_tokens(vocabulary: Tokenizer, messages: Sequence[Message]) -> list[str] | None:
    """The texts of all control tokens, where messages hold one or are long; None where they hold none.

    Not all have the shape that would be kept apart without knowing them: "[e~[" ends a turn of MiniMax. To
    look through a whole vocabulary takes 0.1 s, to cut short messages into tokens twice far less.
    """
    cut = vocabulary.tokenize
    n_chars = sum(len(m.content) for m in messages)
    if n_chars < _LONG and all(cut(m.content, parse_special=True) == cut(m.content) for m in messages):
        return None
    return [_spelled(vocabulary, token) for token in vocabulary.special_tokens()]


def chat_tokens(vocabulary: Tokenizer, template: str, messages: Sequence[Message]) -> list[int]:
    """The tokens of `chat_prompt`."""
    return chat_prompt(vocabulary, template, messages).tokens


def _rendered(template: str, messages: Sequence[Message], variables: Mapping[str, Any]) -> list[Piece]:
    """The prompt's pieces, as the Hub's libraries render them. Where that fails, a template that needs tools
    gets none of them, and a system message that is refused or dropped goes into the user's first message."""
    ways = [messages, _without_system(messages)] if _has_system(messages) else [messages]
    refused: list[TemplateError] = []
    for way in ways:
        for extra in ({}, _no_tools()):
            try:
                pieces = list(render_pieces(template, _values(way), **variables, **extra))
            except TemplateError as error:
                refused.append(error)
                continue
            if way is ways[-1] or messages[0].content.strip() in "".join(p.text for p in pieces):
                return pieces
    raise refused[0]


def _no_tools() -> dict[str, Any]:
    """What templates ask for that were written for chats with tools: lists of none, and the time."""
    now = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
    return {"tools": [], "documents": [], "functions": "[]", "datetime": now}


def _has_system(messages: Sequence[Message]) -> bool:
    return len(messages) > 1 and messages[0].role == "system" and messages[1].role == "user"


def _without_system(messages: Sequence[Message]) -> list[Message]:
    system, first, *rest = messages
    return [Message("user", f"{system.content}\n\n{first.content}"), *rest]


def _values(messages: Sequence[Message]) -> list[Mapping[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]


def _closed(pieces: Sequence[Piece], markers: Markers, *, heeds_the_wish: bool) -> list[Piece]:
    """What ends a thinking block before it begins, where the template leaves that to us."""
    if _ends_with(pieces, markers.start):
        return [Piece(f"\n{markers.end}\n\n", True)]
    if heeds_the_wish or _ends_with(pieces, markers.end):
        return []
    return [Piece(markers.skip, True)]


def _ends_with(pieces: Sequence[Piece], marker: str) -> bool:
    """Does the template's own text end so? What a user writes does not count."""
    return bool(pieces) and pieces[-1].trusted and pieces[-1].text.rstrip().endswith(marker.rstrip())


def _tokens_of(vocabulary: Tokenizer, pieces: Sequence[Piece]) -> list[int]:
    tokens: list[int] = []
    for piece in pieces:
        tokens += vocabulary.tokenize(piece.text, parse_special=piece.trusted)
    # Some templates write the start token themselves, some leave it to the tokenizer.
    if vocabulary.adds_bos and tokens[:1] != [vocabulary.bos]:
        tokens = [vocabulary.bos, *tokens]
    return tokens or _start(vocabulary)


def keep_prefix(engine: Cache, tokens: Sequence[int]) -> list[int]:
    """Rewind the engine to what it shares with `tokens`; returns the rest, which is never empty."""
    shared = shared_length(engine.tokens, tokens[:-1])
    if shared < len(engine.tokens):
        shared = engine.rewind(shared)
    return list(tokens[shared:])


def shared_length(some: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens two texts have in common at their beginning."""
    pairs = zip(some, others, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(some), len(others)))


def find_gap(seen: Sequence[int], wanted: Sequence[int]) -> tuple[int, int]:
    """What of `seen` to drop so that it agrees with `wanted` for longest: where, and how many tokens; 0 where
    nothing is won by it."""
    start = shared_length(seen, wanted)
    head = wanted[start:]
    agreed = _agreements([*head, -1, *seen[start:]])[len(head) + 1 :]
    longest = max(agreed, default=0)
    return start, agreed.index(longest) if longest >= LONG_ENOUGH else 0


def _agreements(text: Sequence[int]) -> list[int]:
    """For each place, how many tokens from there on are those of the beginning (the Z function: linear)."""
    found = [0] * len(text)
    left = right = 0
    for at in range(1, len(text)):
        n = min(right - at, found[at - left]) if at < right else 0
        while at + n < len(text) and text[n] == text[at + n]:
            n += 1
        found[at] = n
        if at + n > right:
            left, right = at, at + n
    return found


def _spelled(vocabulary: Tokenizer, token: int) -> str:
    return vocabulary.special_piece(token).decode("utf-8", "replace") if token >= 0 else ""


def _start(vocabulary: Tokenizer) -> list[int]:
    # An empty prompt still needs one token to begin from.
    return [vocabulary.bos if vocabulary.bos >= 0 else max(vocabulary.eos, 0)]
