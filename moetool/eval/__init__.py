"""How well a model predicts a text, and how far it is from another: perplexity and KL divergence.

    Chunks ──► read by the model ────────► Scores ──► Quality (figures with intervals)
          └──► expected by a reference ──┘

Knows no ctypes and no printing: whoever reads is given (`Reader`).
"""

from moetool.eval.chunks import CHUNK_TOKENS, Chunks, make_chunks
from moetool.eval.figures import Divergence, Figure, Quality, summarize
from moetool.eval.kept import KeptReference, ReferenceWriter, Source, is_reference
from moetool.eval.passes import LiveReference, Reader, Reference, measure_quality, pool_scores

__all__ = [
    "CHUNK_TOKENS",
    "Chunks",
    "Divergence",
    "Figure",
    "KeptReference",
    "LiveReference",
    "Quality",
    "Reader",
    "Reference",
    "ReferenceWriter",
    "Source",
    "is_reference",
    "make_chunks",
    "measure_quality",
    "pool_scores",
    "summarize",
]
