"""The token loop: prompt tokens in, a stream of text pieces out, over anything that decodes and samples.

Chat, one-shot, JSON and bench are consumers of one stream. It knows no ctypes, no template and no terminal.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from moetool.errors import ContextFull, Interrupted

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Why a generation ended.
END_OF_TEXT = "stop"  # the model ended it, or a stop string did
LENGTH = "length"  # max_tokens
CONTEXT = "context"  # the context is full
GRAMMAR = "grammar"  # the grammar is satisfied and allows no more
INTERRUPTED = "interrupted"  # Ctrl-C

# What closes a broken-off answer is short, or is not looked for: at about a millisecond a byte.
CLOSING_BYTES = 1024


class Split(Protocol):
    """What a generation needs to tell thinking from the answer: bytes of the one and of the other."""

    @property
    def in_answer(self) -> bool: ...
    @property
    def ended(self) -> bool: ...
    def add(self, token: int, text: bytes) -> tuple[bytes, bytes]: ...
    def flush(self) -> tuple[bytes, bytes]: ...


class Rule(Protocol):
    """What may come next: is a token allowed, and all that are."""

    def accepts(self, token: int) -> bool: ...
    def allowed(self) -> npt.NDArray[np.int64]: ...


class Decoder(Protocol):
    """What a generation needs of an engine."""

    @property
    def n_ctx(self) -> int: ...
    @property
    def n_past(self) -> int: ...
    def decode(self, tokens: Sequence[int]) -> None: ...
    def sample(self, rule: Rule | None = None) -> int: ...
    def piece(self, token: int) -> bytes: ...
    def is_end(self, token: int) -> bool: ...


class Grammar(Rule, Protocol):
    """What a generation needs of a constraint: where the answer stands in its grammar."""

    def commit(self, token: int) -> None: ...
    def forced(self) -> tuple[int, ...]: ...
    def is_complete(self) -> bool: ...
    def is_stopped(self) -> bool: ...
    def is_sentence(self, text: bytes) -> bool: ...
    def closing(self, limit_bytes: int) -> bytes | None: ...


@dataclass(frozen=True)
class Limits:
    """When to stop besides the model's own end: `max_tokens` generated, or any `stop` string written."""

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Token:
    """One generated token: the text that became certain with it ("" inside a character or a possible stop
    string), whether the grammar left no choice, and what of the text is thinking before the answer."""

    id: int
    text: str
    forced: bool
    thinking: str = ""


@dataclass(frozen=True)
class Stats:
    """What one generation did; seconds from the first prompt token on. `prompt_tokens` were read,
    `reused_tokens` were there before them, `shifted_tokens` were forgotten to make room. `complete` tells,
    under a grammar, whether the text is a whole sentence of it (None without one); `closing` is the end of
    the text that the model did not write: what closes a sentence that a limit cut off. `decode_tok_s` counts
    the tokens after the first, which belongs to the prompt's pass."""

    finish_reason: str
    prompt_tokens: int
    generated_tokens: int
    forced_tokens: int
    complete: bool | None
    prompt_s: float
    ttft_s: float | None
    decode_s: float
    closing: str = ""
    reused_tokens: int = 0
    shifted_tokens: int = 0

    @property
    def prompt_tok_s(self) -> float | None:
        return self.prompt_tokens / self.prompt_s if self.prompt_s > 0 and self.prompt_tokens else None

    @property
    def decode_tok_s(self) -> float | None:
        n_later = self.generated_tokens - 1
        return n_later / self.decode_s if n_later > 0 and self.decode_s > 0 else None


