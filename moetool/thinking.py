"""Thinking blocks: how a model marks them, telling them from its answer, and a grammar for the answer alone.

    template --find_markers--> Markers;  tokens --Splitter--> bytes of thinking, bytes of the answer

Markers are found in the text of tokens with control tokens spelled out, so that it does not matter whether a
model writes "<think>" as one control token, as one ordinary token, or letter by letter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Markers:
    """What opens thinking, and what ends it and begins the answer. `direct` begins an answer without any
    thinking; `skip` is what the prompt must end with so that the model answers at once."""

    start: str
    end: str
    skip: str
    direct: str = ""


def _tags(start: str, end: str) -> Markers:
    return Markers(start, end, skip=f"{start}\n\n{end}\n\n")


_FINAL = "<|channel|>final<|message|>"
# By what stands in a model's template; the first that matches.
_KNOWN: tuple[tuple[str, Markers], ...] = (
    ("<|channel|>analysis", Markers("<|channel|>analysis<|message|>", _FINAL, skip=_FINAL, direct=_FINAL)),
    ("<channel|>", Markers("<|channel>thought\n", "<channel|>", skip="<|channel>thought\n<channel|>")),
    ("</think>", _tags("<think>", "</think>")),
    ("<think>", _tags("<think>", "</think>")),
    ("[/THINK]", _tags("[THINK]", "[/THINK]")),
    ("</seed:think>", _tags("<seed:think>", "</seed:think>")),
    ("<|END_THINKING|>", _tags("<|START_THINKING|>", "<|END_THINKING|>")),
    ("</thinking>", _tags("<thinking>", "</thinking>")),
)


def find_markers(template: str) -> Markers | None:
    """How a model with this chat template marks its thinking; None when it does not think."""
    return next((markers for sign, markers in _KNOWN if sign in template), None)


_UNDECIDED, _THINKING, _ANSWER = "undecided", "thinking", "answer"


class Splitter:
    """Takes a model's tokens one by one, and returns what became certain: bytes of thinking, and bytes of
    the answer. White space around either is dropped where thinking was marked."""

    def __init__(self, markers: Markers, spelled: Callable[[int], bytes], *, is_open: bool = False) -> None:
        """`spelled`: a token's text, control tokens too. `is_open`: the prompt ends inside a block."""
        self._spelled = spelled
        self._start = markers.start.encode()
        self._end = markers.end.encode()
        self._openers = [
            (marker.encode(), state)
            for marker, state in ((markers.start, _THINKING), (markers.direct, _ANSWER))
            if marker
        ]
        self._state = _THINKING if is_open else _UNDECIDED
        self._at_edge = is_open  # white space that comes next is dropped
        self._held: list[tuple[bytes, bytes]] = []  # of each token: spelled out, and as text

    @property
    def in_answer(self) -> bool:
        """Has the answer begun?"""
        return self._state == _ANSWER

    @property
    def is_undecided(self) -> bool:
        """Has nothing come yet that tells whether the model thinks?"""
        return self._state == _UNDECIDED and not self._held

    def add(self, token: int, text: bytes) -> tuple[bytes, bytes]:
        """Take one token, `text` being its text with control tokens left out."""
        self._held.append((self._spelled(token), text))
        if self._state == _UNDECIDED:
            self._decide()
        thinking = self._take_thinking() if self._state == _THINKING else b""
        return thinking, self._take_answer() if self._state == _ANSWER else b""

    def flush(self) -> tuple[bytes, bytes]:
        """What is held back for a marker that never came."""
        rest = b"".join(text for _, text in self._held)
        self._held.clear()
        return (rest, b"") if self._state == _THINKING else (b"", rest)

    def passes(self, token: int) -> bool:
        """Before the answer: may this token come, if nothing of the answer may stand in it?"""
        held = b"".join(spelled for spelled, _ in self._held) + self._spelled(token)
        if self._state == _THINKING:
            return not held.partition(self._end)[2].strip()
        begun = held.lstrip()
        openers = [marker for marker, _ in self._openers]
        return bool(begun) and any(
            marker.startswith(begun) or (begun.startswith(marker) and self._opens_cleanly(begun, marker))
            for marker in openers
        )

    def _opens_cleanly(self, begun: bytes, marker: bytes) -> bool:
        return marker == self._start or not begun[len(marker) :].strip()

    def _decide(self) -> None:
        begun = b"".join(spelled for spelled, _ in self._held).lstrip()
        for marker, state in self._openers:
            if begun.startswith(marker):
                rest = begun[len(marker) :]
                self._held = [(rest, rest)] if rest else []
                self._enter(state)
                return
        if not any(marker.startswith(begun) for marker, _ in self._openers):
            self._state = _ANSWER

    def _enter(self, state: str) -> None:
        self._state = state
        self._at_edge = True

    def _take_thinking(self) -> bytes:
        spelled = b"".join(spelled for spelled, _ in self._held)
        at = spelled.find(self._end)
        if at < 0:
            return self._without_edge(self._release(len(spelled) - _overlap(spelled, self._end)))
        thinking = self._release(at)
        # Of the tokens that are left, the first may begin with thinking and the last end with the answer.
        before, _, rest = b"".join(spelled for spelled, _ in self._held).partition(self._end)
        thinking = self._without_edge(thinking + before)
        self._held = [(rest, rest)] if rest else []
        self._enter(_ANSWER)
        return thinking

    def _take_answer(self) -> bytes:
        text = b"".join(text for _, text in self._held)
        self._held.clear()
        return self._without_edge(text)

    def _release(self, n_bytes: int) -> bytes:
        """The text of the held tokens that end within the first `n_bytes`."""
        released = b""
        while self._held and len(self._held[0][0]) <= n_bytes:
            spelled, text = self._held.pop(0)
            n_bytes -= len(spelled)
            released += text
        return released

    def _without_edge(self, text: bytes) -> bytes:
        if self._at_edge:
            text = text.lstrip()
            self._at_edge = not text
        return text


