"""Thinking blocks: how a model marks them, telling them from its answer, and a grammar for the answer alone.

    template --find_markers--> Markers;  tokens --Splitter--> bytes of thinking, bytes of the answer

Markers are found in the text of tokens with control tokens spelled out, so that it does not matter whether a
model writes "<think>" as one control token, as one ordinary token, or letter by letter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Markers:
    """What opens thinking, and what ends it and begins the answer. `direct` begins an answer without any
    thinking; `skip` is what the prompt must end with so that the model answers at once; `lead` is a control
    token that may stand between the thinking and the answer; `close` ends the answer, where the model writes
    on after it. `on` and `off` are what the template is told besides the usual names to think, or not to."""

    start: str
    end: str
    skip: str
    direct: str = ""
    lead: str = ""
    close: str = ""
    on: Mapping[str, Any] = field(default_factory=dict)
    off: Mapping[str, Any] = field(default_factory=dict)


def _tags(start: str, end: str, lead: str = "") -> Markers:
    return Markers(start, end, skip=f"{start}\n\n{end}\n\n", lead=lead)


_FINAL = "<|channel|>final<|message|>"
_TO_USER = "<|start|>assistant to=user<|message|>"
_CONTENT = "<|begin|>assistant<|content|>"
# Both names are in use; a template that knows neither ignores them.
_USUAL_SWITCHES = ("enable_thinking", "thinking")
# By what stands in a model's template; the first that matches. The templates are those that llama.cpp tests
# its parsers with (models/templates).
_KNOWN: tuple[tuple[str, Markers], ...] = (
    # openai-gpt-oss: harmony. The model begins with its channel.
    (
        "<|channel|>analysis",
        Markers(
            "<|channel|>analysis<|message|>",
            f"<|end|><|start|>assistant{_FINAL}",
            skip=_FINAL,
            direct=_FINAL,
        ),
    ),
    # muse-glimmer: messages to oneself, then to the user.
    (
        " to=self<|message|>",
        Markers(
            " to=self<|message|>",
            f"<|eom|>{_TO_USER}",
            skip=" to=user<|message|>",
            direct=" to=user<|message|>",
            close="<|eom|>",
        ),
    ),
    # upstage-Solar-Open
    (
        "assistant<|think|>",
        Markers(
            "<|think|>",
            f"<|end|>{_CONTENT}",
            skip=f"<|think|><|end|>{_CONTENT}",
            direct="<|content|>",
            close="<|end|>",
        ),
    ),
    # Kimi-K3: the words between the markers are ordinary tokens, so that what follows the answer is text too.
    (
        "open_tag('think'",
        Markers(
            "<|open|>think<|sep|>",
            "<|close|>think<|sep|><|open|>response<|sep|>",
            skip="<|open|>response<|sep|>",
            direct="<|open|>response<|sep|>",
            close="<|close|>",
        ),
    ),
    # tencent-Hy3: its markers are made of a suffix.
    (
        "HYTK = ':opensource'",
        Markers(
            "<think:opensource>",
            "</think:opensource>",
            skip="<think:opensource></think:opensource>",
            on={"reasoning_effort": "high"},
            off={"reasoning_effort": "no_think"},
        ),
    ),
    # MiniMax-M3: an answer without thinking begins with the end of a block.
    (
        "</mm:think>",
        Markers(
            "<mm:think>",
            "</mm:think>",
            skip="</mm:think>",
            direct="</mm:think>",
            on={"thinking_mode": "enabled"},
            off={"thinking_mode": "disabled"},
        ),
    ),
    # Apriel-1.6: the prompt ends with the start.
    (
        "Here are my reasoning steps:",
        Markers("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]", skip="[BEGIN FINAL RESPONSE]\n"),
    ),
    ("<|inner_prefix|>", Markers("<|inner_prefix|>", "<|inner_suffix|>", skip="")),  # Apertus
    ("<channel|>", Markers("<|channel>thought\n", "<channel|>", skip="<|channel>thought\n<channel|>")),
    ("</think>", _tags("<think>", "</think>")),
    ("<think>", _tags("<think>", "</think>")),
    ("[/THINK]", _tags("[THINK]", "[/THINK]")),
    ("</seed:think>", _tags("<seed:think>", "</seed:think>")),
    # Cohere: of 2026, and Command R7B.
    ("<|START_TEXT|>", _tags("<|START_THINKING|>", "<|END_THINKING|>", lead="<|START_TEXT|>")),
    ("<|END_THINKING|>", _tags("<|START_THINKING|>", "<|END_THINKING|>", lead="<|START_RESPONSE|>")),
    ("</thinking>", _tags("<thinking>", "</thinking>")),
)


def find_markers(template: str) -> Markers | None:
    """How a model with this chat template marks its thinking; None when it does not think."""
    return next((markers for sign, markers in _KNOWN if sign in template), None)


def thinking_switches(markers: Markers | None, think: bool) -> dict[str, Any]:
    """What a template is told so that the model thinks, or does not."""
    own = {} if markers is None else markers.on if think else markers.off
    return dict.fromkeys(_USUAL_SWITCHES, think) | dict(own)


_UNDECIDED, _THINKING, _ANSWER, _ENDED = "undecided", "thinking", "answer", "ended"


class Splitter:
    """Takes a model's tokens one by one, and returns what became certain: bytes of thinking, and bytes of
    the answer. White space around either is dropped where thinking was marked."""

    def __init__(self, markers: Markers, spelled: Callable[[int], bytes], *, is_open: bool = False) -> None:
        """`spelled`: a token's text, control tokens too. `is_open`: the prompt ends inside a block."""
        self._spelled = spelled
        # White space before them is dropped, as a model may or may not write it.
        self._start = markers.start.encode().lstrip()
        self._end = markers.end.encode()
        self.lead = markers.lead.encode()
        self.close = markers.close.encode()
        self._openers = [
            (marker, state)
            for marker, state in ((self._start, _THINKING), (markers.direct.encode().lstrip(), _ANSWER))
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
    def ended(self) -> bool:
        """Has the answer ended?"""
        return self._state == _ENDED

    @property
    def is_undecided(self) -> bool:
        """Has nothing come yet that tells whether the model thinks?"""
        return self._state == _UNDECIDED and not self._held

    def add(self, token: int, text: bytes) -> tuple[bytes, bytes]:
        """Take one token, `text` being its text with control tokens left out."""
        if self._state == _ENDED:
            return b"", b""
        self._held.append((self._spelled(token), text))
        if self._state == _UNDECIDED:
            self._decide()
        thinking = self._take_thinking() if self._state == _THINKING else b""
        return thinking, self._take_answer() if self._state == _ANSWER else b""

    def flush(self) -> tuple[bytes, bytes]:
        """What is held back for a marker that never came."""
        rest = self._rest()
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
        if not self.close:
            return self._without_edge(self._rest())
        spelled = b"".join(spelled for spelled, _ in self._held)
        at = spelled.find(self.close)
        if at < 0:
            return self._without_edge(self._release(len(spelled) - _overlap(spelled, self.close)))
        text = self._release(at)
        before = b"".join(spelled for spelled, _ in self._held).partition(self.close)[0]
        self._held.clear()
        self._state = _ENDED
        return self._without_edge(text + before)

    def _rest(self) -> bytes:
        """The text of all held tokens, which are held no longer."""
        rest = b"".join(text for _, text in self._held)
        self._held.clear()
        return rest

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
    def allowed(self) -> npt.NDArray[np.int64]: ...
    def commit(self, token: int) -> None: ...
    def forced(self) -> tuple[int, ...]: ...
    def is_complete(self) -> bool: ...
    def is_stopped(self) -> bool: ...
    def is_sentence(self, text: bytes) -> bool: ...
    def closing(self, limit_bytes: int) -> bytes | None: ...


class AfterThinking:
    """A grammar that holds for the answer alone: while the model thinks it may write what it likes.

    After the thinking, the token that leads to the answer and one of white space may come before the grammar
    begins, as models are used to; when the answer is whole, the token that closes it may come.
    """

    def __init__(
        self, grammar: Grammar, where: Splitter, spelled: Callable[[int], bytes], n_vocab: int
    ) -> None:
        """`where`: a splitter of its own, at the start of the output; `spelled`: as it got it."""
        self._grammar = grammar
        self._where = where
        self._may_lead = False  # the token that leads to the answer may yet come
        self._is_free = False  # the one token of white space may yet come
        self._spelled = spelled
        self._n_vocab = n_vocab

    def accepts(self, token: int) -> bool:
        """Whether `token` may come next."""
        if self._where.in_answer:
            return self._is_beside(token) or self._grammar.accepts(token)
        return self._where.passes(token) or (self._where.is_undecided and self._grammar.accepts(token))

    def allowed(self) -> npt.NDArray[np.int64]:
        """Ids of the tokens that may come next; without those beside the answer, which come when the model
        wants them."""
        if self._where.in_answer or self._where.is_undecided:
            return self._grammar.allowed()
        import numpy as np

        return np.array([token for token in range(self._n_vocab) if self._where.passes(token)])

    def commit(self, token: int) -> None:
        """Append `token`."""
        if self._where.in_answer:
            leads, is_space = self._leads(token), self._is_space(token)
            self._may_lead, self._is_free = False, leads
            if not leads and not is_space and not self._closes(token):
                self._grammar.commit(token)
            return
        was_undecided = self._where.is_undecided
        passes = self._where.passes(token)
        self._where.add(token, b"")
        self._may_lead = self._is_free = self._where.in_answer
        if was_undecided and not passes:
            self._may_lead = self._is_free = False
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

    def _is_beside(self, token: int) -> bool:
        """Is it a token that belongs neither to the thinking nor to the answer?"""
        return self._leads(token) or self._is_space(token) or self._closes(token)

    def _leads(self, token: int) -> bool:
        lead = self._where.lead
        return self._may_lead and bool(lead) and self._spelled(token) == lead

    def _is_space(self, token: int) -> bool:
        return self._is_free and not self._spelled(token).strip()

    def _closes(self, token: int) -> bool:
        close = self._where.close
        return bool(close) and self._spelled(token) == close and self._grammar.is_complete()
