"""Random blocks of every ggml type, with scales such that weights are as large as a trained model's.

Where a type keeps its scales decides what makes a block sane: the rest of it is random bytes. The layouts are
those of ggml/src/ggml-common.h.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from moetool.quants import QuantType

# Standard deviation of a weight, as in a trained model of some billion parameters.
SIGMA = 0.02
# Repeated as often as a tensor needs: content repeats, addresses do not, so that no cache holds it.
TILE_BYTES = 8 << 20

Blocks = npt.NDArray[np.uint8]
Fill = Callable[[np.random.Generator, Blocks], None]


def make_tile(quant: QuantType, n_bytes: int = TILE_BYTES, seed: int = 1) -> bytes:
    """Whole blocks of a type, about `n_bytes` of them, of at least one block."""
    rng = np.random.default_rng(seed)
    n_blocks = max(1, n_bytes // quant.block_bytes)
    blocks = np.frombuffer(bytearray(rng.bytes(n_blocks * quant.block_bytes)), np.uint8)
    blocks = blocks.reshape(n_blocks, quant.block_bytes)
    _FILLS.get(quant.name, _zeros)(rng, blocks)
    return blocks.tobytes()


def _scaled(at: int, one: float) -> Fill:
    """A type with one F16 scale per block at byte `at`; a usual weight is `one` times the scale."""

    def fill(rng: np.random.Generator, blocks: Blocks) -> None:
        blocks[:, at : at + 2] = _scales(rng, len(blocks), SIGMA / one)

    return fill


def _centred(at: int, one: float, middle: float) -> Fill:
    """The same with a second F16 behind it that is added (`middle` < 0) or taken off times as many scales, so
    that weights lie around 0."""

    def fill(rng: np.random.Generator, blocks: Blocks) -> None:
        blocks[:, at : at + 2] = _scales(rng, len(blocks), SIGMA / one)
        blocks[:, at + 2 : at + 4] = _scales(rng, len(blocks), middle * SIGMA / one)

    return fill


def _iq1_m(rng: np.random.Generator, blocks: Blocks) -> None:
    """The F16 scale is spread over the upper four bits of four 16-bit words."""
    scales = _scales(rng, len(blocks), SIGMA / 8).view(np.uint16).reshape(-1)
    words = blocks[:, 48:56].copy().view(np.uint16) & 0x0FFF
    for number in range(4):
        words[:, number] |= ((scales >> (4 * number)) & 0xF) << 12
    blocks[:, 48:56] = words.view(np.uint8)


def _mxfp4(rng: np.random.Generator, blocks: Blocks) -> None:
    blocks[:, 0] = 127 - 8 + rng.integers(0, 2, len(blocks))  # 2^-8 or 2^-7, times up to 6


def _nvfp4(rng: np.random.Generator, blocks: Blocks) -> None:
    blocks[:, :4] = rng.integers(4, 8, (len(blocks), 4))  # 4 to 7 x 2^-10, times up to 12


def _f32(rng: np.random.Generator, blocks: Blocks) -> None:
    blocks[:] = rng.normal(0, SIGMA, len(blocks)).astype("<f4").view(np.uint8).reshape(-1, 4)


def _f16(rng: np.random.Generator, blocks: Blocks) -> None:
    blocks[:] = rng.normal(0, SIGMA, len(blocks)).astype("<f2").view(np.uint8).reshape(-1, 2)


def _bf16(rng: np.random.Generator, blocks: Blocks) -> None:
    words = rng.normal(0, SIGMA, len(blocks)).astype("<f4").view("<u4") >> 16
    blocks[:] = words.astype("<u2").view(np.uint8).reshape(-1, 2)


def _f64(rng: np.random.Generator, blocks: Blocks) -> None:
    blocks[:] = rng.normal(0, SIGMA, len(blocks)).astype("<f8").view(np.uint8).reshape(-1, 8)


def _zeros(_rng: np.random.Generator, blocks: Blocks) -> None:
    blocks[:] = 0  # whole numbers are indices, or nothing


def _scales(rng: np.random.Generator, n: int, scale: float) -> Blocks:
    return (scale * rng.uniform(0.8, 1.2, n)).astype("<f2").view(np.uint8).reshape(n, 2)


_FILLS: dict[str, Fill] = {
    "F32": _f32,
    "F16": _f16,
    "BF16": _bf16,
    "F64": _f64,
    "Q1_0": _scaled(0, 1),
    "Q2_0": _scaled(0, 1.2),
    "Q4_0": _scaled(0, 4.6),
    "Q4_1": _centred(0, 4.6, -7.5),
    "Q5_0": _scaled(0, 9.2),
    "Q5_1": _centred(0, 9.2, -15.5),
    "Q8_0": _scaled(0, 73),
    # w = d * scale * q - dmin * min: with scales and minima alike, the middle of q centres it.
    "Q2_K": _centred(80, 8 * 1.5, 1.5),
    "Q3_K": _scaled(108, 18 * 2.3),
    "Q4_K": _centred(0, 31 * 6, 7.5),
    "Q5_K": _centred(0, 31 * 12, 15.5),
    "Q6_K": _scaled(208, 74 * 18),
    "IQ1_S": _scaled(0, 8),
    "IQ1_M": _iq1_m,
    "IQ2_XXS": _scaled(0, 40),
    "IQ2_XS": _scaled(0, 40),
    "IQ2_S": _scaled(0, 40),
    "IQ3_XXS": _scaled(0, 112),
    "IQ3_S": _scaled(0, 128),
    "IQ4_NL": _scaled(0, 60),
    "IQ4_XS": _scaled(0, 1000),
    "TQ1_0": _scaled(52, 0.8),
    "TQ2_0": _scaled(64, 1.2),
    "MXFP4": _mxfp4,
    "NVFP4": _nvfp4,
}

# Types whose weights can be made up; of any other the blocks are zeros.
TYPES = tuple(_FILLS)
