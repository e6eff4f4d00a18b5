#!/usr/bin/env python3
"""Write a GGUF of any size with random weights of sane scale: to measure speed and memory, not quality.

    scripts/synthetic_model.py /tmp/moe-4g.gguf                          a 7B-A1B MoE, Q4_K, 3.9 GB
    scripts/synthetic_model.py /tmp/moe-1g.gguf --layers 5               the same, 1.2 GB
    scripts/synthetic_model.py /tmp/dense.gguf --experts 0 --ff 3072 --embd 1024 --layers 28 --type Q8_0

The router is random too, so routing is close to uniform. Blocks of one tile are repeated: the kernels read
as many bytes as they would of a real model.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from moetool.quants import QuantType, quant_by_name, row_bytes

SIGMA = 0.02  # standard deviation of a weight, as in a trained model of this size
TILE_BYTES = 1 << 23


def _fp16(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).view(np.uint8).reshape(*values.shape, 2)


def _scales(rng: np.random.Generator, n: int, scale: float) -> np.ndarray:
    return _fp16(scale * rng.uniform(0.8, 1.2, n))


def _q8_0(rng: np.random.Generator, blocks: np.ndarray) -> None:
    blocks[:, :2] = _scales(rng, len(blocks), SIGMA / 73)


def _q4_0(rng: np.random.Generator, blocks: np.ndarray) -> None:
    blocks[:, :2] = _scales(rng, len(blocks), SIGMA / 4.6)


def _q4_k(rng: np.random.Generator, blocks: np.ndarray) -> None:
    # w = d * scale * q - dmin * min: q averages 7.5, so dmin = 7.5 d centres it when scales and mins match.
    d = SIGMA / (31 * 6)
    blocks[:, :2] = _scales(rng, len(blocks), d)
    blocks[:, 2:4] = _scales(rng, len(blocks), 7.5 * d)


def _q5_k(rng: np.random.Generator, blocks: np.ndarray) -> None:
    d = SIGMA / (31 * 12)
    blocks[:, :2] = _scales(rng, len(blocks), d)
    blocks[:, 2:4] = _scales(rng, len(blocks), 15.5 * d)


def _q6_k(rng: np.random.Generator, blocks: np.ndarray) -> None:
    blocks[:, -2:] = _scales(rng, len(blocks), SIGMA / (74 * 18))


def _q2_k(rng: np.random.Generator, blocks: np.ndarray) -> None:
    d = SIGMA / (8 * 1.5)
    blocks[:, -4:-2] = _scales(rng, len(blocks), d)
    blocks[:, -2:] = _scales(rng, len(blocks), 1.5 * d)


def _q3_k(rng: np.random.Generator, blocks: np.ndarray) -> None:
    blocks[:, -2:] = _scales(rng, len(blocks), SIGMA / (18 * 2.3))


def _mxfp4(rng: np.random.Generator, blocks: np.ndarray) -> None:
    blocks[:, 0] = 127 - 8 + rng.integers(0, 2, len(blocks))  # 2^-8 .. 2^-7 times 0 .. 6


def _f16(rng: np.random.Generator, blocks: np.ndarray) -> None:
    blocks[:] = _fp16(rng.normal(0, SIGMA, len(blocks)))


def _bf16(rng: np.random.Generator, blocks: np.ndarray) -> None:
    words = rng.normal(0, SIGMA, len(blocks)).astype(np.float32).view(np.uint32) >> 16
    blocks[:] = words.astype(np.uint16).view(np.uint8).reshape(-1, 2)


def _f32(rng: np.random.Generator, blocks: np.ndarray) -> None:
    blocks[:] = rng.normal(0, SIGMA, len(blocks)).astype(np.float32).view(np.uint8).reshape(-1, 4)


def _codebook(weights_per_scale: float) -> Callable[[np.random.Generator, np.ndarray], None]:
    """Types that begin with one scale: `weights_per_scale` is what a usual weight is of it."""

    def fill(rng: np.random.Generator, blocks: np.ndarray) -> None:
        blocks[:, :2] = _scales(rng, len(blocks), SIGMA / weights_per_scale)

    return fill


# Where a type keeps its scales decides what makes a block sane; the rest of the block is random bytes.
FILLERS: dict[str, Callable[[np.random.Generator, np.ndarray], None]] = {
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "IQ4_NL": _codebook(60),
    "IQ4_XS": _codebook(1000),
    "IQ3_S": _codebook(128),
    "IQ3_XXS": _codebook(112),
    "IQ2_XS": _codebook(40),
    "IQ2_XXS": _codebook(40),
    "IQ1_S": _codebook(8),
    "MXFP4": _mxfp4,
    "F16": _f16,
    "BF16": _bf16,
    "F32": _f32,
}


def make_tile(quant: QuantType, rng: np.random.Generator) -> np.ndarray:
    """About TILE_BYTES of whole blocks, flat uint8."""
    n_blocks = TILE_BYTES // quant.block_bytes
    blocks = rng.integers(0, 256, (n_blocks, quant.block_bytes), dtype=np.uint8)
    FILLERS[quant.name](rng, blocks)
    return blocks.reshape(-1)


def tensor_shapes(args: argparse.Namespace) -> dict[str, tuple[int, ...]]:
    """Matrices by name, in numpy order (rows first): qwen3moe with experts, qwen3 without."""
    d, head = args.embd, args.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (args.vocab, d),
        "output.weight": (args.vocab, d),
    }
    for i in range(args.layers):
        shapes[f"blk.{i}.attn_q.weight"] = (args.heads * head, d)
        shapes[f"blk.{i}.attn_k.weight"] = (args.kv_heads * head, d)
        shapes[f"blk.{i}.attn_v.weight"] = (args.kv_heads * head, d)
        shapes[f"blk.{i}.attn_output.weight"] = (d, args.heads * head)
        if args.experts:
            shapes[f"blk.{i}.ffn_gate_exps.weight"] = (args.experts, args.expert_ff, d)
            shapes[f"blk.{i}.ffn_up_exps.weight"] = (args.experts, args.expert_ff, d)
            shapes[f"blk.{i}.ffn_down_exps.weight"] = (args.experts, d, args.expert_ff)
        else:
            shapes[f"blk.{i}.ffn_gate.weight"] = (args.ff, d)
            shapes[f"blk.{i}.ffn_up.weight"] = (args.ff, d)
            shapes[f"blk.{i}.ffn_down.weight"] = (d, args.ff)
    return shapes


def small_tensors(args: argparse.Namespace, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Norms (ones) and routers (random), F32."""
    d, head = args.embd, args.head_dim
    found = {"output_norm.weight": np.ones(d, np.float32)}
    for i in range(args.layers):
        found[f"blk.{i}.attn_norm.weight"] = np.ones(d, np.float32)
        found[f"blk.{i}.ffn_norm.weight"] = np.ones(d, np.float32)
        found[f"blk.{i}.attn_q_norm.weight"] = np.ones(head, np.float32)
        found[f"blk.{i}.attn_k_norm.weight"] = np.ones(head, np.float32)
        if args.experts:
            router = rng.normal(0, SIGMA, (args.experts, d)).astype(np.float32)
            found[f"blk.{i}.ffn_gate_inp.weight"] = router
    return found