def _overlap(text: bytes, marker: bytes) -> int:
    """Length of the longest end of `text` that begins `marker`."""
    lengths = range(min(len(text), len(marker) - 1), 0, -1)
    return next((n for n in lengths if marker.startswith(text[-n:])), 0)


class Grammar(Protocol):
    """What is needed of a grammar: that of the token loop."""

    def accepts(self, token: int) -> bool: ...
    def apply_mask(self, logits: npt.NDArray[np.float32]) -> None: ...
    def commit(self, token: int) -> None: ...
    def forced(self) -> tuple[int, ...]: ...
    def is_complete(self) -> bool: ...
    def is_stopped(self) -> bool: ...
    def is_sentence(self, text: bytes) -> bool: ...
    def closing(self, limit_bytes: int) -> bytes | None: ...


class AfterThinking:
    """A grammar that holds for the answer alone: while the model thinks it may write what it likes.

    After the thinking, one token of white space may come before the grammar begins, as models are used to.
    """

    def __init__(self, grammar: Grammar, where: Splitter, spelled: Callable[[int], bytes]) -> None:
        """`where`: a splitter of its own, at the start of the output; `spelled`: as it got it."""
        self._grammar = grammar
        self._where = where
        self._is_free = False  # the one token of white space has yet to come
        self._spelled = spelled

    def accepts(self, token: int) -> bool:
        """Whether `token` may come next."""
        if self._where.in_answer:
            return self._is_space(token) or self._grammar.accepts(token)
        return self._where.passes(token) or (self._where.is_undecided and self._grammar.accepts(token))

    def apply_mask(self, logits: npt.NDArray[np.float32]) -> None:
        """Set the logits of forbidden tokens to -inf, in place."""
        if self._where.in_answer or self._where.is_undecided:
            self._grammar.apply_mask(logits)
            return
        for token in range(len(logits)):
            if not self._where.passes(token):
                logits[token] = float("-inf")

    def commit(self, token: int) -> None:
        """Append `token`."""
        if self._where.in_answer:
            is_space, self._is_free = self._is_space(token), False
            if not is_space:
                self._grammar.commit(token)
            return
        was_undecided = self._where.is_undecided
        passes = self._where.passes(token)
        self._where.add(token, b"")
        self._is_free = self._where.in_answer
        if was_undecided and not passes:
            self._is_free = False
            self._grammar.commit(token)

    def forced(self) -> tuple[int, ...]:
        """Tokens that must come next whatever the model says."""
        return self._grammar.forced() if self._where.in_answer and not self._is_free else ()

    def is_complete(self) -> bool:
        """Whether the answer may stop here."""
        return (self._where.in_answer or self._where.is_undecided) and self._grammar.is_complete()

    def is_stopped(self) -> bool:
        """Whether nothing but an end token can follow."""
        return self._where.in_answer and self._grammar.is_stopped()

    def is_sentence(self, text: bytes) -> bool:
        """Whether `text`, the answer, is a whole sentence of the grammar."""
        return self._grammar.is_sentence(text)

    def closing(self, limit_bytes: int) -> bytes | None:
        """What ends an answer that a limit cut off; None inside the thinking."""
        return self._grammar.closing(limit_bytes) if self._where.in_answer else None

    def _is_space(self, token: int) -> bool:
        return self._is_free and not self._spelled(token).strip()
