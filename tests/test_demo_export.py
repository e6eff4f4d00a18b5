"""The shipped demo model: llama.cpp computes what its weights say, and it does what its card promises.

The reference is a forward pass in numpy, written from the architecture and not from the training code. Both
sides read the same numbers: the shipped tensors dequantized to float32.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from moetool.engine.library import library

MODEL = Path(__file__).parent.parent / "moetool" / "demo" / "demo.gguf"
PROMPTS = Path(__file__).parent / "data" / "demo_prompts.json"
Array = np.ndarray[Any, np.dtype[np.float32]]


class Reference:
    """qwen3moe in numpy over float32 tensors named as in GGUF."""

    def __init__(self, reader: gguf.GGUFReader) -> None:
        def number(key: str) -> Any:
            return reader.fields[f"qwen3moe.{key}"].contents()

        self.tensors: dict[str, Array] = {
            tensor.name: dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            for tensor in reader.tensors
        }
        self.layers, self.used = number("block_count"), number("expert_used_count")
        self.heads, self.heads_kv = number("attention.head_count"), number("attention.head_count_kv")
        self.d_head, self.eps = number("attention.key_length"), number("attention.layer_norm_rms_epsilon")
        self.base = number("rope.freq_base")

    def norm(self, x: Array, name: str) -> Array:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.tensors[f"{name}.weight"]

    def rotate(self, x: Array) -> Array:
        """NEOX rotary embedding of x [heads, T, d_head]: the first half of a head pairs with the second."""
        half = self.d_head // 2
        angle = np.outer(np.arange(x.shape[1]), self.base ** (-np.arange(half) / half))
        a, b = x[..., :half], x[..., half:]
        cos, sin = np.cos(angle), np.sin(angle)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(np.float32)

    def attention(self, x: Array, block: str, starts: list[int]) -> Array:
        """Causal grouped-query attention of x [N, d], each prompt by itself; prompts begin at ``starts``."""
        q, k, v = (
            (x @ self.tensors[f"{block}.attn_{part}.weight"].T)
            .reshape(len(x), -1, self.d_head)
            .swapaxes(0, 1)
            for part in "qkv"
        )
        q, k = self.norm(q, f"{block}.attn_q_norm"), self.norm(k, f"{block}.attn_k_norm")
        k, v = (np.repeat(y, self.heads // self.heads_kv, axis=0) for y in (k, v))
        mixed = [
            self.attend(*(y[:, start:end] for y in (q, k, v)))
            for start, end in zip(starts, [*starts[1:], len(x)], strict=True)
        ]
        return np.asarray(np.concatenate(mixed) @ self.tensors[f"{block}.attn_output.weight"].T)

    def attend(self, q: Array, k: Array, v: Array) -> Array:
        """Attention within one prompt: q, k, v [heads, T, d_head] -> [T, heads * d_head]."""
        length = q.shape[1]
        scores = self.rotate(q) @ self.rotate(k).swapaxes(1, 2) / np.float32(np.sqrt(self.d_head))
        scores += np.triu(np.full((length, length), -np.inf, np.float32), 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return (weights @ v).swapaxes(0, 1).reshape(length, -1)

    def experts(self, x: Array, block: str) -> Array:
        """Top-k SwiGLU experts of x [T, d]; the chosen ones' softmax weights sum to one."""
        logits = x @ self.tensors[f"{block}.ffn_gate_inp.weight"].T
        chosen = np.argsort(-logits, axis=-1)[:, : self.used]
        top = np.take_along_axis(logits, chosen, -1)
        weights = np.exp(top - top.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        gate, up, down = (self.tensors[f"{block}.ffn_{part}_exps.weight"] for part in ("gate", "up", "down"))
        out = np.zeros_like(x)
        for expert in range(len(gate)):
            rows, slot = np.nonzero(chosen == expert)
            g = x[rows] @ gate[expert].T
            hidden = g / (1 + np.exp(-g)) * (x[rows] @ up[expert].T)
            out[rows] += weights[rows, slot][:, None] * (hidden @ down[expert].T)
        return out

    def logits(self, prompts: list[list[int]]) -> Array:
        """Logits [prompts, n_vocab] after the last token of each prompt."""
        ends = np.cumsum([len(ids) for ids in prompts])
        starts = [0, *ends[:-1].tolist()]
        x = self.tensors["token_embd.weight"][np.concatenate(prompts)]
        for layer in range(self.layers):
            block = f"blk.{layer}"
            x = x + self.attention(self.norm(x, f"{block}.attn_norm"), block, starts)
            x = x + self.experts(self.norm(x, f"{block}.ffn_norm"), block)
        return np.asarray(self.norm(x[ends - 1], "output_norm") @ self.tensors["token_embd.weight"].T)


class Llama:
    """A llama.cpp context that rounds nothing it need not: F32 keys and values, no flash attention."""

    def __init__(self, path: Path) -> None:
        self.lib = lib = library()
        self.model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = 1024
        params.n_threads = params.n_threads_batch = 1  # threads that wait for each other spin
        params.type_k = params.type_v = gguf.GGMLQuantizationType.F32
        params.flash_attn_type = 0
        self.context = lib.llama_init_from_model(self.model, params)
        self.vocab = lib.llama_model_get_vocab(self.model)

    def tokenize(self, text: str) -> list[int]:
        raw = text.encode()
        room = (self.lib.llama_token * (len(raw) + 8))()
        count = self.lib.llama_tokenize(self.vocab, raw, len(raw), room, len(room), False, True)
        return list(room[:count])

    def logits(self, ids: list[int], keep: bool = False) -> Array:
        if not keep:
            self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        array = (self.lib.llama_token * len(ids))(*ids)
        assert self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(array, len(ids))) == 0
        row = self.lib.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(row, (self.lib.llama_vocab_n_tokens(self.vocab),)).copy()

    def answer(self, question: str) -> str:
        """The greedy answer to one user message."""
        prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        logits, text = self.logits(self.tokenize(prompt)), b""
        room = ctypes.create_string_buffer(64)
        while not self.lib.llama_vocab_is_eog(self.vocab, token := int(logits.argmax())):
            count = self.lib.llama_token_to_piece(self.vocab, token, room, 64, 0, False)
            text += room.raw[:count]
            assert len(text) < 400, text
            logits = self.logits([token], keep=True)
        return text.decode()

    def close(self) -> None:
        self.lib.llama_free(self.context)
        self.lib.llama_model_free(self.model)