def write_metadata(writer: gguf.GGUFWriter, args: argparse.Namespace) -> None:
    writer.add_name(f"synthetic {args.type}")
    writer.add_context_length(args.ctx_train)
    writer.add_embedding_length(args.embd)
    writer.add_block_count(args.layers)
    writer.add_feed_forward_length(args.ff)
    writer.add_head_count(args.heads)
    writer.add_head_count_kv(args.kv_heads)
    writer.add_key_length(args.head_dim)
    writer.add_value_length(args.head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    if args.experts:
        writer.add_expert_count(args.experts)
        writer.add_expert_used_count(args.used)
        writer.add_expert_feed_forward_length(args.expert_ff)
    if args.vocab_of:
        copy_vocabulary(writer, args.vocab_of)
    else:
        write_vocabulary(writer, args.vocab)


def copy_vocabulary(writer: gguf.GGUFWriter, path: Path) -> None:
    """The tokenizer of another file, as it stands there."""
    for name, field in gguf.GGUFReader(path).fields.items():
        if name.startswith("tokenizer."):
            of_array = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], of_array)


def read_vocabulary_size(path: Path) -> int:
    """How many tokens a file's tokenizer has."""
    return len(gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"].data)


def write_vocabulary(writer: gguf.GGUFWriter, n_vocab: int) -> None:
    """A byte-level vocabulary: the 256 bytes, made-up words, and an end token."""
    byte_pieces = [chr(c) for c in sorted(_byte_characters().values())]
    words = [f"Ġw{i:x}" for i in range(n_vocab - 257)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*byte_pieces, *words, "<|end|>"])
    writer.add_token_types([1] * (n_vocab - 1) + [3])
    writer.add_token_merges(["Ġ w"])
    writer.add_eos_token_id(n_vocab - 1)
    writer.add_add_bos_token(False)


