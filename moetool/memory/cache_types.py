"""What a KV cache costs by its type, of those types that a model's cache can have."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from moetool.anatomy import Anatomy, kv_bytes_per_token, kv_window_bytes
from moetool.errors import UsageError
from moetool.memory.caches import cache_type
from moetool.memory.refusals import check_cache_types
from moetool.quants import CACHE_TYPES
from moetool.settings import Settings


@dataclass(frozen=True)
class CacheSize:
    """What a sequence's KV cache takes with K and V of one type.

    It grows by `per_token_bytes` (a fraction where one cell stands for several tokens) with each token of
    context, and by `window_bytes` in all for the layers that see a sliding window only. Cells are allocated
    in blocks, so that a plan's figures are a little larger.
    """

    type: str
    per_token_bytes: Fraction
    window_bytes: int


def cache_sizes(anatomy: Anatomy) -> tuple[CacheSize, ...]:
    """The cache by its type; types that llama.cpp would refuse for this model are left out."""
    return tuple(_cache_size(anatomy, name) for name in CACHE_TYPES if _is_possible(anatomy, name))


def _cache_size(anatomy: Anatomy, name: str) -> CacheSize:
    quant = cache_type(name)
    growth, kept = kv_bytes_per_token(anatomy, quant, quant), kv_window_bytes(anatomy, quant, quant)
    return CacheSize(name, growth, kept)


def _is_possible(anatomy: Anatomy, name: str) -> bool:
    try:
        check_cache_types(anatomy, Settings(type_k=name, type_v=name))
        _cache_size(anatomy, name)
    except (UsageError, ValueError):
        return False
    return True
