"""A loaded model with one context: tokens in, tokens out. It knows token ids, not messages or prompts."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from moetool.engine.huge_pages import NewMemory
from moetool.engine.library import Log, captured_log, library
from moetool.engine.measured import BufferSize, parse_buffers
from moetool.engine.memory import Memory
from moetool.engine.parameters import Held, context_params, model_params
from moetool.engine.sampling import Logits, Rule, Sampler
from moetool.engine.threads import SharedCores
from moetool.engine.vocabulary import Vocabulary
from moetool.engine.watch import Watch
from moetool.errors import ContextFull, EngineError, Interrupted
from moetool.settings import Sampling, Settings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Shorter batches are waited for, in tokens and in seconds: the callback runs before each graph node, a
# millisecond a batch in all, which is nothing beside a long one, 2 % of 40 ms, and too much for a token.
INTERRUPTIBLE = 32
_WAITED_FOR_S = 0.1

_DECODE_OK, _DECODE_NO_SLOT, _DECODE_ABORTED = 0, 1, 2


class Engine:
    """One model, one context, one sequence. Everything is freed by `close`, also when loading fails half-way.

    `is_cancelled` is asked during loads and decodes: when it says yes they end with `Interrupted` (on the CPU
    within a graph node of a long batch, else after the batch).
    """

    def __init__(
        self,
        paths: Sequence[Path],
        settings: Settings,
        arch: str,
        on_progress: Callable[[float], None] | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Load the shards `paths`; EngineError carries llama.cpp's own reason. `on_progress` gets 0 … 1."""
        self._lib = library()
        self._llama_decode: Callable[[Any, Any], int] = self._lib.llama_decode
        self._held = Held()
        self._stack = ExitStack()
        self._is_cancelled = is_cancelled
        self._token_s = math.inf  # of the last long batch
        self._cores: SharedCores | None = None
        self._watch: Watch | None = None
        self.settings = settings
        self._context: Any = None
        started = time.perf_counter()
        try:
            with captured_log() as log:
                self._model = self._load(paths, arch, on_progress, log)
                self._weights = parse_buffers(log.texts())
            self.vocabulary = Vocabulary(self._lib.llama_model_get_vocab(self._model))
            self._stack.callback(self._free_context)
            self._use_context(settings)
        except BaseException:
            self.close()
            raise
        self.load_s = time.perf_counter() - started
        self._sampler = Sampler(Sampling(temperature=0), self.vocabulary.n_vocab)
        self._stack.callback(lambda: self._sampler.close())
        self._one = (ctypes.c_int32 * 1)()
        self._one_batch = self._lib.llama_batch_get_one(self._one, 1)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free samplers, context and model, in that order; safe to call twice."""
        self._stack.close()

    # -- loading ---------------------------------------------------------------------------------

    def _load(
        self, paths: Sequence[Path], arch: str, on_progress: Callable[[float], None] | None, log: Log
    ) -> Any:
        params = model_params(self.settings, arch, self._held)
        memory = NewMemory()

        def progress(fraction: float, _user_data: object) -> bool:
            memory.advise_huge()  # first called when all buffers are made, and nothing is read
            if on_progress is not None:
                on_progress(fraction)
            return not self._is_cancelled()  # False ends the load

        params.progress_callback = self._held.keep(self._lib.llama_progress_callback(progress))
        names = (ctypes.c_char_p * len(paths))(*(str(path).encode() for path in paths))
        model = self._lib.llama_model_load_from_splits(names, len(paths), params)
        if self._is_cancelled():
            raise Interrupted("Interrupted while the model was loading")
        if not model:
            raise load_error(f"llama.cpp cannot load {paths[0].name}", log)
        self._stack.callback(self._lib.llama_model_free, model)
        return model

    def change_context(self, settings: Settings) -> None:
        """Forget everything, and go on with a new context on the model that is loaded: `settings` must agree
        with those it was loaded by in their `load_part`. After an EngineError only `close` is left."""
        if settings.load_part != self.settings.load_part:
            raise ValueError("the model would have to be loaded again")
        self._use_context(settings)

    def use_watch(self, watch: Watch | None) -> None:
        """Forget everything, and go on with a context whose graphs `watch` sees, or (None) nobody."""
        self._watch = watch
        self._use_context(self.settings)

    def _use_context(self, settings: Settings) -> None:
        self._free_context()
        self.settings = settings
        params = context_params(settings)
        if self._watch is not None:
            params.cb_eval = self._watch.callback
        with captured_log() as log:
            self._context = self._lib.llama_init_from_model(self._model, params)
            if not self._context:
                raise load_error("llama.cpp cannot make a context", log)
            self.buffers: tuple[BufferSize, ...] = (*self._weights, *parse_buffers(log.texts()))
        self._abort = self._held.keep(self._lib.ggml_abort_callback(lambda _data: self._is_cancelled()))
        self.memory = Memory(self._model, self._context)
        self._logits = Logits(self._context, self.vocabulary.n_vocab)
        # llama.cpp pads the context to 256 cells and cuts the batch to the context that was asked for; a
        # larger batch than its own aborts the process.
        asked = settings.n_ctx if settings.kv_unified else settings.n_ctx_seq
        self.n_ctx = min(int(self._lib.llama_n_ctx_seq(self._context)), asked)
        self._n_batch = int(self._lib.llama_n_batch(self._context))

    def _free_context(self) -> None:
        if self._context:
            self._lib.llama_free(self._context)
        self._context = None

    @property
    def tokens(self) -> list[int]:
        """The tokens that the context remembers."""
        return self.memory.tokens

    @property
    def model(self) -> Any:
        """llama.cpp's model, for what else this room does with it."""
        return self._model

    @property
    def context(self) -> Any:
        """llama.cpp's context, for what else this room does with it."""
        return self._context

    def share_cores(self, cores: SharedCores) -> None:
        """From now on compute with as many threads as other programs leave cores for."""
        self._cores = cores

    @property
    def n_threads(self) -> int:
        """Threads that compute now."""
        return int(self._lib.llama_n_threads(self._context))

    @property
    def had_its_threads(self) -> bool:
        """Was all computed with as many threads as the settings say?"""
        return self._cores is None or self._cores.least == self.settings.n_threads

    @property
    def n_past(self) -> int:
        """How many tokens the context remembers."""
        return len(self.memory.tokens)

    @property
    def n_vocab(self) -> int:
        """Tokens of the vocabulary."""
        return self.vocabulary.n_vocab

    # -- decoding --------------------------------------------------------------------------------

    def decode(self, tokens: Sequence[int]) -> None:
        """Append tokens to the sequence; afterwards the logits of the last one can be sampled.

        Raises ContextFull before anything is computed, Interrupted, or EngineError.
        """
        if len(tokens) == 1 and len(self.memory.tokens) < self.n_ctx:
            # Each line of Python costs here: after a token the caches hold weights alone.
            self._one[0] = tokens[0]
            self._submit(self._one_batch, tokens)
            return
        self._require_room(len(tokens))
        while n_first := self.memory.next_mark(len(tokens)):
            self._decode_all(tokens[:n_first])
            self.memory.make_checkpoint()
            tokens = tokens[n_first:]
        self._decode_all(tokens)

    def _decode_all(self, tokens: Sequence[int]) -> None:
        if len(tokens) < INTERRUPTIBLE:
            self._decode_parts(tokens)
        else:
            started = time.perf_counter()
            is_short = len(tokens) * self._token_s < _WAITED_FOR_S
            (self._decode_parts if is_short else self._decode_long)(tokens)
            self._token_s = (time.perf_counter() - started) / len(tokens)

    def _decode_parts(self, tokens: Sequence[int]) -> None:
        for start in range(0, len(tokens), self._n_batch):
            part = tokens[start : start + self._n_batch]
            array = (ctypes.c_int32 * len(part))(*part)
            self._submit(self._lib.llama_batch_get_one(array, len(part)), part)

    def _decode_long(self, tokens: Sequence[int]) -> None:
        self._lib.llama_set_abort_callback(self._context, self._abort, None)
        try:
            self._decode_parts(tokens)
        finally:
            self._lib.llama_set_abort_callback(self._context, self._lib.ggml_abort_callback(0), None)

    def compute(self, batch: Any) -> int:
        """llama_decode's answer; what a watch raised is raised."""
        status = self._llama_decode(self._context, batch)
        if self._watch is not None:
            self._watch.raise_error()
        return status

    def _submit(self, batch: Any, tokens: Sequence[int]) -> None:
        if self._cores is not None and self._cores.has_changed():
            self._lib.llama_set_n_threads(self._context, self._cores.n_threads, self._cores.n_threads)
        status = self.compute(batch)
        if status == _DECODE_OK:
            self.memory.took(tokens)
            if not self._is_cancelled():
                return
        else:
            # Parts of a batch that were computed stay in memory: it must not differ from `tokens`.
            self.rewind(self.n_past)
        require_decoded(status, self.n_ctx, is_cancelled=self._is_cancelled())

    def decode_each(self, tokens: Sequence[int]) -> None:
        """Append tokens that are known beforehand one by one, each computed before the next is begun: only
        timing needs it. With nothing else between them, Python's share of their time is least. Raises as
        `decode` does."""
        self._require_room(len(tokens))
        places = [(ctypes.c_int32 * 1)(token) for token in tokens]  # batches only point to them
        batches = [self._lib.llama_batch_get_one(place, 1) for place in places]
        compute, is_cancelled, waits = self.compute, self._is_cancelled, bool(self.settings.devices)
        status, n_done = _DECODE_OK, 0
        for batch in batches:
            status = compute(batch)
            if status != _DECODE_OK:
                break
            n_done += 1
            if waits:
                self.synchronize()
            if is_cancelled():
                break
        if n_done:
            self.memory.took(tokens[:n_done])
        if status != _DECODE_OK:
            self.rewind(self.n_past)
        require_decoded(status, self.n_ctx, is_cancelled=is_cancelled())

    def _require_room(self, n_more: int) -> None:
        n_tokens = self.n_past + n_more
        if n_tokens > self.n_ctx:
            raise ContextFull(
                f"{n_tokens} tokens do not fit into a context of {self.n_ctx}",
                "ask for a larger one with --ctx, or shorten the prompt",
            )

    def synchronize(self) -> None:
        """Wait until what was decoded is computed; only timing needs it. On the CPU it is."""
        if self.settings.devices:
            self._lib.llama_synchronize(self._context)

    def keep_here(self) -> None:
        """See to it that `rewind` can come back to where the sequence ends now, if there is room for that."""
        self.memory.keep_here()

    def rewind(self, n_past: int) -> int:
        """Forget everything after the first `n_past` tokens; returns how many are left, which is fewer where
        the model's memory cannot go back so far (recurrent states, windows): see `Memory`."""
        return self.memory.rewind(n_past)

    def make_room(self, keep: int, n_more: int) -> int:
        """Forget the older half of what stands behind the first `keep` tokens, or more if `n_more` tokens
        need it, and move the rest up; returns how many were forgotten, 0 where that is impossible."""
        count = max((self.n_past - keep) // 2, self.n_past + n_more - self.n_ctx)
        if not 0 < count < self.n_past - keep or not self.memory.can_shift:
            return 0
        self.memory.drop(keep, count)
        return count

    def piece(self, token: int) -> bytes:
        """The bytes a token adds to the text."""
        return self.vocabulary.piece(token)

    def is_end(self, token: int) -> bool:
        """Does this token end an answer?"""
        return self.vocabulary.is_end(token)

    # -- sampling --------------------------------------------------------------------------------

    def use_sampling(self, sampling: Sampling) -> None:
        """Set how tokens are drawn from now on; starts a new random sequence from its seed."""
        self._sampler.close()
        self._sampler = Sampler(sampling, self.vocabulary.n_vocab)

    def logits(self) -> npt.NDArray[np.float32]:
        """The last token's logits, [n_vocab]: a view to read and to write, valid until `decode`."""
        return self._logits.row(-1)

    def sample(self, rule: Rule | None = None) -> int:
        """Draw one token, one that the rule allows."""
        return self._sampler.draw(self._context, self._logits, -1, rule)


def require_decoded(status: int, n_ctx: int, *, is_cancelled: bool) -> None:
    """Raise what llama_decode's answer stands for: Interrupted, ContextFull or EngineError."""
    if status == _DECODE_ABORTED or is_cancelled:
        raise Interrupted("Interrupted")
    if status == _DECODE_NO_SLOT:
        raise ContextFull(f"The context of {n_ctx} tokens is full", "ask for a larger one with --ctx")
    if status != _DECODE_OK:
        raise EngineError(f"llama.cpp failed to decode (status {status})")


def load_error(what: str, log: Log) -> EngineError:
    """An EngineError with the reason that llama.cpp gave in its log, if it gave one."""
    reason = log.first_problem()
    hint = "ask for less with --ctx, or a smaller quantization" if "alloc" in reason else ""
    return EngineError(f"{what}: {reason or 'no reason given'}", hint)
