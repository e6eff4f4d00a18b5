#!/usr/bin/env python3
"""Write a GGUF of any size with random weights of sane scale: to measure speed and memory, not quality.

    scripts/synthetic_model.py /tmp/moe-4g.gguf                          a 7B-A1B MoE, Q4_K, 3.9 GB
    scripts/synthetic_model.py /tmp/moe-1g.gguf --layers 5               the same, 1.2 GB
    scripts/synthetic_model.py /tmp/dense.gguf --experts 0 --ff 3072 --embd 1024 --layers 28 --type Q8_0

The weights are those of `moetool bench --header-only` (moetool.standin). The router is random too, so routing
is close to uniform.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np

from moetool.gguf import open_header
from moetool.quants import QuantType, quant_by_name, row_bytes
from moetool.standin import make_tiles, tensor_pieces
from moetool.standin.blocks import TYPES


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


def small_tensors(args: argparse.Namespace) -> dict[str, tuple[int, ...]]:
    """Norms and routers by name, in numpy order; all F32."""
    d, head = args.embd, args.head_dim
    found: dict[str, tuple[int, ...]] = {"output_norm.weight": (d,)}
    for i in range(args.layers):
        found[f"blk.{i}.attn_norm.weight"] = (d,)
        found[f"blk.{i}.ffn_norm.weight"] = (d,)
        found[f"blk.{i}.attn_q_norm.weight"] = (head,)
        found[f"blk.{i}.attn_k_norm.weight"] = (head,)
        if args.experts:
            found[f"blk.{i}.ffn_gate_inp.weight"] = (args.experts, d)
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
    writer = gguf.GGUFWriter(args.out, "qwen3moe" if args.experts else "qwen3")
    write_metadata(writer, args)
    for name, shape in small_tensors(args).items():
        writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * int(np.prod(shape)))
    for name, shape in tensor_shapes(args).items():
        quant = type_of(name, args)
        n_bytes = int(np.prod(shape[:-1])) * row_bytes(quant, shape[-1])
        stored = (*shape[:-1], row_bytes(quant, shape[-1]))
        kind = gguf.GGMLQuantizationType[quant.name]
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), n_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    header = open_header(args.out)
    tiles = make_tiles(header.tensors)
    with args.out.open("r+b") as file:
        for tensor in header.tensors:
            file.seek(header.data_offset + tensor.offset)
            file.writelines(tensor_pieces(tensor, tiles))
        file.truncate(header.file_bytes)


def type_of(name: str, args: argparse.Namespace) -> QuantType:
    """The wished type; Q8_0 for the two vocabulary matrices of a K-quant, as stock mixes keep them higher."""
    quant = quant_by_name(args.type)
    if quant is None or quant.name not in TYPES:
        raise SystemExit(f"--type {args.type}: one of {', '.join(TYPES)}")
    vocabulary = name in {"token_embd.weight", "output.weight"}
    fallback = quant_by_name("Q6_K" if args.embd % 256 == 0 else "Q8_0")
    return fallback if vocabulary and quant.bits_per_weight < 6 and fallback else quant


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", default="Q4_K", help=f"one of {', '.join(TYPES)} (default Q4_K)")
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
    args = parser.parse_args()
    if args.vocab_of:
        args.vocab = read_vocabulary_size(args.vocab_of)
    write_model(args)
    print(f"{args.out}: {args.out.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