class Generation:
    """One answer. Iterate over it for its tokens; `stats` is set when the iteration has ended, also when it
    ended by Ctrl-C or a full context, so that what was written so far is never lost.

    Who decodes several answers side by side does in turns what the iteration does: decode `pending`, `draw`,
    and `finish` with `reason` once there is one.
    """

    def __init__(
        self,
        engine: Decoder,
        prompt: Sequence[int],
        limits: Limits,
        grammar: Grammar | None = None,
        clock: Callable[[], float] = time.perf_counter,
        *,
        split: Split | None = None,
    ) -> None:
        """`prompt`: tokens not yet in the engine's cache; at least one. `split`: tells thinking from the
        answer; stop strings and `text` are the answer's alone."""
        self._engine = engine
        self._n_prompt = len(prompt)
        self._limits = limits
        self._grammar = grammar
        self._clock = clock
        self._text = TextAssembler(limits.stop)
        self._split = split
        self._thought = TextAssembler()
        self._n_reused = engine.n_past
        self._n_shifted = 0
        self._n_generated = 0
        self._n_forced = 0
        self._rest = ""
        self._started = clock()
        self._prompted: float | None = None
        self._first: float | None = None
        # Asked in a full context to make room for so many tokens; returns how many were forgotten for them.
        # None, or 0: the answer ends there.
        self.make_room: Callable[[int], int] | None = None
        self.pending = list(prompt)  # to be decoded before more can be drawn
        self.reason = ""  # why it ended
        self.text = ""
        self.thinking = ""
        self.stats: Stats | None = None

    def __iter__(self) -> Iterator[Token]:
        reason = INTERRUPTED
        try:
            # A prompt that does not fit is the caller's error; a full context later on is an ending.
            self._engine.decode(self.pending)
            yield from self.draw()
            while not self.reason:
                self._decode_more()
                if not self.reason:
                    yield from self.draw()
            reason = self.reason
        except Interrupted:
            reason = INTERRUPTED
        finally:
            self.finish(reason)

    def _decode_more(self) -> None:
        while True:
            try:
                self._engine.decode(self.pending)
            except ContextFull:
                n_forgotten = self.make_room(len(self.pending)) if self.make_room is not None else 0
                if not n_forgotten:
                    self.reason = CONTEXT
                    return
                self._n_shifted += n_forgotten
            else:
                return

    def draw(self) -> Iterator[Token]:
        """The tokens that follow once `pending` was decoded: those have to be decoded next, unless something
        has ended the answer, which is `reason` then."""
        self._prompted = self._prompted or self._clock()
        self.pending = []
        for token in self._next_tokens():
            if self._engine.is_end(token.id):
                self.reason = END_OF_TEXT
                return
            self._first = self._first or self._clock()
            self.pending.append(token.id)
            self._n_generated += 1
            self.text += token.text
            self.thinking += token.thinking
            yield token
            if self._text.stopped or (self._split is not None and self._split.ended):
                self.reason = END_OF_TEXT
                return
            if self._n_generated == self._limits.max_tokens:
                self.reason = LENGTH
                return
        if self._grammar is not None and self._grammar.is_stopped():
            self.reason = GRAMMAR

    def _next_tokens(self) -> Iterator[Token]:
        """The sampled token, then those the grammar forces after it, to be decoded as one batch."""
        if self._grammar is None:
            yield self._made(self._engine.sample(), forced=False)
            return
        forced = self._grammar.forced()
        if not forced:
            chosen = self._allowed_sample(self._grammar)
            if not self._engine.is_end(chosen):
                self._grammar.commit(chosen)
            yield self._made(chosen, forced=False)
            if self._engine.is_end(chosen) or self._grammar.is_stopped():
                return
            forced = self._grammar.forced()
        for token in forced:
            self._grammar.commit(token)
            self._n_forced += 1
            yield self._made(token, forced=True)

    def _allowed_sample(self, grammar: Grammar) -> int:
        if self._split is not None and not self._split.in_answer:
            # Before the answer nearly everything may come.
            chosen = self._engine.sample()
            if grammar.accepts(chosen):
                return chosen
        return self._engine.sample(grammar)

    def _made(self, token: int, *, forced: bool) -> Token:
        if self._engine.is_end(token):
            return Token(token, "", forced)
        thought, answer = b"", self._engine.piece(token)
        if self._split is not None:
            thought, answer = self._split.add(token, answer)
        return Token(token, self._text.add(answer), forced, self._thought.add(thought) if thought else "")

    def rest(self) -> str:
        """What is to be written after the last token: text held back for a stop string that never came, and
        what closes an answer that a limit cut off."""
        return self._rest

    def finish(self, reason: str) -> None:
        """Nothing more will be drawn: close what can be closed, and tell what it took."""
        ended = self._clock()
        closing = self._closing(reason)
        thought, answer = self._split.flush() if self._split is not None else (b"", b"")
        self.thinking += self._thought.flush(thought)
        self._rest = "" if self._text.stopped else self._text.flush(answer + (closing or b""))
        self.text += self._rest
        first = self._first
        self.stats = Stats(
            finish_reason=reason,
            prompt_tokens=self._n_prompt,
            generated_tokens=self._n_generated,
            forced_tokens=self._n_forced,
            complete=self._is_whole(closing),
            prompt_s=(self._prompted or self._started) - self._started,
            ttft_s=first - self._started if first is not None else None,
            decode_s=ended - first if first is not None else 0.0,
            # A character that was cut in two is told as the model's.
            closing=closing.decode("utf-8", "ignore") if closing else "",
            reused_tokens=self._n_reused,
            shifted_tokens=self._n_shifted,
        )

    def _closing(self, reason: str) -> bytes | None:
        """What ends an answer that a limit cut off inside its grammar; None when nothing short does."""
        if self._grammar is None or reason not in {LENGTH, CONTEXT}:
            return None
        return self._grammar.closing(CLOSING_BYTES)

    def _is_whole(self, closing: bytes | None) -> bool | None:
        if self._grammar is None:
            return None
        # A stop string is cut off the text, though the grammar has seen it.
        if self._text.stopped:
            return self._grammar.is_sentence(self.text.encode())
        return closing is not None or self._grammar.is_complete()


class TextAssembler:
    """Bytes of tokens -> text that is certain: whole characters, and nothing that may begin a stop string."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(s for s in stop if s)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def add(self, data: bytes) -> str:
        """Take one token's bytes; return the text that can be shown now. Sets `stopped` at a stop string,
        and returns what stood before it."""
        self._held += self._decode.decode(data)
        ends = [at for s in self._stop if (at := self._held.find(s)) >= 0]
        if ends:
            self.stopped = True
            return self._take(min(ends))
        return self._take(len(self._held) - self._possible_start())

    def flush(self, last: bytes = b"") -> str:
        """What is held back, and `last`, when nothing more will come: no stop string counts any more, and an
        unfinished character becomes U+FFFD."""
        self._held += self._decode.decode(last, final=True)
        return self._take(len(self._held))

    def _take(self, n: int) -> str:
        text, self._held = self._held[:n], self._held[n:]
        return text

    def _possible_start(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = 0
        for s in self._stop:
            for n in range(min(len(s) - 1, len(self._held)), longest, -1):
                if self._held.endswith(s[:n]):
                    longest = n
                    break
        return longest
