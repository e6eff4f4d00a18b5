"""A repo of many quants of one model, made from a published header: large vocabularies, and no weights."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from gguf_build import ARRAY, STRING, Builder, Row
from hub_server import Hollow

from moetool import quants
from moetool.gguf import Header, TensorInfo, read_header
from moetool.gguf.header import padded

HEADERS = Path(__file__).parent / "data" / "headers"
BUILD = Builder()

# Label -> general.file_type, and the types of attention and of everything that is larger.
QUANTS = {
    "BF16": (32, "BF16", "BF16"),
    "Q8_0": (7, "Q8_0", "Q8_0"),
    "Q6_K": (18, "Q6_K", "Q6_K"),
    "Q5_K_M": (17, "Q6_K", "Q5_K"),
    "Q5_K_S": (16, "Q5_K", "Q5_K"),
    "Q5_0": (8, "Q5_0", "Q5_0"),
    "Q4_K_M": (15, "Q6_K", "Q4_K"),
    "Q4_K_S": (14, "Q4_K", "Q4_K"),
    "Q4_1": (3, "Q4_1", "Q4_1"),
    "Q4_0": (2, "Q4_0", "Q4_0"),
    "IQ4_NL": (25, "IQ4_NL", "IQ4_NL"),
    "IQ4_XS": (30, "IQ4_XS", "IQ4_XS"),
    "Q3_K_L": (13, "Q5_K", "Q3_K"),
    "Q3_K_M": (12, "Q4_K", "Q3_K"),
    "Q3_K_S": (11, "Q3_K", "Q3_K"),
    "IQ3_S": (26, "Q4_K", "IQ3_S"),
    "IQ3_XXS": (23, "Q4_K", "IQ3_XXS"),
    "Q2_K": (10, "Q3_K", "Q2_K"),
    "IQ2_XS": (20, "Q3_K", "IQ2_XS"),
    "IQ1_S": (24, "Q2_K", "IQ1_S"),
}


@lru_cache(maxsize=8)
def vocabulary(n_tokens: int, spelling: str = "token", odd: str = "") -> bytes:
    """The tokenizer's keys with their values: five, of which three are large arrays.

    `odd` is one token far behind the beginning, instead of the one that would be there.
    """
    tokens = [f"{spelling}{number:x}" for number in range(n_tokens)]
    merges = [f"{spelling} {number:x}" for number in range(n_tokens // 4)]
    tokens[-1000] = odd or tokens[-1000]
    return (
        _pair("tokenizer.ggml.tokens", _strings(tokens))
        + _pair("tokenizer.ggml.token_type", _numbers(n_tokens))
        + _pair("tokenizer.ggml.merges", _strings(merges))
        + _pair("tokenizer.ggml.eos_token_id", BUILD.number("I", 4) + BUILD.number("I", 2))
        + _pair("tokenizer.chat_template", BUILD.number("I", STRING) + BUILD.string("{# long #}" * 1000))
    )


N_VOCABULARY_KEYS = 5


def _pair(key: str, value: bytes) -> bytes:
    return BUILD.string(key) + value


def _strings(words: Sequence[str]) -> bytes:
    lengths = [struct.pack("<Q", n) for n in range(64)]
    packed = b"".join(lengths[len(word)] + word.encode() for word in words)
    return struct.pack("<IIQ", ARRAY, STRING, len(words)) + packed


def _numbers(count: int) -> bytes:
    return struct.pack("<IIQ", ARRAY, 5, count) + bytes(4 * count)


@lru_cache(maxsize=8)
def published(name: str) -> tuple[bytes, Header]:
    """A published header's bytes, and what they say."""
    data = next(HEADERS.glob(f"*{name}*")).read_bytes()
    return data, read_header(io.BytesIO(data))


def quantized(tensors: Sequence[TensorInfo], label: str, n_expert: int = 0) -> list[TensorInfo]:
    """The tensors in the types of a quant, one behind the other; with another number of experts, if given."""
    _, small, large = QUANTS[label]
    made, offset = [], 0
    for tensor in tensors:
        shape, kind = tensor.shape, tensor.type
        if "_exps" in tensor.name and n_expert:
            shape = (*shape[:-1], n_expert)
        if tensor.type.name != "F32":
            kind = quants.BY_NAME[small if "attn" in tensor.name else large]
            kind = kind if shape[0] % kind.block_size == 0 else quants.BY_NAME["F16"]
        rows = 1
        for n in shape[1:]:
            rows *= n
        n_bytes = quants.row_bytes(kind, shape[0]) * rows
        made.append(replace(tensor, shape=shape, type=kind, offset=offset, n_bytes=n_bytes))
        offset += padded(n_bytes, 32)
    return made


def quant_file(name: str, label: str, words: bytes, n_expert: int = 0) -> Hollow:
    """One quant of a published model, with the vocabulary `words`; its data is zeros that nobody stores."""
    data, header = published(name)
    tensors = quantized(header.tensors, label, n_expert)
    changed = {"general.file_type": QUANTS[label][0]}
    if n_expert:
        changed[f"{header.arch}.expert_count"] = n_expert
    return file_of(_metadata(data, header, words, changed), _n_keys(data), tensors)


def shard_files(name: str, label: str, words: bytes, n_shards: int) -> list[Hollow]:
    """The same, split over files as llama-gguf-split does it: the first has the metadata of all."""
    data, header = published(name)
    tensors = quantized(header.tensors, label)
    metadata = _metadata(data, header, words, {"general.file_type": QUANTS[label][0]})
    share = -(-len(tensors) // n_shards)
    files = []
    for number in range(n_shards):
        split = {"split.no": number, "split.count": n_shards, "split.tensors.count": len(tensors)}
        pairs = b"".join(_pair(k, BUILD.number("I", 4) + BUILD.number("I", v)) for k, v in split.items())
        own = tensors[number * share : (number + 1) * share]
        first = own[0].offset
        moved = [replace(t, offset=t.offset - first) for t in own]
        n_keys = 3 + (_n_keys(data) if number == 0 else 0)
        files.append(file_of(metadata + pairs if number == 0 else pairs, n_keys, moved))
    return files


def file_of(metadata: bytes, n_keys: int, tensors: Sequence[TensorInfo]) -> Hollow:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), n_keys) + metadata
    head += b"".join(BUILD.row(Row(t.name, t.shape, t.type.id, t.offset)) for t in tensors)
    data_bytes = max((t.offset + padded(t.n_bytes, 32) for t in tensors), default=0)
    return Hollow.of(head, padded(len(head), 32) + data_bytes)


def _n_keys(data: bytes) -> int:
    return int(struct.unpack_from("<Q", data, 16)[0]) + N_VOCABULARY_KEYS


def _metadata(data: bytes, header: Header, words: bytes, changed: Mapping[str, int]) -> bytes:
    """The published metadata, numbers changed and the vocabulary put in before the last keys."""
    table = b"".join(BUILD.row(Row(t.name, t.shape, t.type.id, t.offset)) for t in header.tensors)
    metadata = bytearray(data[24 : header.header_bytes - len(table)])
    for key, number in changed.items():
        at = metadata.index(BUILD.string(key)) + len(BUILD.string(key)) + 4
        metadata[at : at + 4] = BUILD.number("I", number)
    at = metadata.index(BUILD.string("general.quantization_version"))
    return bytes(metadata[:at] + words + metadata[at:])
