"""A conversation that does not fit into the context: what of it is left out. Pure: others count its tokens.

system, u1, a1, u2, a2, u3   --older exchanges go first-->   system, u3   --then the middle of u3
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from moetool.prompt import Message

Count = Callable[[Sequence[Message]], int]

# What is left for the answer of a prompt that was cut: this share of the context, but no more than this.
_ANSWER_SHARE = 4
_ANSWER_TOKENS = 1024
# Stands where the middle of a text was.
GAP = "\n[…]\n"


@dataclass(frozen=True)
class Fitted:
    """The messages that are left, how many turns were left out of them, and whether the last was cut."""

    messages: tuple[Message, ...]
    n_left_out: int = 0
    is_cut: bool = False


def prompt_limit(n_ctx: int, max_tokens: int | None) -> int:
    """The most tokens a prompt may have so that there is room for an answer: for `max_tokens`, but at most
    half of the context; for a quarter of it, 1024 at most, where nobody says."""
    wished = min(_ANSWER_TOKENS, n_ctx // _ANSWER_SHARE) if max_tokens is None else max_tokens
    return n_ctx - min(wished, n_ctx // 2)


def leave_out(messages: Sequence[Message], count: Count, limit: int, n_before: int = 0) -> Fitted:
    """Leave out the oldest exchanges, whole ones, never the system message or the last question.

    All messages stay if they fit into `limit` tokens; else as many are left out as before (`n_before` turns)
    if that is enough; else so many that half of the limit stays free, so that it is not every time.
    """
    system, turns = _parted(messages)

    def without(n: int) -> tuple[Message, ...]:
        return (*system, *turns[n:])

    last = (len(turns) - 1) // 2  # exchanges that could go
    for n_turns in (0, min(n_before, 2 * last)):
        if count(without(n_turns)) <= limit:
            return Fitted(without(n_turns), n_turns)
    low, high = 0, last  # the fewest exchanges, of 0 … last, whose absence leaves half of it free
    while low < high:
        middle = (low + high) // 2
        if count(without(2 * middle)) <= limit // 2:
            high = middle
        else:
            low = middle + 1
    return Fitted(without(2 * low), 2 * low)


def cut_last(
    fitted: Fitted, count: Count, limit: int, cut: Callable[[str, int], str], n_tokens: int
) -> Fitted:
    """Cut the middle of the last message out until all fit; `cut` keeps about so many tokens of a text, of
    which the message has `n_tokens`. What does not fit even without it is returned as it is."""
    *others, last = fitted.messages
    keep = n_tokens
    while keep > 0:
        messages = (*others, replace(last, content=cut(last.content, keep)))
        over = count(messages) - limit
        if over <= 0:
            return Fitted(messages, fitted.n_left_out, is_cut=True)
        keep -= over
    return fitted


def _parted(messages: Sequence[Message]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The system message, if there is one, and the turns."""
    n = 1 if messages and messages[0].role == "system" else 0
    return tuple(messages[:n]), tuple(messages[n:])


def middle_cut_out(tokens: Sequence[int], keep: int) -> tuple[list[int], list[int]]:
    """The first and the last of `keep` tokens; the end has what cannot be halved."""
    n_head = min(keep, len(tokens)) // 2
    n_tail = min(keep, len(tokens)) - n_head
    return list(tokens[:n_head]), list(tokens[len(tokens) - n_tail :])
