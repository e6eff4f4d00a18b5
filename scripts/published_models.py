"""Models of published results as shapes: layers, widths, parameters, caches; for published.py."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Rows:
    """Caches of one kind: on how many layers, values per token (K and V together), the window (0: none),
    and query heads × head size, for the operations."""

    n_layers: int
    values: int
    window: int
    queries: int


@dataclass(frozen=True)
class Shape:
    """A model. Parameters in billions: `output` (read, too, when tied), `looked_up` (never read whole),
    `routed` experts, of which `used` of `experts` take part; the rest is always read."""

    n_layer: int
    n_embd: int
    total: float
    output: float
    looked_up: float
    caches: tuple[Rows, ...]
    n_recurrent: int = 0
    state_bytes: float = 0.0
    n_moe: int = 0
    routed: float = 0.0
    experts: int = 1
    used: int = 1

    @property
    def always(self) -> float:
        return self.total - self.looked_up - self.routed - self.output


def dense(n_layer: int, n_embd: int, heads: tuple[int, int, int], vocabulary: int, total: float) -> Shape:
    """A plain transformer; `heads` are query heads, key/value heads and their size."""
    n_head, n_kv, size = heads
    output = n_embd * vocabulary / 1e9
    rows = Rows(n_layer, 2 * n_kv * size, 0, n_head * size)
    return Shape(n_layer, n_embd, total, output, output, (rows,))


def tied(shape: Shape) -> Shape:
    """The embedding is the output matrix: nothing is only looked up."""
    return replace(shape, looked_up=0.0)


def sliding(shape: Shape, n_full: int, window: int) -> Shape:
    """All but `n_full` layers look at the last `window` tokens only."""
    rows = shape.caches[0]
    caches = (replace(rows, n_layers=n_full), replace(rows, n_layers=rows.n_layers - n_full, window=window))
    return replace(shape, caches=caches)


# Models that models.json lacks or leaves incomplete: layers, widths, heads, vocabulary, parameters, from
# their configuration files and llama.cpp's own print of the parameters.
_MLA = Rows(47, 576, 0, 20 * 576)
_MINIMAX = dense(62, 3072, (48, 8, 128), 200064, 228.69)
_NEMOTRON = dense(88, 4096, (32, 2, 128), 131072, 120.67)
SHAPES = {
    "Llama-2-7B": dense(32, 4096, (32, 32, 128), 32000, 6.74),
    "Mistral-7B": dense(32, 4096, (32, 8, 128), 32768, 7.25),
    "Mistral-Nemo-12B": dense(40, 5120, (32, 8, 128), 131072, 12.25),
    "Ministral-3-14B": dense(40, 5120, (32, 8, 128), 131072, 13.51),
    "qwen2 7B": dense(28, 3584, (28, 4, 128), 152064, 7.62),
    "Qwen2.5-14B": dense(48, 5120, (40, 8, 128), 152064, 14.77),
    "Qwen2.5-32B": dense(64, 5120, (40, 8, 128), 152064, 32.76),
    "Qwen3-14B": dense(40, 5120, (40, 8, 128), 151936, 14.77),
    "Qwen3-32B": dense(64, 5120, (64, 8, 128), 151936, 32.76),
    "GLM-Z1-32B": dense(61, 6144, (48, 2, 128), 151552, 32.57),
    "glm-4-9b": dense(40, 4096, (32, 2, 128), 151552, 9.40),
    "Phi-4-mini": tied(dense(32, 3072, (24, 8, 128), 200064, 3.84)),
    "gemma3 4B": sliding(tied(dense(34, 2560, (8, 4, 256), 262144, 3.88)), 5, 1024),
    "gemma-3-12b": sliding(tied(dense(48, 3840, (16, 8, 256), 262144, 11.77)), 8, 1024),
    "gemma-3-27b": sliding(tied(dense(62, 5376, (32, 16, 128), 262144, 27.01)), 10, 1024),
    "gemma-4-12B": replace(
        tied(dense(48, 3840, (16, 8, 256), 262144, 11.91)),
        caches=(Rows(8, 1024, 0, 16 * 512), Rows(40, 4096, 1024, 16 * 256)),
    ),
    "gemma-4-31B": replace(
        tied(dense(60, 5376, (32, 16, 256), 262144, 30.70)),
        caches=(Rows(10, 4096, 0, 32 * 512), Rows(50, 8192, 1024, 32 * 256)),
    ),
    # The per-layer embeddings are looked up, on the CPU: 262144 x 256 for each layer.
    "gemma-4-E2B": replace(sliding(tied(dense(35, 1536, (8, 1, 256), 262144, 4.65)), 7, 512), looked_up=2.35),
    "gemma-4-E4B": replace(sliding(tied(dense(42, 2560, (8, 2, 256), 262144, 7.52)), 7, 512), looked_up=2.82),
    "gemma-4-26B-A4B": replace(
        tied(dense(30, 2816, (16, 8, 256), 262144, 25.23)),
        caches=(Rows(5, 2048, 0, 16 * 512), Rows(25, 4096, 1024, 16 * 256)),
        n_moe=30,
        routed=30 * 128 * 3 * 2816 * 704 / 1e9,
        experts=128,
        used=8,
    ),
    "GLM-4.7-Flash": replace(
        dense(47, 2048, (20, 20, 256), 154880, 29.94),
        caches=(_MLA,),
        n_moe=46,
        routed=46 * 64 * 3 * 2048 * 1536 / 1e9,
        experts=64,
        used=4,
    ),
    "MiniMax-M2.7": replace(_MINIMAX, n_moe=62, routed=62 * 256 * 3 * 3072 * 1536 / 1e9, experts=256, used=8),
    "Qwen3-Coder-Next": replace(
        dense(48, 2048, (16, 2, 256), 151936, 79.67),
        caches=(Rows(12, 1024, 0, 16 * 256),),
        n_recurrent=36,
        state_bytes=75.375 * (1 << 20),
        n_moe=48,
        routed=48 * 512 * 3 * 2048 * 512 / 1e9,
        experts=512,
        used=10,
    ),
    "dots.llm1": replace(
        dense(62, 4096, (32, 32, 128), 152064, 142.77),
        n_moe=61,
        routed=61 * 128 * 3 * 4096 * 1408 / 1e9,
        experts=128,
        used=6,
    ),
    "Llama-4-Scout": replace(
        dense(48, 5120, (40, 8, 128), 202048, 107.77),
        n_moe=48,
        routed=48 * 16 * 3 * 5120 * 8192 / 1e9,
        experts=16,
        used=1,
    ),
    "Hunyuan-A13B": replace(
        tied(dense(32, 4096, (32, 8, 128), 128167, 80.39)),
        n_moe=32,
        routed=32 * 64 * 3 * 4096 * 3072 / 1e9,
        experts=64,
        used=8,
    ),
}


def read_shapes(data: Path) -> dict[str, Shape]:
    """Shapes by name; models.json where it states enough, the table above before it."""
    shapes = dict(SHAPES)
    for model in json.loads((data / "models.json").read_text()):
        if model["name"] not in shapes and (shape := shape_of(model)) is not None:
            shapes[model["name"]] = shape
    return shapes


def shape_of(model: Mapping[str, Any]) -> Shape | None:
    total = model.get("total_params_gguf") or model.get("total_params_official")
    if isinstance(total, str):
        match = re.match(r"[\d.]+(e9)?", total)
        total = float(match[0].removesuffix("e9")) * 1e9 if match else None
    n_embd = model.get("hidden_size") or _from_shapes(model)
    if not total or not n_embd or not model.get("vocab_size"):
        return None
    by_class = model.get("params_by_class") or {}
    output = n_embd * model["vocab_size"] / 1e9
    is_tied = model.get("tied_embeddings") is True
    n_moe = (model["n_layer"] - (model.get("leading_dense_layers") or 0)) if model.get("n_experts") else 0
    expert = 3 * n_embd * (model.get("expert_intermediate_size") or 0)
    recurrent = _recurrent(model)
    return Shape(
        n_layer=model["n_layer"],
        n_embd=n_embd,
        total=total / 1e9,
        output=output,
        looked_up=(0.0 if is_tied else output) + by_class.get("nextn", 0) / 1e9,
        caches=_caches(model, recurrent[0]),
        n_recurrent=recurrent[0],
        state_bytes=recurrent[1],
        n_moe=n_moe,
        routed=by_class.get("routed_experts", n_moe * (model.get("n_experts") or 0) * expert) / 1e9,
        experts=model.get("n_experts") or 1,
        used=model.get("n_experts_used") or 1,
    )


def _from_shapes(model: Mapping[str, Any]) -> int:
    """The embedding's width from the tensor list ("4096, 248320")."""
    shapes = (model.get("gguf_shapes") or {}).get("token_embd.weight") or {}
    return int(next(iter(shapes), "0").split(",")[0])


