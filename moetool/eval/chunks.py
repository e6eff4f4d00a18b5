"""A text cut into chunks as llama-perplexity cuts it (tools/perplexity/perplexity.cpp, perplexity)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moetool.errors import UsageError

# llama-perplexity's default, which most published figures were made with.
CHUNK_TOKENS = 512


@dataclass(frozen=True)
class Chunks:
    """A text's tokens, [n_chunks, n_ctx]. A model reads each chunk by itself, `bos` (where it wants one) in
    place of the first token, and what it expects is scored in the second half, where it has read enough."""

    tokens: npt.NDArray[np.int32]
    bos: int | None

    @property
    def n_chunks(self) -> int:
        return int(self.tokens.shape[0])

    @property
    def n_ctx(self) -> int:
        return int(self.tokens.shape[1])

    @property
    def first(self) -> int:
        """The first position after which the next token is scored."""
        return self.n_ctx // 2

    @property
    def n_scored(self) -> int:
        """Tokens that are scored in each chunk; the last position's next token belongs to the next chunk."""
        return self.n_ctx - 1 - self.first

    def given(self, chunk: int) -> list[int]:
        """What a model reads of a chunk: all but the last token, which is only to be predicted."""
        tokens: list[int] = self.tokens[chunk, :-1].tolist()
        return tokens if self.bos is None else [self.bos, *tokens[1:]]

    def targets(self, chunk: int) -> npt.NDArray[np.int32]:
        """The tokens that should be predicted, [n_scored]."""
        return self.tokens[chunk, self.first + 1 :]

    @property
    def digest(self) -> str:
        """SHA-256 of what is read: tokens, their chunks, `bos`."""
        about = f"{self.n_ctx} {self.bos} ".encode()
        return hashlib.sha256(about + self.tokens.astype("<i4").tobytes()).hexdigest()


LONGER_TEXT = "give a longer text with --text"


def make_chunks(
    tokens: Sequence[int],
    n_ctx: int,
    bos: int | None,
    hint: str = f"{LONGER_TEXT}, or shorter chunks with --ctx",
) -> Chunks:
    """Cut a text's tokens; what is left at its end is not read. UsageError with `hint` for less than two
    chunks: one alone says nothing about how much it varies."""
    n_chunks = len(tokens) // n_ctx
    if n_chunks < 2:
        raise UsageError(f"This text has {len(tokens)} tokens: too few for two chunks of {n_ctx}", hint)
    return Chunks(np.array(tokens[: n_chunks * n_ctx], np.int32).reshape(n_chunks, n_ctx), bos)
