"""From logits to one token id: among all tokens, or among those that a rule allows.

A rule, such as a grammar, is held to exactly: the distribution is that of setting the logits of all other
tokens to -inf before anything else is done with them. But to ask it for a few likely tokens costs about a
microsecond each, and to list all that it allows up to a millisecond and more, so the likely ones come first.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Protocol

from moetool.engine.library import library
from moetool.settings import Sampling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Where more than so many of the likeliest tokens count, or any may, a rule is asked for all that it allows.
MOST_ASKED = 100
# llama_token_data, llama.h
CANDIDATE = [("id", "i4"), ("logit", "f4"), ("p", "f4")]
# So many likely tokens may be refused, and as many more as were allowed, before it is.
_PATIENCE = 8
# So many times the likeliest, where that alone counts: another look costs little.
_TRIES = 3

# The vocabulary as rows, whose maxima by column are found in one pass.
_N_ROWS = 64


class Rule(Protocol):
    """What may come next: is a token allowed, and all that are (ids, at least one)."""

    def accepts(self, token: int) -> bool: ...
    def allowed(self) -> NDArray[np.int64]: ...


class Logits:
    """The logits of a context's last batch, row by row."""

    def __init__(self, context: Any, n_vocab: int) -> None:
        self._context = context
        self._type = ctypes.c_float * n_vocab
        self._views: dict[int, NDArray[np.float32]] = {}
        # The binding's own makes a pointer object of each address.
        self._address_of = library()._lib["llama_get_logits_ith"]
        self._address_of.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        self._address_of.restype = ctypes.c_void_p

    def row(self, number: int) -> NDArray[np.float32]:
        """One row, [n_vocab]; -1 is the last. A view to read and to write, valid until the next batch."""
        address = self._address_of(self._context, number)
        view = self._views.get(address)
        if view is None:
            # For few places, once: after a decoding caches are cold, and making a view takes 40 us.
            import numpy as np  # 60 ms, which pass while a model is loading

            buffer = self._type.from_address(address)
            view = self._views[address] = np.frombuffer(buffer, dtype=np.float32)  # type: ignore[call-overload]
        return view


class Sampler:
    """Draws tokens as settings say, each sampler from a random sequence of its own. Free it with `close`."""

    def __init__(self, sampling: Sampling, n_vocab: int) -> None:
        self._lib = library()
        self._chain = _make_chain(sampling, n_vocab)
        self._n_wanted = _n_wanted(sampling, n_vocab)

    def close(self) -> None:
        """Free it; safe to call twice."""
        if self._chain is not None:
            self._lib.llama_sampler_free(self._chain)
            self._chain = None

    def draw(self, context: Any, logits: Logits, row: int, rule: Rule | None = None) -> int:
        """A token from a row of the logits of a context's last batch, one that the rule allows."""
        if rule is not None:
            values = logits.row(row)
            if self._chain is None:
                return likeliest_allowed(values, rule)
            return self._draw_among(values, likely_allowed(values, rule, self._n_wanted))
        if self._chain is None:
            return int(logits.row(row).argmax())
        return int(self._lib.llama_sampler_sample(self._chain, context, row))

    def _draw_among(self, logits: NDArray[np.float32], ids: NDArray[np.int64] | list[int]) -> int:
        """As llama_sampler_sample (llama-sampler.cpp), which takes all tokens as candidates."""
        import numpy as np

        candidates = np.zeros(len(ids), dtype=CANDIDATE)
        candidates["id"], candidates["logit"] = ids, logits[ids]
        data = ctypes.cast(candidates.ctypes.data, self._lib.llama_token_data_p)
        array = self._lib.llama_token_data_array(data, len(ids), -1, False)
        self._lib.llama_sampler_apply(self._chain, ctypes.byref(array))
        token = int(array.data[array.selected].id)
        self._lib.llama_sampler_accept(self._chain, token)
        return token


