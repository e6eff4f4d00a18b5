"""Writes small GGUF files byte by byte, sound or not, for the tests of the reader."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class Typed:
    """A metadata value with GGUF's number of its type; `inner` is the element type of an array."""

    kind: int
    value: Any
    inner: int = 0


@dataclass(frozen=True)
class Row:
    """One row of a tensor table, written as it stands, sound or not."""

    name: str
    shape: Sequence[int]
    type_id: int = 0
    offset: int = 0


@dataclass
class Builder:
    order: str = "<"
    version: int = 3
    metadata: Mapping[str, Typed] = field(default_factory=dict)
    tensors: Sequence[Row] = ()

    def number(self, code: str, value: Any) -> bytes:
        return struct.pack(self.order + code, value)

    def string(self, text: str | bytes) -> bytes:
        data = text.encode() if isinstance(text, str) else text
        return self.number("Q", len(data)) + data

    def value(self, typed: Typed) -> bytes:
        if typed.kind == STRING:
            return self.string(typed.value)
        if typed.kind == ARRAY:
            head = self.number("I", typed.inner) + self.number("Q", len(typed.value))
            if typed.inner == ARRAY:
                return head + b"".join(self.value(item) for item in typed.value)
            return head + b"".join(self.value(Typed(typed.inner, item)) for item in typed.value)
        return self.number(CODES[typed.kind], typed.value)

    def row(self, row: Row) -> bytes:
        dims = b"".join(self.number("Q", n) for n in row.shape)
        head = self.string(row.name) + self.number("I", len(row.shape)) + dims
        return head + self.number("I", row.type_id) + self.number("Q", row.offset)

    def header(self) -> bytes:
        head = b"GGUF" + self.number("I", self.version)
        head += self.number("Q", len(self.tensors)) + self.number("Q", len(self.metadata))
        pairs = (
            self.string(key) + self.number("I", typed.kind) + self.value(typed)
            for key, typed in self.metadata.items()
        )
        return head + b"".join(pairs) + b"".join(self.row(row) for row in self.tensors)

    def file(self, data_bytes: int = 0, alignment: int = 32) -> bytes:
        head = self.header()
        return head + bytes(-len(head) % alignment) + bytes(data_bytes)


def text(value: str) -> Typed:
    return Typed(STRING, value)


def u32(value: int) -> Typed:
    return Typed(4, value)


def strings(values: Sequence[str]) -> Typed:
    return Typed(ARRAY, values, STRING)


EVERY_TYPE: dict[str, Typed] = {
    "general.architecture": text("qwen3moe"),
    "u8": Typed(0, 200),
    "i8": Typed(1, -100),
    "u16": Typed(2, 60000),
    "i16": Typed(3, -30000),
    "u32": Typed(4, 4_000_000_000),
    "i32": Typed(5, -2_000_000_000),
    "f32": Typed(6, 0.5),
    "bool": Typed(7, True),
    "u64": Typed(10, 1 << 63),
    "i64": Typed(11, -(1 << 62)),
    "f64": Typed(12, 0.1),
    "list": Typed(ARRAY, [1, 2, 3], 5),
    "words": strings(["a", "", "ü"]),
    "many": Typed(ARRAY, list(range(5000)), 4),
    "vocabulary": strings([f"token {n}" for n in range(5000)]),
    "nested": Typed(ARRAY, [Typed(ARRAY, [1, 2], 4), Typed(ARRAY, ["x", "y"], STRING)], ARRAY),
}

TWO_TENSORS = (
    Row("token_embd.weight", (64, 10), 8, 0),
    Row("blk.0.attn_norm.weight", (64,), 0, 704),
)
