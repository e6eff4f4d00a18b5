"""Several sequences in one context, decoded together: each has its own tokens, sampler and logits.

One batch of a token for each of them reads the weights once. All share one cache (`kv_unified`): slots of
unlike length make one batch, and a prefix is shared without a copy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from moetool.engine.library import library
from moetool.engine.memory import go_back
from moetool.engine.model import INTERRUPTIBLE, Engine
from moetool.engine.sampling import Logits, Rule, Sampler
from moetool.errors import ContextFull, EngineError, Interrupted
from moetool.settings import Sampling

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_ABORTED = 2


class Slots:
    """The slots of a loaded engine, `n_seq` of them; `is_cancelled` ends a decoding with Interrupted.

    After an error of `decode` nothing more can be decoded. Closed before the engine is.
    """

    def __init__(self, engine: Engine, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        self._lib = library()
        self.context = engine.context
        self._compute = engine.compute
        self._is_cancelled = is_cancelled
        self.vocabulary = engine.vocabulary
        settings = engine.settings
        if settings.n_seq > 1 and not settings.kv_unified:
            raise ValueError("slots need a cache that they share")
        self.n_ctx = settings.n_ctx_seq
        self.n_batch = int(self._lib.llama_n_batch(self.context))
        self.memory = self._lib.llama_get_memory(self.context)
        # States are not positions: what came last cannot be taken out of them.
        model = self._lib.llama_get_model(self.context)
        self.can_rewind = not (
            self._lib.llama_model_is_recurrent(model) or self._lib.llama_model_is_hybrid(model)
        )
        self.n_window = int(self._lib.llama_model_n_swa(model))
        self.rows = Logits(self.context, self.vocabulary.n_vocab)
        self._abort = self._lib.ggml_abort_callback(lambda _data: is_cancelled())
        self._no_abort = self._lib.ggml_abort_callback(0)
        self.all = tuple(Slot(self, number) for number in range(settings.n_seq))

    def __enter__(self) -> Slots:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lib.llama_set_abort_callback(self.context, self._no_abort, None)
        for slot in self.all:
            slot.close()

    def decode(self, parts: Sequence[tuple[Slot, Sequence[int]]]) -> None:
        """Append tokens to slots, `n_batch` in all at the most; afterwards these slots, and no others, can be
        sampled. Raises Interrupted or EngineError."""
        is_long = sum(len(tokens) for _, tokens in parts) >= INTERRUPTIBLE
        abort = self._abort if is_long else self._no_abort
        self._lib.llama_set_abort_callback(self.context, abort, None)
        status = self._compute(self._make_batch(parts))
        if status == _ABORTED or self._is_cancelled():
            raise Interrupted("Interrupted")
        if status:
            raise EngineError(f"llama.cpp failed to decode (status {status})")
        for slot in self.all:
            slot.row = -1
        row = -1
        for slot, tokens in parts:
            row += len(tokens)
            slot.row = row
            slot.tokens.extend(tokens)

    def _make_batch(self, parts: Sequence[tuple[Slot, Sequence[int]]]) -> Any:
        tokens = [token for _, part in parts for token in part]
        owners = [slot.pointer for slot, part in parts for _ in part]
        outputs = [i == len(part) - 1 for _, part in parts for i in range(len(part))]
        n = len(tokens)
        # Without positions llama.cpp counts on from what each sequence has.
        return self._lib.llama_batch(
            n_tokens=n,
            token=(ctypes.c_int32 * n)(*tokens),
            n_seq_id=(ctypes.c_int32 * n)(*[1] * n),
            seq_id=(ctypes.POINTER(ctypes.c_int32) * n)(*owners),
            logits=(ctypes.c_int8 * n)(*outputs),
        )

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """A row of the last batch's logits, [n_vocab]: a view to read and to write, valid until `decode`."""
        return self.rows.row(row)


class Slot:
    """One sequence: what a generation needs of an engine. `tokens` are those in its part of the cache."""

    def __init__(self, slots: Slots, number: int) -> None:
        self._lib = library()
        self._slots = slots
        self._number = number
        self.pointer = ctypes.pointer(ctypes.c_int32(number))
        self.row = -1  # of its logits in the last batch; -1: none
        self.tokens: list[int] = []
        self.n_ctx = slots.n_ctx
        self.vocabulary = slots.vocabulary
        self._sampler = Sampler(Sampling(temperature=0), slots.vocabulary.n_vocab)

    @property
    def n_past(self) -> int:
        """Tokens in its part of the cache."""
        return len(self.tokens)

    def require_room(self, n_more: int) -> None:
        """ContextFull when so many more tokens do not fit."""
        if self.n_past + n_more > self.n_ctx:
            raise ContextFull(
                f"{self.n_past + n_more} tokens do not fit into a context of {self.n_ctx}",
                "ask for a larger one with --ctx, or shorten the prompt",
            )

    def decode(self, tokens: Sequence[int]) -> None:
        """Append tokens, this slot alone. Raises ContextFull before anything is computed."""
        self.require_room(len(tokens))
        for start in range(0, len(tokens), self._slots.n_batch):
            self._slots.decode([(self, tokens[start : start + self._slots.n_batch])])

    def rewind(self, n_past: int) -> int:
        """Forget everything after the first `n_past` tokens; returns how many are left: none where the memory
        cannot go back, because of recurrent states or because a window has moved on."""
        memory = self._slots.memory
        if not go_back(memory, self._number, n_past, self._slots.n_window):
            self._lib.llama_memory_seq_rm(memory, self._number, -1, -1)
            n_past = 0
        del self.tokens[n_past:]
        return n_past

    def share(self, other: Slot, n_tokens: int) -> int:
        """Begin with the first tokens of another slot, whose cells are then both's; returns how many: none
        where states cannot be shared in part, nor windows: cells of two are not given up when a window moves
        on (llama_kv_cache::find_slot), and their cache would run full."""
        self.rewind(0)
        if not self._slots.can_rewind or self._slots.n_window:
            return 0
        self._lib.llama_memory_seq_cp(self._slots.memory, other._number, self._number, 0, n_tokens)
        self.tokens = other.tokens[:n_tokens]
        return n_tokens

    def piece(self, token: int) -> bytes:
        """The bytes a token adds to the text."""
        return self.vocabulary.piece(token)

    def is_end(self, token: int) -> bool:
        """Does this token end an answer?"""
        return self.vocabulary.is_end(token)

    def use_sampling(self, sampling: Sampling) -> None:
        """Set how tokens are drawn from now on; starts a new random sequence from its seed."""
        self.close()
        self._sampler = Sampler(sampling, self.vocabulary.n_vocab)

    def close(self) -> None:
        """Free the sampler."""
        self._sampler.close()

    def sample(self, rule: Rule | None = None) -> int:
        """Draw one token, one that the rule allows."""
        if self.row < 0:
            raise ValueError("this slot was not in the last batch")
        return self._sampler.draw(self._slots.context, self._slots.rows, self.row, rule)
