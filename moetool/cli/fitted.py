"""Prompts that fit into the context, by what `--on-full` says of those that do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from moetool.anatomy import why_no_shift
from moetool.cli.answer import USUAL_PIECE_BYTES, refuse_hopeless
from moetool.cli.on_full import OnFull
from moetool.cli.opening import Opened
from moetool.cli.think import Think
from moetool.cli.thoughts import wished
from moetool.engine.model import Engine
from moetool.engine.vocabulary import Vocabulary
from moetool.errors import ContextFull, UsageError
from moetool.fullness import GAP, Fitted, cut_last, leave_out, middle_cut_out, prompt_limit
from moetool.generate import Generation
from moetool.prompt import (
    Message,
    Prompt,
    chat_prompt,
    find_gap,
    keep_prefix,
    plain_tokens,
    shared_length,
)
from moetool.settings import Settings

Make = Callable[[Sequence[Message]], Prompt]


@dataclass(frozen=True)
class FittedPrompt:
    """A prompt, and what was left out of it: `n_dropped` tokens (`is_more`: at least), which are the oldest
    `n_left_out` turns, and with `is_cut` the middle of the last message. `n_keep` tokens at its beginning are
    not the conversation's: the system message, and the template around it."""

    prompt: Prompt
    n_dropped: int = 0
    is_more: bool = False
    n_left_out: int = 0
    is_cut: bool = False
    n_keep: int = 0

    @property
    def told(self) -> str:
        """What was left out, in words; "" for nothing."""
        oldest = f"the {self.n_left_out} oldest messages" if self.n_left_out else ""
        middle = "the middle of the last message" if self.is_cut else ""
        what = " and ".join(filter(None, (oldest, middle)))
        more = "more than " if self.is_more else ""
        return f"{what} left out, {more}{self.n_dropped} tokens" if what else ""


def prompt_maker(vocabulary: Vocabulary, template: str, think: Think | None) -> Make:
    """How messages become a prompt: by a chat template, or bare where there is none."""

    def make(messages: Sequence[Message]) -> Prompt:
        if template:
            return chat_prompt(vocabulary, template, messages, wished(think))
        return Prompt(plain_tokens(vocabulary, "\n".join(message.content for message in messages)))

    return make


def require_shift(opened: Opened, settings: Settings) -> None:
    """UsageError with the reason, before a model is loaded, when its context cannot be shifted."""
    reason = why_no_shift(opened.header, opened.anatomy, settings)
    if reason:
        raise _no_shift(reason)


def _no_shift(reason: str) -> UsageError:
    return UsageError(
        f"The context of this model cannot be shifted: {reason}",
        "--on-full truncate-middle leaves older messages out, and reads the others anew",
    )


@dataclass(frozen=True)
class Fitting:
    """How prompts are made to fit: into whose context, by what rule, with how many tokens for an answer."""

    engine: Engine
    on_full: OnFull
    max_tokens: int | None

    def fit(self, messages: Sequence[Message], make: Make, n_before: int = 0) -> FittedPrompt:
        """The prompt that `make` makes of `messages`, or of what fits of them; `n_before` turns were left out
        last time. ContextFull when nothing may be left out, or not enough."""
        if self.on_full is OnFull.truncate_middle:
            shorter = self._without_hopeless(messages)
            fitted = self._fitted(shorter, make, n_before, may_cut=True)
            return fitted if shorter == messages else replace(fitted, is_more=True)
        refuse_hopeless(self.engine, messages[-1].content)
        if self.on_full is OnFull.shift:
            if not self.engine.memory.can_shift:
                raise _no_shift("llama.cpp says that it cannot")
            return self._fitted(messages, make, n_before, may_cut=False)
        prompt = make(messages)
        self._require_room(prompt, "ask for a larger one with --ctx, shorten the prompt, or see --on-full")
        return FittedPrompt(prompt)

    def _fitted(
        self, messages: Sequence[Message], make: Make, n_before: int, *, may_cut: bool
    ) -> FittedPrompt:
        limit = prompt_limit(self.engine.n_ctx, self.max_tokens)
        made = cache(make)  # a long prompt takes a while to be cut into tokens

        def count(some: Sequence[Message]) -> int:
            return len(made(tuple(some)).tokens)

        fitted = leave_out(messages, count, limit, n_before)
        if may_cut and count(fitted.messages) > limit:
            fitted = self._cut(fitted, count, limit)
        prompt = made(fitted.messages)
        self._require_room(prompt, "ask for a larger one with --ctx")
        n_dropped = count(messages) - len(prompt.tokens) if fitted.n_left_out or fitted.is_cut else 0
        return FittedPrompt(
            prompt,
            n_dropped,
            n_left_out=fitted.n_left_out,
            is_cut=fitted.is_cut,
            n_keep=_system_length(messages, prompt, make),
        )

    def _cut(self, fitted: Fitted, count: Callable[[Sequence[Message]], int], limit: int) -> Fitted:
        vocabulary = self.engine.vocabulary

        def cut(text: str, keep: int) -> str:
            halves = middle_cut_out(vocabulary.tokenize(text), keep)
            # Half a character at the seam is dropped.
            head, tail = (b"".join(map(vocabulary.piece, half)).decode("utf-8", "ignore") for half in halves)
            return head + GAP + tail

        return cut_last(fitted, count, limit, cut, len(vocabulary.tokenize(fitted.messages[-1].content)))

    def _require_room(self, prompt: Prompt, hint: str) -> None:
        n_tokens, n_ctx = len(prompt.tokens), self.engine.n_ctx
        if n_tokens > n_ctx:
            raise ContextFull(f"{n_tokens} tokens do not fit into a context of {n_ctx}", hint)

    def _without_hopeless(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Without what is so far in the middle of the last message that it cannot stay: to cut hundreds of
        megabytes into tokens would take minutes."""
        *others, last = messages
        n_ctx = self.engine.n_ctx
        if len(last.content) <= n_ctx * USUAL_PIECE_BYTES:
            return messages
        n_chars = n_ctx * max(map(len, self.engine.vocabulary.all_pieces()))
        if len(last.content) <= 2 * n_chars:
            return messages
        return [*others, Message(last.role, last.content[:n_chars] + last.content[-n_chars:])]


def _system_length(messages: Sequence[Message], prompt: Prompt, make: Make) -> int:
    """How many tokens a prompt shares with one that asks something else after the same system message."""
    system = [message for message in messages[:1] if message.role == "system"]
    return shared_length(prompt.tokens, make([*system, Message("user", "\N{BULLET}")]).tokens)


def begin_with(engine: Engine, fitted: FittedPrompt, on_full: OnFull) -> list[int]:
    """Make the engine remember as much of a prompt as it can, and nothing else; returns the rest of it."""
    tokens = fitted.prompt.tokens
    if on_full is OnFull.shift:
        start, count = find_gap(engine.tokens, tokens[:-1])
        if count:
            engine.memory.drop(start, count)
    return keep_prefix(engine, tokens)


def let_shift(generation: Generation, engine: Engine, fitted: FittedPrompt, on_full: OnFull) -> None:
    """Let an answer go on in a full context by forgetting the oldest of the conversation, if so asked."""
    if on_full is OnFull.shift:
        generation.make_room = lambda n_more: engine.make_room(fitted.n_keep, n_more)
