"""Where an answer stands in its grammar: what may come next, what must, and whether it may stop."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from moetool.constrain.closing import closing_bytes
from moetool.constrain.constraint import Constraint
from moetool.constrain.library import byte_matcher, first_line, llguidance
from moetool.constrain.tokens import Tokenizer
from moetool.errors import ConstraintError, OutputInvalid

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def make_matcher(tokenizer: Tokenizer, constraint: Constraint) -> Matcher:
    """A matcher at the start of an answer; ConstraintError when the grammar needs tokens the model lacks."""
    return Matcher(tokenizer, constraint)


class Matcher:
    """Where an answer stands in its grammar. One per sequence; not for use by two threads at once."""

    def __init__(self, tokenizer: Tokenizer, constraint: Constraint) -> None:
        import numpy as np

        self.constraint = constraint
        self._table = tokenizer.table
        self._ends = frozenset(tokenizer.table.ends)
        self._rust = llguidance().LLMatcher(tokenizer.handle, constraint.grammar, log_level=0)
        if self._rust.is_error():
            raise ConstraintError(
                f"This model cannot follow the {constraint.title}: {first_line(self._rust.get_error())}."
            )
        self._n_vocab = int(tokenizer.handle.vocab_size)
        self._words = np.zeros((self._n_vocab + 31) // 32, dtype=np.uint32)
        self._address = self._words.ctypes.data
        self._forced: tuple[int, ...] | None = None  # here, once it was asked for
        self._committed: list[int] = []

    def copy(self) -> Matcher:
        """A matcher at the same place that goes its own way: 40 us, where compiling takes a millisecond."""
        import numpy as np

        other = copy.copy(self)
        other._rust = self._rust.deep_copy()
        other._words = np.zeros_like(self._words)
        other._address = other._words.ctypes.data
        other._committed = list(self._committed)
        return other

    def mask(self) -> NDArray[np.uint32]:
        """Bits of the tokens that may come next, token i at bit i % 32 of word i // 32.

        The array is this matcher's own and is overwritten by the next call.
        """
        self._rust.unsafe_compute_mask_ptr(self._address, self._words.nbytes)
        self._check(self._rust.is_error())
        return self._words

    def allowed(self) -> NDArray[np.int64]:
        """Ids of the tokens that may come next, ascending, at least one; else OutputInvalid.

        Up to a millisecond and more where much of a large vocabulary may come.
        """
        import numpy as np

        bits = np.unpackbits(self.mask().view(np.uint8), bitorder="little")
        ids: NDArray[np.int64] = np.flatnonzero(bits.view(bool))
        if not ids.size:
            raise OutputInvalid("The grammar has come to where nothing can follow, not even an end.")
        return ids

    def accepts(self, token: int) -> bool:
        """Whether `token` may come next; a microsecond or a few, no mask is computed."""
        if token in self._ends:
            return self.is_complete()
        return 0 <= token < self._n_vocab and self._rust.validate_tokens([token]) == 1

    def commit(self, token: int) -> None:
        """Append `token`; OutputInvalid when the grammar does not allow it."""
        self._check(not self._rust.consume_token(token))
        self._committed.append(token)
        self._forced = None

    def forced(self) -> tuple[int, ...]:
        """Tokens that must come next whatever the model says; commit each before the next question.

        The last letters of forced text are left out where the next token could begin with them, so that the
        model still chooses how to cut its text into tokens.
        """
        if self._forced is None:
            self._forced = tuple(self._rust.compute_ff_tokens())
        return self._forced

    def is_complete(self) -> bool:
        """Whether the answer may stop here: the text so far is a whole sentence of the grammar."""
        return bool(self._rust.is_accepting())

    def is_stopped(self) -> bool:
        """Whether nothing but an end token can follow."""
        return bool(self._rust.is_stopped())

    def rollback(self, n_tokens: int) -> None:
        """Take back the last `n_tokens` committed tokens."""
        self._check(not self._rust.rollback(n_tokens))
        del self._committed[len(self._committed) - n_tokens :]
        self._forced = None

    def closing(self, limit_bytes: int) -> bytes | None:
        """Text after which the answer may stop: b"" if it may stop here, None if `limit_bytes` are too few.

        A short ending rather than a good one: for when an answer is cut off by a limit. Nothing is committed,
        and the text may begin inside a character.
        """
        if self.is_complete():
            return b""
        written = b"".join(self._table.tokens[token] for token in self._committed)
        return closing_bytes(self.constraint, written, limit_bytes)

    def is_sentence(self, text: bytes) -> bool:
        """Whether `text`, in place of what was committed, is a whole sentence of the grammar."""
        probe = byte_matcher(self.constraint.grammar)
        return bool(probe.consume_tokens(list(text)) and probe.is_accepting())

    def _check(self, failed: bool) -> None:
        if failed:
            raise OutputInvalid(f"The output left its grammar: {first_line(self._rust.get_error())}.")
