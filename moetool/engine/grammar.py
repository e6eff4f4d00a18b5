"""llama.cpp's own grammar sampler, asked as any other grammar is: to compare with."""

from __future__ import annotations

import copy
import ctypes
import math
from typing import TYPE_CHECKING

from moetool.engine.library import captured_log, library
from moetool.engine.sampling import CANDIDATE
from moetool.engine.vocabulary import Vocabulary
from moetool.errors import ConstraintError, OutputInvalid

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class LlamaGrammar:
    """Where an answer stands in a GBNF grammar with a rule `root`. It forces no tokens, finds no endings, and
    looks at the whole vocabulary where it is asked for all that is allowed."""

    def __init__(self, vocabulary: Vocabulary, gbnf: str) -> None:
        """ConstraintError when llama.cpp cannot read the grammar."""
        self._lib = library()
        self._vocabulary = vocabulary
        self._gbnf = gbnf
        with captured_log() as log:
            self._sampler = self._lib.llama_sampler_init_grammar(vocabulary.pointer, gbnf.encode(), b"root")
        if not self._sampler:
            raise ConstraintError(f"llama.cpp cannot read the grammar: {log.first_problem() or 'no reason'}")

    def __del__(self) -> None:
        if getattr(self, "_sampler", None):
            self._lib.llama_sampler_free(self._sampler)

    def copy(self) -> LlamaGrammar:
        """One at the same place that goes its own way."""
        other = copy.copy(self)
        other._sampler = self._lib.llama_sampler_clone(self._sampler)
        return other

    def accepts(self, token: int) -> bool:
        """Whether `token` may come next."""
        if not 0 <= token < self._vocabulary.n_vocab:
            return False
        candidate = self._lib.llama_token_data(token, 0.0, 0.0)
        self._apply(ctypes.pointer(candidate), 1)
        return math.isfinite(candidate.logit)

    def allowed(self) -> NDArray[np.int64]:
        """Ids of the tokens that may come next, ascending, at least one; else OutputInvalid."""
        import numpy as np

        candidates = np.zeros(self._vocabulary.n_vocab, dtype=CANDIDATE)
        candidates["id"] = np.arange(len(candidates))
        self._apply(ctypes.cast(candidates.ctypes.data, self._lib.llama_token_data_p), len(candidates))
        ids = np.flatnonzero(np.isfinite(candidates["logit"]))
        if not ids.size:
            raise OutputInvalid("The grammar has come to where nothing can follow, not even an end.")
        return ids

    def _apply(self, candidates: object, n: int) -> None:
        array = self._lib.llama_token_data_array(candidates, n, -1, False)
        self._lib.llama_sampler_apply(self._sampler, ctypes.byref(array))

    def commit(self, token: int) -> None:
        """Append `token`; OutputInvalid when the grammar does not allow it."""
        if not self.accepts(token):  # llama.cpp would end the process
            raise OutputInvalid("The output left its grammar.")
        self._lib.llama_sampler_accept(self._sampler, token)

    def forced(self) -> tuple[int, ...]:
        """None: it does not look for them."""
        return ()

    def is_complete(self) -> bool:
        """Whether the answer may stop here."""
        return self.accepts(self._vocabulary.eos)

    def is_stopped(self) -> bool:
        """Not known without looking at the whole vocabulary: the model draws an end where nothing else may
        come."""
        return False

    def is_sentence(self, text: bytes) -> bool:
        """Whether `text`, in place of what was committed, is a whole sentence of the grammar."""
        probe = LlamaGrammar(self._vocabulary, self._gbnf)
        for token in self._vocabulary.tokenize(text.decode("utf-8", "surrogateescape")):
            if not probe.accepts(token):
                return False
            probe.commit(token)
        return probe.is_complete()

    def closing(self, limit_bytes: int) -> bytes | None:
        """b"" if the answer may stop here; else None, as none is looked for."""
        return b"" if self.is_complete() else None
