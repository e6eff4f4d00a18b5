"""Quantized files of published results: what their name and size say about the weights; for published.py."""

from __future__ import annotations

from dataclasses import dataclass

from published_models import Shape

# Bits per weight of a file whose size is not stated (llama.cpp tools/quantize README, Llama-3.1-8B).
_NOMINAL = {
    "F16": 16.0,
    "BF16": 16.0,
    "Q8_0": 8.5,
    "Q6_K": 6.57,
    "Q5_K_M": 5.7,
    "Q5_K_S": 5.55,
    "Q4_K_M": 4.9,
    "Q4_K_S": 4.66,
    "Q4_0": 4.65,
    "Q3_K_L": 4.3,
    "Q3_K_M": 4.0,
    "Q3_K_S": 3.64,
    "Q2_K": 3.16,
    "IQ4_NL": 4.68,
    "IQ4_XS": 4.45,
    "MXFP4": 4.4,
    "NVFP4": 4.7,
}
# The type that most of a file's weights are in, by the name's beginning.
_TYPES = (
    ("F16", "F16"), ("BF16", "BF16"), ("MXFP4", "MXFP4"), ("NVFP4", "NVFP4"), ("Q8", "Q8_0"), ("Q6", "Q6_K"),
    ("Q5_K", "Q5_K"), ("Q4_K", "Q4_K"), ("Q4_0", "Q4_0"), ("Q3_K", "Q3_K"), ("Q2_K", "Q2_K"),
    ("IQ4_NL", "IQ4_NL"), ("IQ4", "IQ4_XS"), ("IQ3", "IQ3_S"), ("IQ2", "IQ2_XS"), ("IQ1", "IQ1_M"),
)  # fmt: skip


def quant_type(name: str) -> str | None:
    """The ggml type behind a file's quant name ("UD-Q4_K_XL" -> "Q4_K")."""
    short = name.removeprefix("UD-").removeprefix("i1-").removeprefix("QAT ")
    return next((kind for start, kind in _TYPES if short.startswith(start)), None)


def nominal_bits(name: str) -> float | None:
    short = name.removeprefix("UD-").removeprefix("i1-").removeprefix("QAT ").split(" ")[0]
    return _NOMINAL.get(short.replace("_XL", "_M"), _NOMINAL.get(short))


@dataclass(frozen=True)
class Bits:
    """Weights of one kind: their ggml type and bits per weight."""

    quant: str
    bits: float


@dataclass(frozen=True)
class File:
    """A quantized model: what its always-read weights, its output and its experts are in."""

    always: Bits
    output: Bits
    experts: Bits


_WIDE = Bits("Q8_0", 8.5)


def make_file(shape: Shape, quant: str, size_bytes: float, date: str) -> File:
    """What a file's size says about its weights.

    The output matrix is Q6_K in K- and I-quants, and like the rest in wider ones. Two kinds of mixtures keep
    their always-read weights at 8 bits: MXFP4 files, and Unsloth's dynamic quants (UD, _XL) since 2026.
    """
    average = 8 * size_bytes / (shape.total * 1e9)
    kind = quant_type(quant) or "Q4_K"
    if average > 7:
        return File(Bits(kind, average), Bits(kind, average), Bits(kind, average))
    output = Bits("Q6_K", 6.5625)
    dynamic = ("UD-" in quant or "_XL" in quant) and not date.startswith("2025")
    if shape.routed and (kind == "MXFP4" or dynamic):
        experts = (average * shape.total - 8.5 * (shape.total - shape.routed)) / shape.routed
        return File(_WIDE, _WIDE, Bits(kind, max(1.6, experts)))
    rest = (average * shape.total - output.bits * shape.output) / (shape.total - shape.output)
    return File(Bits(kind, max(1.6, rest)), output, Bits(kind, max(1.6, rest)))