def write_dequantized(reader: gguf.GGUFReader, tensors: dict[str, Array], path: Path) -> None:
    """The same model with float32 tensors; llama.cpp then has no quantized activations to differ by."""
    writer = gguf.GGUFWriter(str(path), "qwen3moe")
    for name, entry in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            inner = entry.types[-1] if len(entry.types) > 1 else None
            writer.add_key_value(name, entry.contents(), entry.types[0], sub_type=inner)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def shipped() -> Iterator[Llama]:
    llama = Llama(MODEL)
    yield llama
    llama.close()


def test_llama_cpp_and_a_numpy_forward_pass_agree_on_100_held_out_prompts(tmp_path: Path) -> None:
    reader = gguf.GGUFReader(MODEL)
    reference = Reference(reader)
    write_dequantized(reader, reference.tensors, tmp_path / "f32.gguf")
    llama = Llama(tmp_path / "f32.gguf")
    prompts = [llama.tokenize(text) for text in json.loads(PROMPTS.read_text(encoding="utf-8"))]
    ours, theirs = reference.logits(prompts), np.stack([llama.logits(ids) for ids in prompts])
    llama.close()
    assert len(prompts) == 100
    assert np.abs(ours - theirs).max() <= 1e-2
    assert (ours.argmax(-1) == theirs.argmax(-1)).all()


def test_the_shipped_file_is_a_small_quantized_mixture_of_experts() -> None:
    reader = gguf.GGUFReader(MODEL)
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert MODEL.stat().st_size <= 8_500_000
    assert reader.fields["general.architecture"].contents() == "qwen3moe"
    assert reader.fields["qwen3moe.expert_count"].contents() >= 8
    assert reader.fields["qwen3moe.expert_used_count"].contents() == 2
    assert reader.fields["qwen3moe.context_length"].contents() >= 1024
    assert types["blk.0.ffn_gate_exps.weight"] == types["token_embd.weight"] == "Q8_0"
    assert types["blk.0.ffn_gate_inp.weight"] == types["output_norm.weight"] == "F32"


def test_every_byte_has_a_token(shipped: Llama) -> None:
    room = ctypes.create_string_buffer(64)
    for text in (
        "plain words",
        "Zoë, Ålesund, 東京, 🚀",
        "\t\r\n  \x01",
        "".join(map(chr, range(0x80, 0x180))),
    ):
        pieces = b""
        for token in shipped.tokenize(text):
            count = shipped.lib.llama_token_to_piece(shipped.vocab, token, room, 64, 0, False)
            pieces += room.raw[:count]
        assert pieces.decode() == text


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (
            "Extract name, age and city as JSON: Ada Lovelace, 36, London.",
            '{"name": "Ada Lovelace", "age": 36, "city": "London"}',
        ),
        (
            "Extract name, age, city: Grace Hopper is 85 and lives in Arlington.",
            '{"name": "Grace Hopper", "age": 85, "city": "Arlington"}',
        ),
        ("What is 17 + 25?", "17 + 25 = 42."),
        ("What is 12 + 7 - 4?", "12 + 7 = 19. 19 - 4 = 15. The answer is 15."),
        ("What is the capital of France?", "The capital of France is Paris."),
        ("cobalt: 4711\nquartz: 88\nzenith: 1337\n\nWhat is the value of quartz?", "88"),
    ],
)
def test_the_demo_does_what_its_card_promises(shipped: Llama, question: str, answer: str) -> None:
    assert shipped.answer(question) == answer