def _byte_characters() -> dict[int, int]:
    """Byte -> the code point that stands for it in a byte-level vocabulary (GPT-2's convention)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {b: b for b in plain} | {b: 256 + i for i, b in enumerate(others)}


def write_model(args: argparse.Namespace) -> None:
    """Write the whole file, streaming: memory stays at one tile."""
    rng = np.random.default_rng(args.seed)
    writer = gguf.GGUFWriter(args.out, "qwen3moe" if args.experts else "qwen3")
    write_metadata(writer, args)
    small = small_tensors(args, rng)
    shapes = tensor_shapes(args)
    types = {name: type_of(name, args) for name in shapes}
    for name, array in small.items():
        writer.add_tensor_info(name, array.shape, array.dtype, array.nbytes)
    for name, shape in shapes.items():
        n_bytes = int(np.prod(shape[:-1])) * row_bytes(types[name], shape[-1])
        kind = gguf.GGMLQuantizationType[types[name].name]
        stored = (*shape[:-1], row_bytes(types[name], shape[-1]))
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), n_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    tiles = {quant.name: make_tile(quant, rng) for quant in types.values()}
    for array in small.values():
        writer.write_tensor_data(array)
    for name, shape in shapes.items():
        n_bytes = int(np.prod(shape[:-1])) * row_bytes(types[name], shape[-1])
        writer.write_tensor_data(np.resize(tiles[types[name].name], n_bytes))
    writer.close()


def type_of(name: str, args: argparse.Namespace) -> QuantType:
    """The wished type; Q8_0 for the two vocabulary matrices of a K-quant, as stock mixes keep them higher."""
    quant = quant_by_name(args.type)
    if quant is None or quant.name not in FILLERS:
        raise SystemExit(f"--type {args.type}: one of {', '.join(FILLERS)}")
    vocabulary = name in {"token_embd.weight", "output.weight"}
    fallback = quant_by_name("Q6_K" if args.embd % 256 == 0 else "Q8_0")
    return fallback if vocabulary and quant.bits_per_weight < 6 and fallback else quant


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", default="Q4_K", help=f"one of {', '.join(FILLERS)} (default Q4_K)")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--embd", type=int, default=2048)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--experts", type=int, default=64, help="0 makes a dense model")
    parser.add_argument("--used", type=int, default=8)
    parser.add_argument("--expert-ff", type=int, default=1024)
    parser.add_argument("--ff", type=int, default=6144, help="of a dense model's layers")
    parser.add_argument("--vocab", type=int, default=151936, help="made-up tokens")
    parser.add_argument("--vocab-of", type=Path, help="take the tokenizer of this GGUF file instead")
    parser.add_argument("--ctx-train", type=int, default=32768)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.vocab_of:
        args.vocab = read_vocabulary_size(args.vocab_of)
    write_model(args)
    print(f"{args.out}: {args.out.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
