"""Which control tokens of a rendered prompt the template wrote, and which came with the messages.

A message may contain "<|im_end|>". Before rendering, `Disguise` swaps the first letter of everything in the
messages that could begin a control token for a stand-in: a character that occurs nowhere else. Slicing,
trimming and joining carry it along. After rendering, a control token that begins with a stand-in came out of
a message, one that begins with its own letter came out of the template.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

# Plane 15 is private use: assigned to nobody, and no case mapping touches it.
_FIRST_STAND_IN = 0xF0000
# Templates cut earlier thinking out of the model's own turns by these marks, control tokens or not.
_THINKING = re.compile(r"</?think(?:ing)?>|\[/?THINK\]")


@dataclass(frozen=True)
class Piece:
    """A stretch of the prompt. Tokenize it with control tokens parsed if `trusted`, as plain text if not.

    Pieces meet only at control tokens, where a tokenizer cuts anyway; one with no control token out of a
    message is all trusted.
    """

    text: str
    trusted: bool


class Known:
    """Finds exactly the given control tokens, the longest first, as a tokenizer does."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = frozenset(token for token in tokens if token)
        self._lengths = sorted({len(token) for token in self._tokens}, reverse=True)
        self.first_letters = "".join(sorted({token[0] for token in self._tokens}))

    def at(self, text: str, start: int) -> str | None:
        """The token that begins at `start`."""
        candidates = (text[start : start + length] for length in self._lengths)
        return next((c for c in candidates if c in self._tokens), None)

    def touches(self, literal: str) -> bool:
        """Whether `literal` and some token contain or begin each other."""
        return any(token.startswith(literal) or token in literal for token in self._tokens)


class Shaped:
    """Finds everything that has the shape of a control token, where the tokens themselves are not known."""

    first_letters = "<["
    _shape = re.compile(r"<\|[^<>\n]{0,64}?\|>|<[^<>\s]{1,64}>|\[[^\[\]\s]{1,32}\]")

    def at(self, text: str, start: int) -> str | None:
        """The token-like text that begins at `start`."""
        found = self._shape.match(text, start)
        return found[0] if found else None

    def touches(self, literal: str) -> bool:
        """Whether `literal` holds or opens something token-like: then it must not stay as it is."""
        return literal[0] in self.first_letters


class Disguise:
    """Stand-ins for the first letters of control tokens, chosen so that they occur in none of `texts`.

    `literals` are what the template looks for in messages; they stay as they are where that is harmless.
    """

    def __init__(self, tokens: Known | Shaped, literals: Collection[str], texts: Iterable[str]) -> None:
        self._tokens = tokens
        taken = set().union(*texts)
        free = (chr(code) for code in range(_FIRST_STAND_IN, 0xFFFFE) if chr(code) not in taken)
        self._stand_in = dict(zip(tokens.first_letters, free, strict=False))
        self._original = {ord(stand_in): letter for letter, stand_in in self._stand_in.items()}
        self._plain_literals = tuple(t for t in literals if len(t) > 2 and not tokens.touches(t))
        first = "|".join(map(re.escape, tokens.first_letters))
        self._first = re.compile(first) if first else None

    @property
    def stand_ins(self) -> str:
        """All characters that stand for others."""
        return "".join(self._stand_in.values())

    def cover(self, value: Any, *, own_turn: bool = False) -> Any:
        """`value` with every string in it disguised, keys too. `own_turn`: the model said it."""
        if isinstance(value, str):
            return self._cover_text(value, own_turn)
        if isinstance(value, dict):
            return {self.cover(key): self.cover(child, own_turn=own_turn) for key, child in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.cover(child, own_turn=own_turn) for child in value]
        return value

    def _cover_text(self, text: str, own_turn: bool) -> str:
        if self._first is None:
            return text

        def swap(match: re.Match[str]) -> str:
            keep = self._stays(text, match.start(), own_turn)
            return match[0] if keep else self._stand_in[match[0]]

        return self._first.sub(swap, text)

    def _stays(self, text: str, at: int, own_turn: bool) -> bool:
        if text[at].isalnum():
            # A letter begins far too much: only whole tokens count, or the words that templates compare
            # with would change.
            return self._tokens.at(text, at) is None
        if own_turn and _THINKING.match(text, at):
            return True
        return text.startswith(self._plain_literals, at)

    def reveal(self, rendered: str, is_written: Callable[[str], bool]) -> tuple[Piece, ...]:
        """The prompt in pieces. `is_written` says whether the template can have written a control token."""
        text = rendered.translate(self._original)
        cuts = [0]
        doubtful: list[bool] = [False]
        for start, token in self._tokens_in(text):
            if rendered[start] in self._stand_in.values() or not is_written(token):
                doubtful[-1] = True
                continue
            cuts += [start, start + len(token)]
            doubtful += [False, False]
        return _joined(text, [*cuts, len(text)], doubtful)

    def _tokens_in(self, text: str) -> Iterator[tuple[int, str]]:
        """Control tokens from left to right, the longest first, as a tokenizer finds them."""
        at = 0
        while self._first is not None and (match := self._first.search(text, at)):
            token = self._tokens.at(text, match.start())
            if token is not None:
                yield match.start(), token
            at = match.start() + len(token or " ")


def _joined(text: str, cuts: list[int], doubtful: list[bool]) -> tuple[Piece, ...]:
    """Stretches between `cuts`, with neighbours that need no separation put together."""
    pieces: list[Piece] = []
    for start, end, doubt in zip(cuts[:-1], cuts[1:], doubtful, strict=True):
        stretch = text[start:end]
        if not stretch:
            continue
        if pieces and pieces[-1].trusted and not doubt:
            pieces[-1] = Piece(pieces[-1].text + stretch, True)
        else:
            pieces.append(Piece(stretch, not doubt))
    return tuple(pieces)
