"""What llama.cpp says it has taken: its own buffer lines, parsed. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_MIB = 1024 * 1024

# "llama_kv_cache:        CPU KV buffer size =     4.00 MiB" and its kin (llama-model.cpp, llama-context.cpp,
# llama-kv-cache.cpp, llama-memory-recurrent.cpp).
_LINE = re.compile(
    r":\s+(?P<buffer>\S+)\s+(?P<kind>model|KV|RS|output|compute|DSV4 \S+ state) buffer size =\s+"
    r"(?P<mib>[\d.]+) MiB"
)
_KINDS = {"model": "weights", "KV": "kv", "RS": "state", "output": "output", "compute": "compute"}


@dataclass(frozen=True)
class BufferSize:
    """One buffer: llama.cpp's name for its place ("CPU", "CPU_Mapped", "CUDA0"), what it holds (weights, kv,
    state, output, compute), and its size, rounded by the log to 0.01 MiB."""

    buffer: str
    holds: str
    n_bytes: int


def parse_buffers(lines: Iterable[str]) -> tuple[BufferSize, ...]:
    """Every buffer line among `lines`."""
    found = (_LINE.search(line) for line in lines)
    return tuple(
        BufferSize(m["buffer"], _KINDS.get(m["kind"], "state"), round(float(m["mib"]) * _MIB))
        for m in found
        if m
    )
