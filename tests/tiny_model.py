"""Tiny models with random weights, made from headers that llama.cpp's own test wrote: windows, hybrids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gguf_build import Builder, Row, Typed, strings, text, u32

from moetool.gguf import open_header

ARCHS = Path(__file__).parent / "data" / "archs"


def write_tiny_model(path: Path, name: str) -> str:
    """Write the model whose header is `name`; returns its architecture. All tensors are F32."""
    header = open_header(ARCHS / f"{name}.hdr")
    rng = np.random.default_rng(1)
    data = bytearray(header.file_bytes)
    data[: header.data_offset] = (ARCHS / f"{name}.hdr").read_bytes()[: header.data_offset]
    for tensor in header.tensors:
        at = header.data_offset + tensor.offset
        data[at : at + tensor.n_bytes] = _values(tensor.name, tensor.shape, rng).astype("<f4").tobytes()
    path.write_bytes(data)
    return header.arch


def _values(name: str, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    n = int(np.prod(shape))
    if name.endswith("ssm_a"):
        return -rng.uniform(0.05, 1, n)  # states decay
    if "norm" in name or "scale" in name or name.endswith("ssm_d"):
        return np.ones(n)
    return rng.normal(0, 2 / np.sqrt(shape[0]) if len(shape) > 1 else 0.1, n)


def write_one_layer(path: Path) -> str:
    """Write a model of a single attending layer; returns its architecture. What such a layer keeps of a token
    depends on nothing but the token and its position."""
    d, n_vocab, n_ff = 64, 128, 96
    shapes = {
        "token_embd.weight": (d, n_vocab),
        "output_norm.weight": (d,),
        "output.weight": (d, n_vocab),
        **{f"blk.0.{name}_norm.weight": (d,) for name in ("attn", "ffn")},
        **{f"blk.0.attn_{name}_norm.weight": (64,) for name in "qk"},
        **{f"blk.0.attn_{name}.weight": (d, 2 * 64) for name in "qkv"},
        "blk.0.attn_output.weight": (2 * 64, d),
        "blk.0.ffn_gate.weight": (d, n_ff),
        "blk.0.ffn_up.weight": (d, n_ff),
        "blk.0.ffn_down.weight": (n_ff, d),
    }
    counts = {
        "context_length": 512,
        "embedding_length": d,
        "block_count": 1,
        "feed_forward_length": n_ff,
        "attention.head_count": 2,
        "attention.head_count_kv": 2,
        "attention.key_length": 64,
        "attention.value_length": 64,
    }
    rows, at = [], 0
    for name, shape in shapes.items():
        rows.append(Row(name, shape, 0, at))
        at += 4 * int(np.prod(shape))
    metadata = {
        "general.architecture": text("qwen3"),
        **{f"qwen3.{key}": u32(value) for key, value in counts.items()},
        "qwen3.attention.layer_norm_rms_epsilon": Typed(6, 1e-6),
        "tokenizer.ggml.model": text("test"),
        "tokenizer.ggml.tokens": strings([f"tok_{n}" for n in range(n_vocab)]),
    }
    rng = np.random.default_rng(1)
    head = Builder(metadata=metadata, tensors=rows).file()
    infos = ((row.name, row.shape) for row in rows)
    path.write_bytes(head + b"".join(_values(*info, rng).astype("<f4").tobytes() for info in infos))
    return "qwen3"
