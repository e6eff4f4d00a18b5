"""What each layer is: how it mixes tokens, what feeds forward, what it must remember.

Told from the layer's tensors and from metadata; the rules are those of load_hparams (src/llama-model.cpp,
src/models/*.cpp) and of the caches (src/llama-kv-cache*.cpp, src/llama-memory-*.cpp) of llama.cpp 0c1e57098.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from moetool.anatomy import facts
from moetool.anatomy.metadata import Metadata
from moetool.anatomy.roles import Role, part_of
from moetool.gguf import TensorInfo

Mixer = Literal["full", "sliding", "mla", "recurrent", "parallel", "none"]
Ffn = Literal["dense", "moe", "none"]


@dataclass(frozen=True)
class CacheRow:
    """What one layer keeps per cell of one cache: `k` and `v` values (0: not kept), in the cache's type.

    `window` > 0: only the last so many tokens are kept. `ratio` > 1: one cell stands for so many tokens.
    `v_padded` is V's row without flash attention, where it is as wide as the widest layer's. A `private`
    cache has a stream for each sequence even when the cache is shared otherwise. An `indexer` row holds keys
    by which sparse attention chooses cells; only a `masked` one has a mask of its own.
    """

    k: int
    v: int
    window: int = 0
    ratio: int = 1
    v_padded: int = 0
    private: bool = False
    indexer: bool = False
    masked: bool = True


@dataclass(frozen=True)
class Layer:
    """One layer. Widths count values, not bytes; `state_values` are F32, kept once for each sequence."""

    index: int
    mixer: Mixer
    ffn: Ffn
    n_head: int
    n_head_kv: int
    head_k: int
    head_v: int
    window: int
    n_ff: int
    n_expert_used: int
    cache: tuple[CacheRow, ...]
    state_values: int
    bytes_by_role: Mapping[Role, int]
    mtp: bool = False


@dataclass(frozen=True)
class Parts:
    """The tensors of one layer by their names without the layer."""

    shapes: Mapping[str, tuple[int, ...]]

    def has(self, *prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in self.shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.shapes.get(name, ())


def make_parts(tensors: Sequence[TensorInfo]) -> Parts:
    return Parts({part_of(tensor.name): tensor.shape for tensor in tensors})


# --- which layers slide -------------------------------------------------------------------------------------


def sliding_layers(metadata: Metadata, n_layer: int) -> tuple[tuple[bool, ...], int]:
    """For each layer whether it slides, and the window in tokens (0: no layer slides)."""
    rule = facts.SLIDING.get(metadata.arch)
    pattern = metadata.array("attention.sliding_window_pattern")
    window = _window(metadata, rule, n_layer)
    if not window or (rule is None and pattern is None):
        return (False,) * n_layer, 0
    if pattern is not None:
        return tuple(i < len(pattern) and pattern[i] != 0 for i in range(n_layer)), window
    assert rule is not None
    period = metadata.number("attention.sliding_window_pattern", rule.period)
    return tuple(_slides(i, period, rule.full_first) for i in range(n_layer)), window


def _window(metadata: Metadata, rule: facts.Sliding | None, n_layer: int) -> int:
    default = rule.window if rule else 0
    if metadata.arch == "exaone4" and n_layer != facts.EXAONE4_SLIDING_LAYERS:
        return 0
    window = metadata.number("attention.sliding_window", default)
    return rule.forced_window if rule and rule.forced_window and window else window


def _slides(layer: int, period: int, full_first: bool) -> bool:
    """set_swa_pattern: every `period`-th layer is full, the first or the last of each group."""
    if period == 0:
        return True
    return layer % period != (0 if full_first else period - 1)


# --- how a layer mixes tokens -------------------------------------------------------------------------------


def is_recurrent(parts: Parts, metadata: Metadata, layer: int) -> bool:
    """Whether the layer keeps a state of fixed size: state space, delta rule, convolution, linear."""
    if parts.has("ssm_", "shortconv.", "time_mix_"):
        return True
    recurrent = metadata.array("attention.recurrent_layers")
    if recurrent is not None and layer < len(recurrent):
        return bool(recurrent[layer])
    # MiniMax-01's linear layers: fused q, k, v with a gate and a norm behind them.
    return parts.has("attn_gate") and parts.has("attn_norm_2") and parts.has("attn_qkv")


def has_attention(parts: Parts, recurrent: bool, n_head_kv: int) -> bool:
    """Whether the layer attends over cached tokens, alone or (Falcon-H1) beside its recurrence."""
    if recurrent:
        return n_head_kv > 0 and parts.has("attn_k.") and parts.has("attn_output.") and parts.has("ssm_out.")
    # A layer without tensors of its own borrows another's (HRM): it still has its own cache.
    return not parts.shapes or parts.has("attn_q", "attn_k", "attn_v", "dec.attn", "attn_qkv")


def state_values(parts: Parts, metadata: Metadata, n_head: int, head_k: int) -> int:
    """F32 values a recurrent layer keeps per sequence (llama_hparams::n_embd_r, n_embd_s)."""
    n_embd = metadata.number("embedding_length")
    if wkv := metadata.number("wkv.head_size"):
        return n_embd * (metadata.number("token_shift_count", 2) + wkv)
    if parts.has("shortconv."):
        return n_embd * max(0, metadata.number("shortconv.l_cache") - 1)
    if parts.has("ssm_conv1d_q."):
        head = metadata.number("kda.head_dim")
        conv = metadata.number("ssm.conv_kernel") or 4
        return 3 * (conv - 1) * n_head * head + head * head * n_head
    state = metadata.number("ssm.state_size") * metadata.number("ssm.inner_size")
    if conv_shape := parts.shape("ssm_conv1d.weight"):
        # (kernel - 1) rows of the convolved width: inner + 2 * groups * state (n_embd_r).
        return (conv_shape[0] - 1) * conv_shape[1] + state + _ple_values(parts, metadata)
    return head_k * head_k * n_head


def _ple_values(parts: Parts, metadata: Metadata) -> int:
    """The history of the n-gram embedding's convolution (llama_hparams::ple_conv_state)."""
    if not parts.has("ple_conv1d"):
        return 0
    rows = max(0, metadata.number("ple.conv_kernel") - 1) * metadata.number("ple.ngram_size")
    return rows * metadata.number("hyper_connection.count") * metadata.number("embedding_length")


