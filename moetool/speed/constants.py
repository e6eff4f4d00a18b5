"""The speed model's constants: what llama.cpp's kernels reach of a device, fitted from published runs.

data/speed.json holds them with source and date; scripts/fit_speed.py writes it. A constant is a property
of a family of kernels ("cuda", "metal", "cpu", …), never of one model or one graphics card.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parent.parent / "data" / "speed.json"


@dataclass(frozen=True)
class KernelConstants:
    """One family of kernels.

    Decode: `read_share`, `routed_share`, `cache_share` are the parts of the bandwidth that dense weights,
    routed experts and keys/values are read at; `unpack_bytes` is what unpacking one weight costs beside
    reading it, as bytes (by group of types); `layer_s`, `moe_layer_s`, `recurrent_layer_s` are seconds for
    each block (launches, barriers), `token_s` for each token, `hop_s` each time activations go to RAM or
    come from there, `border_s` each time they go to another offload device. `attention_bytes` is what one
    operation of attention costs beside reading keys and values, as bytes. `sheet_share` turns a data sheet's
    bandwidth into a measurable one.

    Prompt: `flops_per_byte` × bandwidth is the throughput of dense products (CPU: `thread_flops_s` × the
    threads, by type); `routed_flops_share` and `attention_flops_share` are the parts of it that routed
    experts and attention reach.

    CPU only: `weight_s` is what one thread needs to multiply one weight of a type with a single token: a few
    cores can be slower than the memory.
    """

    read_share: float
    routed_share: float
    cache_share: float
    attention_bytes: float
    unpack_bytes: Mapping[str, float]
    layer_s: float
    moe_layer_s: float
    recurrent_layer_s: float
    token_s: float
    hop_s: float
    border_s: float
    flops_per_byte: float
    routed_flops_share: float
    attention_flops_share: float
    sheet_share: float = 1.0
    thread_flops_s: Mapping[str, float] | None = None
    weight_s: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Constants:
    """All families, and by how much results scatter around the prediction (10 and 90 % quantiles of
    measured ÷ predicted on hardware that was left out of the fit)."""

    kernels: Mapping[str, KernelConstants]
    link_share: float
    decode_low: float
    decode_high: float
    prompt_low: float
    prompt_high: float
    source: str
    date: str

    def of(self, kind: str) -> KernelConstants:
        """The family's constants; those of "other" for one without its own."""
        return self.kernels.get(kind, self.kernels["other"])


@lru_cache(maxsize=1)
def load_constants() -> Constants:
    """The constants that ship with the package, parsed once."""
    return parse_constants(json.loads(_FILE.read_text(encoding="utf-8")))


def parse_constants(document: Mapping[str, Any]) -> Constants:
    """Constants from the JSON document that scripts/fit_speed.py writes."""
    fields = {name: value for name, value in document.items() if name in Constants.__dataclass_fields__}
    kernels = {kind: KernelConstants(**row) for kind, row in document["kernels"].items()}
    return Constants(**{**fields, "kernels": kernels})


# Of the I-quants only these two need no codebook: they cost what their neighbours do.
_SIMPLE = frozenset(
    {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "MXFP4", "NVFP4", "IQ4_NL", "Q1_0", "Q2_0"}
)
_FLOAT = frozenset({"F32", "F16", "BF16", "F64"})


def quant_group(quant: str) -> str:
    """Types whose weights cost about the same to unpack: "float", "simple" (one scale for 32 weights),
    "k" (scales of scales) or "iq" (codebooks and ternary packing)."""
    if quant in _FLOAT:
        return "float"
    if quant in _SIMPLE:
        return "simple"
    return "k" if quant.endswith("_K") or quant == "IQ4_XS" else "iq"


def by_quant(table: Mapping[str, float], quant: str) -> float:
    """The table's value for a type: its own, else its group's."""
    return table.get(quant, table[quant_group(quant)])