def likeliest_allowed(logits: NDArray[np.float32], rule: Rule) -> int:
    """The likeliest token that a rule allows. Writes -inf for those that it refuses."""
    for _ in range(_TRIES):
        best = int(logits.argmax())
        if rule.accepts(best):
            return best
        logits[best] = float("-inf")
    ids = rule.allowed()
    return int(ids[logits[ids].argmax()])


def likely_allowed(logits: NDArray[np.float32], rule: Rule, n: int) -> NDArray[np.int64] | list[int]:
    """Ids of tokens that a rule allows, its `n` likeliest among them."""
    found = _likeliest_accepted(logits, rule, n) if n <= MOST_ASKED else []
    return found or rule.allowed()


def _likeliest_accepted(logits: NDArray[np.float32], rule: Rule, n: int) -> list[int]:
    """The `n` likeliest that are allowed, found by asking for each; none where too many are refused."""
    found: list[int] = []
    n_refused = 0
    for token in likeliest(logits, 2 * n + _PATIENCE).tolist():
        if rule.accepts(token):
            found.append(token)
            if len(found) == n:
                return found
        else:
            n_refused += 1
            if n_refused > _PATIENCE + len(found):
                break
    return []


def likeliest(logits: NDArray[np.float32], n: int) -> NDArray[np.int64]:
    """Ids of the `n` greatest logits, the greatest first: 50 us of 150k, a tenth of what sorting parts takes.

    Each of the n greatest maxima of columns is an element, so n elements are no less than the least of them:
    there are few others.
    """
    import numpy as np

    n_columns = len(logits) // _N_ROWS
    if n_columns <= n:
        return np.argsort(-logits, kind="stable")[:n]
    maxima = logits[: _N_ROWS * n_columns].reshape(_N_ROWS, n_columns).max(axis=0)
    least = np.partition(maxima, n_columns - n)[n_columns - n]
    ids = np.flatnonzero(logits >= least)
    return ids[np.argsort(-logits[ids], kind="stable")][:n]


def _n_wanted(sampling: Sampling, n_vocab: int) -> int:
    """How many of the likeliest tokens can be drawn."""
    if _is_penalised(sampling):  # which are likeliest is seen only after it
        return n_vocab
    if sampling.temperature <= 0:
        return 1
    return sampling.top_k or n_vocab


def _make_chain(sampling: Sampling, n_vocab: int) -> Any | None:
    """llama.cpp's samplers in its front ends' order; None where plain argmax gives the same token.

    Greedy sampling through the chain copies the whole vocabulary into candidates first: 150 us a token at
    152k entries, where argmax over the logits takes 6.
    """
    is_penalised = _is_penalised(sampling)
    if sampling.temperature <= 0 and not is_penalised:
        return None
    lib = library()
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    if is_penalised:
        _add(chain, lib.llama_sampler_init_penalties(*_penalties(sampling, n_vocab)))
    if sampling.temperature <= 0:
        _add(chain, lib.llama_sampler_init_greedy())
        return chain
    _add(chain, lib.llama_sampler_init_top_k(sampling.top_k))
    _add(chain, lib.llama_sampler_init_top_p(sampling.top_p, 1))
    _add(chain, lib.llama_sampler_init_min_p(sampling.min_p, 1))
    _add(chain, lib.llama_sampler_init_temp(sampling.temperature))
    _add(chain, lib.llama_sampler_init_dist(sampling.seed))
    return chain


def _is_penalised(sampling: Sampling) -> bool:
    return sampling.repeat_penalty != 1.0 and sampling.repeat_last_n != 0


def _penalties(sampling: Sampling, n_vocab: int) -> tuple[int, int, float, float, float]:
    return n_vocab, sampling.repeat_last_n, sampling.repeat_penalty, 0.0, 0.0


def _add(chain: Any, sampler: Any) -> None:
    library().llama_sampler_chain_add(chain, sampler)
