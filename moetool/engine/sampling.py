"""The sampler chain: from logits to one token id."""

from __future__ import annotations

from typing import Any

from moetool.engine.library import library
from moetool.settings import Sampling


def make_chain(sampling: Sampling, n_vocab: int) -> Any | None:
    """llama.cpp's samplers in its front ends' order; None where plain argmax gives the same token.

    Greedy sampling through the chain copies the whole vocabulary into candidates first: 150 us a token at
    152k entries, where argmax over the logits takes 6.
    """
    penalised = sampling.repeat_penalty != 1.0 and sampling.repeat_last_n != 0
    if sampling.temperature <= 0 and not penalised:
        return None
    lib = library()
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    if penalised:
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


def _penalties(sampling: Sampling, n_vocab: int) -> tuple[int, int, float, float, float]:
    return n_vocab, sampling.repeat_last_n, sampling.repeat_penalty, 0.0, 0.0


def _add(chain: Any, sampler: Any) -> None:
    library().llama_sampler_chain_add(chain, sampler)
