"""Asking llama.cpp itself what a placement would take: its allocator runs, nothing is allocated or read."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from moetool.engine.devices import device_of_buffer
from moetool.engine.library import captured_log, library
from moetool.engine.measured import BufferSize, parse_buffers
from moetool.engine.model import load_error
from moetool.engine.parameters import Held, context_params, model_params
from moetool.settings import Settings

_MIB = 1 << 20
# "llama_kv_cache: size =    2.00 MiB (  1024 cells,   4 layers, …": under no_alloc the buffer lines
# say 0.00, this one does not. Recurrent states are really allocated, and have buffer lines.
_CACHE_LINE = re.compile(r"size =\s+([\d.]+) MiB \(\s*\d+ cells")


@dataclass(frozen=True)
class DryRun:
    """What llama.cpp would allocate besides the weights. `buffers` holds the compute, output and state
    buffers by llama.cpp's name for their place; its log rounds all sizes to 0.01 MiB."""

    kv_bytes: int
    buffers: tuple[BufferSize, ...]
    took_s: float

    def bytes_of(self, holds: str) -> int:
        """Bytes of all buffers that hold "compute", "output" or "state"."""
        return sum(buffer.n_bytes for buffer in self.buffers if buffer.holds == holds)

    def compute_bytes(self) -> dict[str, int]:
        """Compute buffers by device."""
        found: dict[str, int] = {}
        for buffer in self.buffers:
            if buffer.holds == "compute":
                device = device_of_buffer(buffer.buffer)
                found[device] = found.get(device, 0) + buffer.n_bytes
        return found


def dry_run(paths: Sequence[Path], settings: Settings, arch: str) -> DryRun:
    """Let llama.cpp lay out model and context without allocating; EngineError with its reason if it refuses.

    The files' data may be missing as long as their size is right (a header extended sparsely).
    """
    lib, held, started = library(), Held(), time.perf_counter()
    with ExitStack() as stack, captured_log() as log:
        names = (ctypes.c_char_p * len(paths))(*(str(path).encode() for path in paths))
        params = model_params(settings, arch, held, allocate=False)
        model = lib.llama_model_load_from_splits(names, len(paths), params)
        if not model:
            raise load_error(f"llama.cpp cannot load {paths[0].name}", log)
        stack.callback(lib.llama_model_free, model)
        context = lib.llama_init_from_model(model, context_params(settings))
        if not context:
            raise load_error("llama.cpp cannot make a context", log)
        stack.callback(lib.llama_free, context)
        lines = log.texts()
    return DryRun(parse_cache_bytes(lines), _without_weights(lines), time.perf_counter() - started)


def parse_cache_bytes(lines: Sequence[str]) -> int:
    """Sum of all KV caches in llama.cpp's log; recurrent states apart."""
    caches = [line for line in lines if "kv_cache" in line]
    return sum(round(float(m[1]) * _MIB) for line in caches if (m := _CACHE_LINE.search(line)))


def _without_weights(lines: Sequence[str]) -> tuple[BufferSize, ...]:
    return tuple(buffer for buffer in parse_buffers(lines) if buffer.holds in {"compute", "output", "state"})
