"""What llama.cpp refuses to start with, before any memory is asked for (llama_init_from_model)."""

from __future__ import annotations

from moetool.anatomy import Anatomy
from moetool.errors import UsageError
from moetool.memory.caches import cache_type, uses_flash_attention
from moetool.settings import Settings

# MLA keeps no V, and yet wants both types to be the same.
_ONE_TYPE = ("deepseek4",)


def check_cache_types(anatomy: Anatomy, settings: Settings) -> None:
    """Raises UsageError where llama.cpp would not make a context with these types of K and V."""
    type_k, type_v = cache_type(settings.type_k), cache_type(settings.type_v)
    one_type = anatomy.arch in _ONE_TYPE or any(layer.mixer == "mla" for layer in anatomy.layers)
    if one_type and type_k != type_v:
        raise UsageError("This model's cache takes one type for K and V.", "Give both the same type.")
    flash_attn = uses_flash_attention(anatomy, settings)
    if type_v.block_size > 1 and not flash_attn:
        raise UsageError("A quantized V cache needs flash attention.", "Use f16 for V.")
    for layer in anatomy.layers:
        if layer.cache and not layer.mtp and flash_attn:
            _check_head(type_k.name, type_k.block_size, layer.head_k)
            _check_head(type_v.name, type_v.block_size, layer.head_v)


def _check_head(name: str, block_size: int, head: int) -> None:
    if head % block_size:
        message = (
            f"A cache of type {name.lower()} takes heads of a multiple of {block_size} values, not {head}."
        )
        raise UsageError(message, "Use f16 for this model's cache.")
