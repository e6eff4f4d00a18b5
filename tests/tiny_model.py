"""Tiny models with random weights, made from headers that llama.cpp's own test wrote: windows, hybrids."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moetool.gguf import TensorInfo, open_header

ARCHS = Path(__file__).parent / "data" / "archs"


def write_tiny_model(path: Path, name: str) -> str:
    """Write the model whose header is `name`; returns its architecture. All tensors are F32."""
    header = open_header(ARCHS / f"{name}.hdr")
    rng = np.random.default_rng(1)
    data = bytearray(header.file_bytes)
    data[: header.data_offset] = (ARCHS / f"{name}.hdr").read_bytes()[: header.data_offset]
    for tensor in header.tensors:
        at = header.data_offset + tensor.offset
        data[at : at + tensor.n_bytes] = _values(tensor, rng).astype("<f4").tobytes()
    path.write_bytes(data)
    return header.arch


def _values(tensor: TensorInfo, rng: np.random.Generator) -> np.ndarray:
    n = tensor.n_elements
    if tensor.name.endswith("ssm_a"):
        return -rng.uniform(0.05, 1, n)  # states decay
    if "norm" in tensor.name or "scale" in tensor.name or tensor.name.endswith("ssm_d"):
        return np.ones(n)
    return rng.normal(0, 2 / np.sqrt(tensor.shape[0]) if len(tensor.shape) > 1 else 0.1, n)
