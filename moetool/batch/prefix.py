"""The beginning that prompts have in common: decoded once, shared by all sequences, kept between prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

# A shorter one is not worth a batch of its own.
LEAST_TOKENS = 16


class Slot(Protocol):
    """What is needed of one sequence of an engine."""

    @property
    def tokens(self) -> list[int]: ...
    def decode(self, tokens: Sequence[int]) -> None: ...
    def rewind(self, n_past: int) -> int: ...
    def share(self, other: Any, n_tokens: int) -> int: ...


class SharedPrefix:
    """The first tokens of most prompts, and which slots have them."""

    def __init__(self, prompts: Sequence[Sequence[int]]) -> None:
        """What `prompts`, a sample of those to come, have in common; nothing where that is short."""
        common = _common(prompts) if len(prompts) > 1 else []
        self.tokens = common if len(common) >= LEAST_TOKENS else []

    def enter(self, slot: Slot, slots: Sequence[Slot], prompt: Sequence[int]) -> list[int]:
        """Make `slot` ready for a prompt; returns what is still to be decoded, which is never nothing."""
        n = len(self.tokens)
        if not n or len(prompt) <= n or list(prompt[:n]) != self.tokens:
            slot.rewind(0)
            return list(prompt)
        if not self._has_it(slot):
            other = next((other for other in slots if self._has_it(other)), None)
            if other is not None:
                slot.share(other, n)
        if not self._has_it(slot) or slot.rewind(n) < n:
            slot.rewind(0)
            slot.decode(self.tokens)
        return list(prompt[n:])

    def _has_it(self, slot: Slot) -> bool:
        return slot.tokens[: len(self.tokens)] == self.tokens


def _common(prompts: Sequence[Sequence[int]]) -> list[int]:
    """What all begin with; less than any of them whole."""
    shortest = min(prompts, key=len)[:-1]
    differing = (i for i, token in enumerate(shortest) if any(prompt[i] != token for prompt in prompts))
    return list(shortest[: next(differing, len(shortest))])
