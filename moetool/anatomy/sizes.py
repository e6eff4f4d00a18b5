"""Figures of a whole model that follow from its layers: what context and sequences cost, and its rank."""

from __future__ import annotations

import math
from fractions import Fraction

from moetool.anatomy.model import Anatomy
from moetool.quants import QuantType, row_bytes


def kv_bytes_per_token(anatomy: Anatomy, type_k: QuantType, type_v: QuantType) -> Fraction:
    """Bytes by which the caches grow with each token of context, sliding windows (which fill up) apart.

    ValueError when a row is not whole blocks of the type: llama.cpp refuses such a cache.
    """
    rows = (row for layer in anatomy.layers for row in layer.cache if not row.window)
    total = Fraction(0)
    for row in rows:
        total += Fraction(row_bytes(type_k, row.k) + row_bytes(type_v, row.v), row.ratio)
    return total


def kv_window_bytes(anatomy: Anatomy, type_k: QuantType, type_v: QuantType) -> int:
    """Bytes of the cells that sliding windows keep once they are full; ValueError as above."""
    rows = (row for layer in anatomy.layers for row in layer.cache if row.window)
    return sum(row.window * (row_bytes(type_k, row.k) + row_bytes(type_v, row.v)) for row in rows)


def state_bytes(anatomy: Anatomy, n_seq: int = 1) -> int:
    """Bytes of recurrent and compressor states: F32, independent of context (llama_memory_recurrent)."""
    return 4 * max(1, n_seq) * sum(layer.state_values for layer in anatomy.layers)


def effective_size(anatomy: Anatomy) -> float:
    """sqrt(total x active) parameters: a heuristic of the community for the dense model of like ability.

    Told in r/LocalLLaMA, "Geometric Mean Prediction of MoE performance", March 2024. Nobody has derived it;
    show it as what it is.
    """
    return math.sqrt(anatomy.n_params * anatomy.n_params_active)


def params_active_with(anatomy: Anatomy, experts: int) -> int:
    """`n_params_active` if a token used so many experts."""
    own = {layer.index: layer.n_expert_used for layer in anatomy.layers if not layer.mtp}
    changed = sum(
        tensor.info.n_elements * (experts - own[tensor.layer])
        for tensor in anatomy.tensors
        if tensor.role == "routed experts" and tensor.layer in own
    )
    return anatomy.n_params_active + changed // max(1, anatomy.n_expert)
