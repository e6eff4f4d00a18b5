"""ggml's tensor types as one table: block length, bytes per block, bits per weight.

Knows nothing of files or machines. The table restates `type_traits` of ggml/src/ggml.c (llama.cpp 0c1e57098);
a test holds it against the `gguf` package and against the loaded library.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class QuantType:
    """One ggml tensor type: rows are stored as blocks of `block_size` weights in `block_bytes` bytes."""

    id: int
    name: str
    block_size: int
    block_bytes: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.block_bytes / self.block_size

    def __str__(self) -> str:
        return self.name


# (id, name, weights per block, bytes per block). 4, 5, 31-33 and 36-38 were removed from the format.
_TABLE: tuple[tuple[int, str, int, int], ...] = (
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
    (42, "Q2_0", 64, 18),
)

QUANT_TYPES: tuple[QuantType, ...] = tuple(QuantType(*row) for row in _TABLE)
BY_ID: dict[int, QuantType] = {t.id: t for t in QUANT_TYPES}
BY_NAME: dict[str, QuantType] = {t.name: t for t in QUANT_TYPES}

# What a KV cache can be of (kv_cache_types in common/arg.cpp of llama.cpp).
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")

# general.file_type -> the name people know the file by (enum llama_ftype, include/llama.h).
FILE_TYPES: dict[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
    41: "Q2_0",
}

# Set in general.file_type when the type was guessed from the tensors (LLAMA_FTYPE_GUESSED).
_GUESSED = 1024


def quant_by_id(type_id: int) -> QuantType | None:
    """The type with ggml's number `type_id`; None for a number this llama.cpp does not know."""
    return BY_ID.get(type_id)


def quant_by_name(name: str) -> QuantType | None:
    """The type called `name`, in upper or lower case ("q8_0", "Q4_K"); None if there is none."""
    return BY_NAME.get(name.upper())


def row_bytes(quant: QuantType, n: int) -> int:
    """Bytes of a row of `n` weights (ggml_row_size); `n` must be a multiple of the block length."""
    blocks, rest = divmod(n, quant.block_size)
    if rest:
        raise ValueError(f"{n} weights are not whole blocks of {quant.block_size} ({quant.name})")
    return blocks * quant.block_bytes


def file_type_name(file_type: int) -> str | None:
    """The name of a `general.file_type` number ("Q4_K_M"); None for an unknown number."""
    return FILE_TYPES.get(file_type & ~_GUESSED)
