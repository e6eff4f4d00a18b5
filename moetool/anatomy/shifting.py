"""Whether a model's context can be shifted: tokens dropped from its middle, what stands behind them moved up.

llama.cpp does that by rotating the keys in its cache once more (llama_kv_cache::build_graph_shift), and
llama_memory_can_shift says no for some models. It says yes to others whose keys come out wrong, found by
shifting every architecture's keys and computing them anew (scripts/check_shift.py).
"""

from __future__ import annotations

from moetool.anatomy.model import Anatomy
from moetool.gguf import Header
from moetool.settings import Settings

_SOME_UNROTATED = "some of its layers have no positions, and llama.cpp would rotate them all"
_NORMED = "its keys are normalised after they were rotated"
_OTHERWISE = "its layers rotate otherwise than llama.cpp's shift does"
# Architectures whose graph does not do with a key what build_rope_shift assumes (src/models/*.cpp).
_UNLIKE = {
    "baichuan": "its larger size has no rotated positions",
    "cogvlm": _OTHERWISE,
    "hunyuan-dense": _NORMED,
    "hunyuan-moe": _NORMED,
    "llama4": _SOME_UNROTATED,
    "maincoder": _NORMED,
    "pangu-embedded": _OTHERWISE,
    "smallthinker": _SOME_UNROTATED,
    "smollm3": _SOME_UNROTATED,
}


def why_no_shift(header: Header, anatomy: Anatomy, settings: Settings) -> str:
    """Why the context of a model cannot be shifted, as half a sentence; "" if it can."""
    windows = [layer.window for layer in anatomy.layers if 0 < layer.window < settings.n_ctx_seq]
    if any(layer.state_values for layer in anatomy.layers):
        return "its recurrent states cannot forget single tokens"
    if windows:
        return f"some of its layers keep only a window of {min(windows)} tokens"
    return _why_no_rotation(header, anatomy, settings)


def _why_no_rotation(header: Header, anatomy: Anatomy, settings: Settings) -> str:
    """Why keys that are kept cannot be rotated to other positions."""
    if anatomy.n_positions > 1:
        return "its positions have more than one dimension"
    if anatomy.learns_positions:
        return "its positions are learned, one by one"
    if _scales_keys(header, anatomy.arch):
        return "its positions are stretched (YaRN), and llama.cpp would stretch its keys again"
    if settings.type_k not in {"f32", "f16", "bf16"} and not _has_plain_heads(header, anatomy):
        return f"llama.cpp cannot rotate its keys in {settings.type_k} (--kv f16 can be)"
    return _UNLIKE.get(anatomy.arch, "")


def _has_plain_heads(header: Header, anatomy: Anatomy) -> bool:
    """Are keys of all layers rotated whole, and of a width that quantized keys are mixed in? Others end in an
    assert, or worse: build_rope_shift takes the mixing matrix for granted (llama_kv_cache's constructor)."""
    widths = {layer.head_k for layer in anatomy.layers if layer.cache}
    n_rotated = header.get_int(f"{anatomy.arch}.rope.dimension_count", min(widths, default=0))
    return widths == {n_rotated} and n_rotated % 64 == 0


def _scales_keys(header: Header, arch: str) -> bool:
    """Does rotating a key also make it longer? Then so does rotating it again: by YaRN's 1 + 0.1 ln(factor)
    (rope_yarn, ggml-cpu/ops.cpp), which DeepSeek's multiplier undoes (llama_context's constructor), or by a
    factor that the file states."""
    key = f"{arch}.rope.scaling."
    is_yarn = header.get_str(f"{key}type") == "yarn" and header.get_float(f"{key}factor", 1.0) > 1
    is_undone = arch == "deepseek2" and header.get_float(f"{key}yarn_log_multiplier") != 0
    return (is_yarn and not is_undone) or header.get_float(f"{key}attn_factor", 1.0) != 1.0