# --- what a layer caches ------------------------------------------------------------------------------------

_CSA_RATIO, _HCA_RATIO = 4, 128  # src/llama-kv-cache-dsv4.cpp


@dataclass(frozen=True)
class Heads:
    """The sizes that a layer's cache rows are made of. `mla`: keys and values share one compressed row."""

    n_head_kv: int
    head_k: int
    head_v: int
    window: int
    mla: bool
    v_widest: int


def cache_rows(parts: Parts, metadata: Metadata, heads: Heads, layer: int) -> tuple[CacheRow, ...]:
    """The rows of every cache in which the layer keeps something."""
    if metadata.array("attention.compress_ratios") and parts.has("attn_kv."):
        return _compressed_rows(metadata, heads, layer)
    k, v = heads.head_k * heads.n_head_kv, heads.head_v * heads.n_head_kv
    if heads.mla:
        main = CacheRow(k, 0, heads.window)
    else:
        main = CacheRow(k, v, heads.window, v_padded=heads.v_widest)
    return (main, *_indexer_rows(parts, metadata, heads))


def _indexer_rows(parts: Parts, metadata: Metadata, heads: Heads) -> tuple[CacheRow, ...]:
    """Keys of a sparse-attention indexer: one head, no values.

    With a pool (GLM-5 next) key, gate and pooled value are kept; MiniMax-M3's cache is a plain one, which
    holds a value head nobody reads.
    """
    if not parts.has("indexer.attn_k.", "indexer.k_proj."):
        return ()
    key = metadata.number("attention.indexer.key_length")
    if metadata.number("attention.indexer.kpool"):
        return (CacheRow(3 * key, 0, indexer=True, masked=False),)
    if heads.mla or metadata.array("attention.compress_ratios"):
        return (CacheRow(key, 0, indexer=True, masked=heads.mla),)
    return (CacheRow(key, heads.head_v, v_padded=heads.head_v, indexer=True, masked=False),)


def _compressed_rows(metadata: Metadata, heads: Heads, layer: int) -> tuple[CacheRow, ...]:
    """DeepSeek-V4: a raw sliding cache, and compressed ones by the layer's ratio (llama_kv_cache_dsv4)."""
    row = heads.head_k * heads.n_head_kv
    raw = CacheRow(row, 0, heads.window, private=True)
    ratio = metadata.at("attention.compress_ratios", layer)
    if ratio == _CSA_RATIO:
        key = metadata.number("attention.indexer.key_length")
        indexer = CacheRow(key, 0, ratio=ratio, private=True, indexer=True)
        return (raw, CacheRow(row, 0, ratio=ratio, private=True), indexer)
    if ratio == _HCA_RATIO:
        return (raw, CacheRow(row, 0, ratio=ratio, private=True))
    return (raw,)


def compressor_values(metadata: Metadata, layer: int, head_k: int) -> int:
    """DeepSeek-V4's compressor states, two planes each (llama_dsv4_comp_state)."""
    ratio = metadata.at("attention.compress_ratios", layer)
    if ratio == _CSA_RATIO:
        key = metadata.number("attention.indexer.key_length")
        return 2 * (2 * _CSA_RATIO) * (2 * head_k + 2 * key)
    if ratio == _HCA_RATIO:
        return 2 * _HCA_RATIO * head_k
    return 0