def _recurrent(model: Mapping[str, Any]) -> tuple[int, float]:
    """Layers with a state instead of a cache, and the state's bytes."""
    linear = model.get("linear_attention")
    if linear and "recurrent_state_mib_per_sequence" in linear:
        mib = linear["recurrent_state_mib_per_sequence"]
        return linear.get("n_linear_layers", model["n_layer"] * 3 // 4), mib * (1 << 20)
    if model.get("gguf_arch") == "qwen35":  # 9B and 4B: three of four layers, state 128 x 128 x 32 heads
        n = model["n_layer"] * 3 // 4
        return n, n * (32 * 128 * 128 + 3 * 8192) * 4.0
    if model.get("mamba2"):
        inner, state = model["mamba2"]["inner_size"], model["mamba2"]["state_size"]
        return model["mamba2"]["n_mamba_layers"], model["mamba2"]["n_mamba_layers"] * inner * state * 4.0
    if model.get("short_conv"):
        return model["short_conv"]["conv_layers"], 0.0
    return 0, 0.0


def _caches(model: Mapping[str, Any], n_recurrent: int) -> tuple[Rows, ...]:
    kv = model.get("kv_cache") or {}
    n_head = model.get("n_head") or 16
    if model.get("gguf_arch") == "deepseek4":
        # Raw window of 128; every fourth or every 128th token compressed, with an indexer key of 128.
        return (
            Rows(43, 512, 128, n_head * 512),
            Rows(21, (512 + 128) // 4, 0, n_head * 512 // 4),
            Rows(20, 512 // 128, 0, n_head * 512 // 128),
        )
    if "kv_heads" not in kv:
        n_kv = model.get("n_head_kv") if isinstance(model.get("n_head_kv"), int) else 8
        size = model.get("head_dim_k") or 256
        if model.get("gguf_arch") == "qwen35":
            n_kv, size = 4, 256
        return (Rows(model["n_layer"] - n_recurrent, 2 * n_kv * size, 0, n_head * size),)
    values = kv["kv_heads"] * (kv["dim_k"] + kv["dim_v"])
    rows = Rows(kv["layers_with_kv"], values, 0, n_head * kv["dim_k"])
    if model.get("gguf_arch") == "gpt-oss":
        half = rows.n_layers // 2
        return (replace(rows, n_layers=half), replace(rows, n_layers=half, window=128))
    return (rows,)
