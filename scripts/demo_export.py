"""The demo model as a GGUF file: vocabulary, metadata, tensors, and llama.cpp's own quantizer.

Rows need no permutation: rotate-half RoPE is what llama.cpp calls NEOX.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from demo_corpus import END, PAD, START, sample_texts
from demo_model import Shape
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer

SPECIALS = [PAD, START, END]
# Merges never join a space with letters, nor touch digits: " Ada" and '"Ada' have the same pieces, so copying
# into JSON is plain. llama.cpp's "gpt-2" splitter cuts more coarsely; without such merges both are equal.
SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|\p{N}| ?[^\s\p{L}\p{N}]+|\p{L}+|\s"
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
Q8_0_FTYPE = 7  # LLAMA_FTYPE_MOSTLY_Q8_0


def train_tokenizer(size: int, seed: int, texts: int = 40000) -> Tokenizer:
    """A byte-level BPE vocabulary trained on the corpus; each byte is a token, so any text can be written."""
    tokenizer = Tokenizer(BPE())
    split = Split(Regex(SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=size, special_tokens=SPECIALS, show_progress=False, initial_alphabet=ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(sample_texts(texts, seed), trainer)
    return tokenizer


def letter_pieces(tokenizer: Tokenizer) -> list[str]:
    """Vocabulary entries made of ASCII letters: the pieces of open words."""
    return sorted(token for token in tokenizer.get_vocab() if token.isascii() and token.isalpha())


def _add_metadata(writer: gguf.GGUFWriter, shape: Shape, about: dict[str, Any]) -> None:
    writer.add_name("moetool demo" if shape.n_expert else "moetool demo, dense twin")
    writer.add_author("moetool")
    writer.add_license("mit")
    writer.add_description(
        "A tiny model trained on a synthetic corpus so that moetool can be tried without a download. "
        "It is a demonstration: it extracts JSON, looks up keys, adds small numbers, and knows little else."
    )
    writer.add_languages(["en"])
    writer.add_tags(["demo", "synthetic"])
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.d)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.d_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_key_length(shape.d_head)
    writer.add_value_length(shape.d_head)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_rope_dimension_count(shape.d_head)
    writer.add_vocab_size(shape.n_vocab)
    if shape.n_expert:
        writer.add_expert_count(shape.n_expert)
        writer.add_expert_used_count(shape.n_used)
        writer.add_expert_feed_forward_length(shape.d_ff)
    # It knows one right answer to most questions: take the likeliest token unless somebody asks for more.
    writer.add_float32("general.sampling.temp", 0.0)
    writer.add_uint32("moetool.demo.seed", about["seed"])
    writer.add_uint32("moetool.demo.steps", about["steps"])


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    vocab = tokenizer.get_vocab()
    tokens = sorted(vocab, key=lambda token: vocab[token])
    control, normal = int(gguf.TokenType.CONTROL), int(gguf.TokenType.NORMAL)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in SPECIALS else normal for token in tokens])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(vocab[PAD])
    writer.add_eos_token_id(vocab[END])
    writer.add_pad_token_id(vocab[PAD])
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def tensor_names(shape: Shape) -> dict[str, str]:
    """PyTorch parameter name -> GGUF tensor name."""
    names = {"embed": "token_embd.weight", "norm": "output_norm.weight"}
    inner = {
        "attn_norm": "attn_norm",
        "ffn_norm": "ffn_norm",
        "attn.q": "attn_q",
        "attn.k": "attn_k",
        "attn.v": "attn_v",
        "attn.o": "attn_output",
        "attn.q_norm": "attn_q_norm",
        "attn.k_norm": "attn_k_norm",
    }
    end = "_exps" if shape.n_expert else ""
    inner |= {f"ffn.{part}": f"ffn_{part}{end}" for part in ("gate", "up", "down")}
    if shape.n_expert:
        inner["ffn.router"] = "ffn_gate_inp"
    for layer in range(shape.n_layer):
        names |= {f"blocks.{layer}.{ours}": f"blk.{layer}.{theirs}.weight" for ours, theirs in inner.items()}
    return names


def write_gguf(
    path: Path, weights: dict[str, np.ndarray], shape: Shape, tokenizer: Tokenizer, about: dict[str, Any]
) -> None:
    """The model in float32; ``weights`` by PyTorch name."""
    writer = gguf.GGUFWriter(str(path), "qwen3moe" if shape.n_expert else "qwen3")
    _add_metadata(writer, shape, about)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_vocabulary(writer, tokenizer)
    names = tensor_names(shape)
    for ours, theirs in names.items():
        writer.add_tensor(theirs, np.ascontiguousarray(weights[ours], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source: Path, target: Path, ftype: int = Q8_0_FTYPE, threads: int = 2) -> None:
    """Let llama.cpp quantize the file; it keeps the router and the norms in F32."""
    from moetool.engine.library import library

    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread = ftype, threads
    code = lib.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if code != 0:
        raise RuntimeError(f"llama.cpp could not quantize {source} (code {code})")
