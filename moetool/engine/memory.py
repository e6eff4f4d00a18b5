"""What a context remembers of its sequence: going back in it, and checkpoints where going back is impossible.

A cache of keys and values can forget its last tokens. A recurrent state cannot: it is what it is after the
last token. Layers that attend to a window keep only that window, and can go back only while nothing of an
earlier one has been overwritten. For these a checkpoint copies what cannot be had again (llama.cpp's
LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY: states and windows, without the caches that can go back themselves).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moetool.engine.library import captured_log, library
from moetool.errors import EngineError

# Copies of recurrent states and windows, all of them together; the oldest make room for the latest. Larger
# ones are not made: a plan counts on no more than its reserve.
CHECKPOINT_BYTES = 256 << 20

_MARK_STEP = 32
_PARTIAL = 1  # LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY, llama.h


@dataclass(frozen=True)
class _Checkpoint:
    """States and windows as they were after the first `n_tokens` tokens."""

    n_tokens: int
    data: Any


class Memory:
    """The memory of a context with one sequence. `tokens` are those it holds, at positions 0, 1, 2 …"""

    def __init__(self, model: Any, context: Any) -> None:
        self._lib = library()
        self._context = context
        self._memory = self._lib.llama_get_memory(context)
        self._n_window = int(self._lib.llama_model_n_swa(model))
        self._is_recurrent = bool(
            self._lib.llama_model_is_recurrent(model) or self._lib.llama_model_is_hybrid(model)
        )
        self._checkpoints: list[_Checkpoint] = []
        self._marks: set[int] = set()
        self._is_shifted = False  # and nothing was decoded since
        self.tokens: list[int] = []

    def took(self, tokens: Sequence[int]) -> None:
        """These were decoded."""
        self.tokens.extend(tokens)
        self._is_shifted = False

    def rewind(self, n_past: int) -> int:
        """Forget what came after the first `n_past` tokens; returns how many are left: fewer, or none, where
        the memory cannot go back so far and no nearer checkpoint was made."""
        n_past = min(n_past, len(self.tokens))
        self._checkpoints = [point for point in self._checkpoints if point.n_tokens <= n_past]
        if not go_back(self._memory, 0, n_past, self._n_window):
            # Two texts part here; a third will part from them nearby.
            self.mark(n_past // _MARK_STEP * _MARK_STEP)
            n_past = self._restore_checkpoint()
        del self.tokens[n_past:]
        return n_past

    # -- shifting --------------------------------------------------------------------------------

    @property
    def can_shift(self) -> bool:
        """Does llama.cpp say that it can? Not always rightly: see anatomy.why_no_shift."""
        return bool(self._lib.llama_memory_can_shift(self._memory))

    def drop(self, start: int, count: int) -> None:
        """Forget `count` tokens from the middle, and move what stands behind them up to `start`: their keys
        are rotated to the new positions with the next batch, their values still know of what was dropped."""
        end = start + count
        self._lib.llama_memory_seq_rm(self._memory, 0, start, end)
        self._lib.llama_memory_seq_add(self._memory, 0, end, -1, -count)
        del self.tokens[start:end]
        self._checkpoints.clear()
        self._is_shifted = True

    # -- checkpoints -----------------------------------------------------------------------------

    def mark(self, n_tokens: int) -> None:
        """Make a checkpoint when there are so many tokens, if this memory needs checkpoints to go back."""
        if self._is_recurrent or self._n_window:
            self._marks.add(n_tokens)

    def keep_here(self) -> None:
        """Make a checkpoint of the present, if this memory needs checkpoints to go back."""
        if self._is_recurrent or self._n_window:
            self.make_checkpoint()

    def next_mark(self, n_more: int) -> int:
        """How many of the next `n_more` tokens to decode before a checkpoint is due; 0: none is due."""
        if not self._marks:  # as ever where no checkpoints are needed; here a token has only microseconds
            return 0
        n_past = len(self.tokens)
        due = [at - n_past for at in self._marks if 0 < at - n_past < n_more]
        return min(due, default=0)

    def make_checkpoint(self) -> None:
        """Remember the present, so that `rewind` can come back to it."""
        n_past = len(self.tokens)
        self._marks.discard(n_past)
        n_bytes = self._lib.llama_state_seq_get_size_ext(self._context, 0, _PARTIAL)
        if not 0 < n_bytes <= CHECKPOINT_BYTES:
            return
        data = (ctypes.c_uint8 * n_bytes)()
        if self._lib.llama_state_seq_get_data_ext(self._context, data, n_bytes, 0, _PARTIAL) != n_bytes:
            return
        kept = [point for point in self._checkpoints if point.n_tokens < n_past]
        while kept and sum(len(point.data) for point in kept) + n_bytes > CHECKPOINT_BYTES:
            kept.pop(0)
        self._checkpoints = [*kept, _Checkpoint(n_past, data)]

    # -- on disk ---------------------------------------------------------------------------------

    def state_bytes(self) -> int:
        """About how much `save` writes."""
        rest = sum(len(point.data) for point in self._checkpoints)
        return int(self._lib.llama_state_seq_get_size(self._context, 0)) + rest

    def save(self, path: Path) -> dict[str, Any]:
        """Write everything that is remembered into a file, checkpoints behind llama.cpp's own format; returns
        what `load` must be told of it. EngineError with llama.cpp's reason."""
        if self._is_shifted:
            # llama.cpp would write keys that are not rotated yet.
            self.rewind(0)
        tokens = (ctypes.c_int32 * len(self.tokens))(*self.tokens)
        with captured_log() as log:
            n_bytes = self._lib.llama_state_seq_save_file(
                self._context, os.fsencode(path), 0, tokens, len(tokens)
            )
        # What was still buffered when the file was closed may have met a full disk without a word.
        if not n_bytes or path.stat().st_size != n_bytes:
            raise EngineError(f"llama.cpp cannot write its state: {log.first_problem() or 'it is cut off'}")
        with path.open("ab") as file:
            for point in self._checkpoints:
                file.write(point.data)
        checkpoints = [[point.n_tokens, len(point.data)] for point in self._checkpoints]
        return {"n_tokens": len(tokens), "state_bytes": n_bytes, "checkpoints": checkpoints}

    def load(self, path: Path, about: Mapping[str, Any]) -> bool:
        """Remember what `save` wrote (`about` is what it returned); False, and nothing is remembered, if
        llama.cpp does not take it. The bytes must be those that were written: its reader trusts them."""
        tokens = (ctypes.c_int32 * about["n_tokens"])()
        n_read = ctypes.c_size_t(0)
        n_bytes = self._lib.llama_state_seq_load_file(
            self._context, os.fsencode(path), 0, tokens, len(tokens), ctypes.byref(n_read)
        )
        self._checkpoints.clear()
        if n_bytes != about["state_bytes"] or n_read.value != len(tokens):
            self._restore_checkpoint()
            return False
        self.tokens[:] = tokens
        with path.open("rb") as file:
            file.seek(n_bytes)
            for n_tokens, size in about["checkpoints"]:
                data = (ctypes.c_uint8 * size).from_buffer_copy(file.read(size))
                self._checkpoints.append(_Checkpoint(n_tokens, data))
        return True

    # -- llama.cpp -------------------------------------------------------------------------------

    def _restore_checkpoint(self) -> int:
        """Go back to the latest checkpoint; returns its number of tokens, 0 when all had to be forgotten."""
        if self._checkpoints:
            point = self._checkpoints[-1]
            size = len(point.data)
            read = self._lib.llama_state_seq_set_data_ext(self._context, point.data, size, 0, _PARTIAL)
            if read == size and self._lib.llama_memory_seq_rm(self._memory, 0, point.n_tokens, -1):
                return point.n_tokens
        self._checkpoints.clear()
        self._lib.llama_memory_clear(self._memory, True)
        return 0


def go_back(memory: Any, sequence: int, n_past: int, n_window: int) -> bool:
    """Remove all positions of a sequence from `n_past` on; False where that is impossible, and then nothing
    is changed. `n_window`: llama_model_n_swa, 0 without windows.

    llama_memory_seq_rm refuses for recurrent states, but says yes for windows that have lost what stood
    before `n_past` (llama_kv_cache_iswa::seq_rm): so the lowest position that is left is looked at first, as
    llama-server does.
    """
    lib = library()
    lowest = lib.llama_memory_seq_pos_min(memory, sequence)
    if n_window and n_past > 0 and lowest > max(0, n_past - n_window):
        return False
    return bool(lib.llama_memory_seq_rm(memory, sequence, n_past, -1))
