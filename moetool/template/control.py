"""Which control tokens of a rendered prompt the template wrote, and which came with the messages.

A message may contain "<|im_end|>". Before rendering, `Disguise` swaps the first letter of everything in the
messages that could begin a control token for a stand-in: a character that occurs nowhere else. Slicing,
trimming and joining carry it along. After rendering, a control token that begins with a stand-in came out of
a message, one that begins with its own letter came out of the template.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moetool.errors import TemplateError

# Plane 15 is private use: assigned to nobody, and no case mapping touches it.
_FIRST_STAND_IN = 0xF0000
# Templates cut earlier thinking out of the model's own turns by these marks, control tokens or not.
THINKING = r"</?think(?:ing)?>|\[/?THINK\]"


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
        # Thousands of tokens share a few beginnings; those make a small expression.
        self._beginning = _any_of({token[:3] for token in self._tokens})
        self.first_letters = "".join(sorted({token[0] for token in self._tokens}))

    def find(self, text: str) -> Iterator[tuple[int, str]]:
        """Where tokens begin, from left to right, and which."""
        at = 0
        while found := self._beginning.search(text, at):
            token = self._at(text, found.start())
            if token is not None:
                yield found.start(), token
            at = found.start() + len(token or "x")

    def _at(self, text: str, start: int) -> str | None:
        candidates = (text[start : start + length] for length in self._lengths)
        return next((c for c in candidates if c in self._tokens), None)

    def touches(self, literal: str) -> bool:
        """Whether `literal` and some token contain or begin each other."""
        return any(token.startswith(literal) or token in literal for token in self._tokens)

    def lookahead(self, letter: str) -> str:
        """An expression for what must stand at a first letter for it to be swapped, "" for anything. A letter
        of the alphabet begins far too much: swapped elsewhere, it would change the words that templates
        compare with."""
        if not letter.isalnum():
            return ""
        return f"(?={_any_of([token for token in self._tokens if token[0] == letter]).pattern})"


class Shaped:
    """Finds everything that has the shape of a control token, where the tokens themselves are not known."""

    first_letters = "<["
    _shape = re.compile(r"<\|[^<>\n]{0,64}?\|>|<[^<>\s]{1,64}>|\[[^\[\]\s]{1,32}\]")

    def find(self, text: str) -> Iterator[tuple[int, str]]:
        """Where token-like texts begin, from left to right, and which."""
        return ((found.start(), found[0]) for found in self._shape.finditer(text))

    def touches(self, literal: str) -> bool:
        """Whether `literal` holds or opens something token-like: then it must not stay as it is."""
        return literal[0] in self.first_letters

    def lookahead(self, letter: str) -> str:
        """As `Known`'s: here every first letter is swapped, wherever it stands."""
        return ""


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
        plain = [re.escape(t) for t in literals if len(t) > 2 and not tokens.touches(t)]
        self._swaps = self._make_swaps(plain)
        self._own_swaps = self._make_swaps([*plain, THINKING])

    @property
    def stand_ins(self) -> str:
        """All characters that stand for others."""
        return "".join(self._stand_in.values())

    def cover(self, value: Any, *, own_turn: bool = False) -> Any:
        """`value` with every string in it disguised, keys too. `own_turn`: the model said it."""
        if isinstance(value, str):
            for pattern, stand_in in self._own_swaps if own_turn else self._swaps:
                value = pattern.sub(stand_in, value)
            return value
        if isinstance(value, Mapping):
            return {self.cover(key): self.cover(child, own_turn=own_turn) for key, child in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.cover(child, own_turn=own_turn) for child in value]
        if isinstance(value, (int, float, type(None))):
            return value
        raise TemplateError(f"A chat is made of plain data, not of {type(value).__name__}.")

    def _make_swaps(self, plain: list[str]) -> list[tuple[re.Pattern[str], str]]:
        """For each first letter: where it is swapped, and for what."""
        kept = "".join(f"(?!{pattern})" for pattern in plain)
        return [
            (re.compile(kept + self._tokens.lookahead(letter) + re.escape(letter)), stand_in)
            for letter, stand_in in self._stand_in.items()
        ]

    def reveal(self, rendered: str, is_written: Callable[[str], bool]) -> tuple[Piece, ...]:
        """The prompt in pieces. `is_written` says whether the template can have written a control token."""
        text = rendered.translate(self._original)
        stand_ins = set(self.stand_ins)
        cuts = [0]
        doubtful = [False]
        for start, token in self._tokens.find(text):
            if rendered[start] in stand_ins or not is_written(token):
                doubtful[-1] = True
            else:
                cuts += [start, start + len(token)]
                doubtful += [False, False]
        return _joined(text, [*cuts, len(text)], doubtful)


def _any_of(texts: Collection[str]) -> re.Pattern[str]:
    # Longest first; with none there is nothing to match.
    ordered = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")


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
