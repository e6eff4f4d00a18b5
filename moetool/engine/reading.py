"""Reading a text for what a model expects everywhere in it: logits of many tokens, not of the last one."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from moetool.engine.library import library
from moetool.engine.model import Engine, require_decoded

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class TextReader:
    """A loaded engine as a reader of texts. Its settings say for how many tokens at once there is room for
    logits (`n_outputs_max`); `is_cancelled` ends a reading with Interrupted."""

    def __init__(self, engine: Engine, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        self._lib = library()
        self._engine = engine
        self._is_cancelled = is_cancelled
        self._abort = self._lib.ggml_abort_callback(lambda _data: is_cancelled())
        self.n_vocab = engine.n_vocab
        self.n_rows = max(1, min(engine.settings.n_outputs_max, engine.settings.n_batch))

    def read(self, tokens: Sequence[int], first: int, n_rows: int) -> Iterator[npt.NDArray[np.float32]]:
        """Read a text from its beginning; yields the logits after tokens `first`, `first` + 1 … as blocks
        [at most n_rows, n_vocab]: views, each valid until the next is asked for."""
        self._engine.rewind(0)
        if first:
            self._engine.decode(tokens[:first])
        for start in range(first, len(tokens), n_rows):
            yield self._decode(tokens[start : start + n_rows])

    def _decode(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        import numpy as np

        n, context = len(tokens), self._engine.context
        batch = self._lib.llama_batch(
            n_tokens=n, token=(ctypes.c_int32 * n)(*tokens), logits=(ctypes.c_int8 * n)(*[1] * n)
        )
        self._lib.llama_set_abort_callback(context, self._abort, None)
        try:
            status = self._engine.compute(batch)
        finally:
            self._lib.llama_set_abort_callback(context, self._lib.ggml_abort_callback(0), None)
        require_decoded(status, self._engine.n_ctx, is_cancelled=self._is_cancelled())
        self._engine.memory.took(tokens)
        pointer = self._lib.llama_get_logits(context)  # waits until all is computed
        address = ctypes.addressof(pointer.contents)
        return np.ctypeslib.as_array((ctypes.c_float * (n * self.n_vocab)).from_address(address)).reshape(
            n, self.n_vocab
        )
