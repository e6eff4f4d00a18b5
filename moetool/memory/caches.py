"""Bytes of caches and states, layer by layer: exactly what llama.cpp allocates.

Cells and padding as in llama_context (src/llama-context.cpp), llama_kv_cache_iswa and llama_kv_cache_dsv4.
"""

from __future__ import annotations

from dataclasses import dataclass

from moetool.anatomy import Anatomy, CacheRow, Layer, facts
from moetool.errors import UsageError
from moetool.quants import QuantType, quant_by_name, row_bytes
from moetool.settings import Settings

CELL_PAD = 256  # GGML_PAD of n_ctx and of sliding caches


def padded(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment


@dataclass(frozen=True)
class Cells:
    """Cells of one stream of a cache that keeps everything, and how many streams there are."""

    per_stream: int
    streams: int
    n_seq: int
    n_ubatch: int
    unified: bool
    swa_full: bool


def make_cells(anatomy: Anatomy, settings: Settings) -> Cells:
    """n_ctx = 0 means the length the model was trained on; each sequence's share is padded to 256.

    A batch is never larger than the context that was asked for, unless attention looks both ways.
    """
    n_seq = max(1, settings.n_seq)
    asked = settings.n_ctx or anatomy.n_ctx_train
    n_ctx = padded(asked, CELL_PAD)
    share = n_ctx if settings.kv_unified else padded(n_ctx // n_seq, CELL_PAD)
    streams = 1 if settings.kv_unified else n_seq
    n_batch = settings.n_batch if anatomy.arch in facts.NO_CACHE else min(asked, settings.n_batch)
    n_ubatch = min(settings.n_ubatch or settings.n_batch, n_batch)
    return Cells(share, streams, n_seq, n_ubatch, settings.kv_unified, settings.swa_full)


def row_cells(row: CacheRow, cells: Cells) -> int:
    """Cells of one stream of the cache that `row` belongs to."""
    if row.ratio > 1:
        return padded(max(1, -(-cells.per_stream // row.ratio)), CELL_PAD)
    if not row.window or cells.swa_full:
        return cells.per_stream
    # The window of every sequence that shares the stream, and room for the batch that is being written.
    sharing = cells.n_seq if cells.unified and not row.private else 1
    return padded(min(cells.per_stream, row.window * sharing + cells.n_ubatch), CELL_PAD)


def row_streams(row: CacheRow, cells: Cells) -> int:
    return cells.n_seq if row.private else cells.streams


def uses_flash_attention(anatomy: Anatomy, settings: Settings) -> bool:
    """Whether flash attention runs: not where llama.cpp switches it off for the architecture."""
    return settings.flash_attn and anatomy.arch not in facts.NO_FLASH_ATTENTION


def layer_kv_bytes(layer: Layer, settings: Settings, cells: Cells, flash_attn: bool) -> int:
    """Bytes of all caches of one layer."""
    return sum(sum(row_kv_bytes(row, settings, cells, flash_attn)) for row in layer.cache)


def row_kv_bytes(row: CacheRow, settings: Settings, cells: Cells, flash_attn: bool) -> tuple[int, int]:
    """Bytes of K and of V that one cache keeps for one layer."""
    type_k, type_v = cache_type(settings.type_k), cache_type(settings.type_v)
    # Without flash attention V is stored transposed, in rows as wide as the widest layer's.
    v = row.v if flash_attn or not row.v else row.v_padded
    n_cells = row_cells(row, cells) * row_streams(row, cells)
    return _row_bytes(type_k, row.k) * n_cells, _row_bytes(type_v, v) * n_cells


def layer_state_bytes(layer: Layer, settings: Settings) -> int:
    """Bytes of a layer's recurrent or compressor state: F32, one for each sequence."""
    return 4 * layer.state_values * max(1, settings.n_seq)


def cache_type(name: str) -> QuantType:
    quant = quant_by_name(name)
    if quant is None:
        raise UsageError(f"{name} is not a cache type.", "Try f16, q8_0 or q4_0.")
    return quant


def _row_bytes(quant: QuantType, n: int) -> int:
    try:
        return row_bytes(quant, n)
    except ValueError as error:
        hint = "Use f16 for this model's cache."
        raise UsageError(f"A cache of type {quant.name.lower()} does not work: {error}.", hint) from error
