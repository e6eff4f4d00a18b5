#!/usr/bin/env python3
"""Whose context llama.cpp shifts rightly, against what moetool.anatomy.why_no_shift says of it.

    test-llama-archs -o ARCHS_DIR        # llama.cpp's own test writes a small file of every architecture
    scripts/check_shift.py ARCHS_DIR [NAME_BEGINS_WITH]

A text is decoded at positions 0 … and shifted by 40, and decoded anew at positions 40 …: rotated positions
are relative, so the keys of all layers must be the same. One process a file: some end in llama.cpp's asserts.
"""

from __future__ import annotations

import ctypes
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

N_TOKENS, SHIFT = 60, 40
N_CTX = 2048  # far beyond the files' windows
TOLERANCE = 0.02  # of the largest key; F16 rounds to 0.001


def read_keys(lib: Any, context: Any) -> list[np.ndarray]:
    """The first cache's keys, by layer, in order of position, from the state that llama.cpp writes
    (llama_kv_cache::state_write: cells, then a matrix of F16 for each layer)."""
    size = lib.llama_state_seq_get_size(context, 0)
    buffer = (ctypes.c_uint8 * size)()
    lib.llama_state_seq_get_data(context, buffer, size, 0)
    data = bytes(buffer)
    n_cells = struct.unpack_from("<I", data, 12)[0]
    for n_extra in (0, 4, 8, 12, 16):  # what a cell holds besides, in some builds and models
        at, positions = 16, []
        for _ in range(n_cells):
            position, n_sequences = struct.unpack_from("<iI", data, at)
            positions.append(position)
            at += 12 + n_extra if n_sequences == 1 else 1 << 40
            if at > size:
                break
        if len(positions) == n_cells and struct.unpack_from("<II", data, at)[1] < 100:
            break
    n_layers = struct.unpack_from("<I", data, at + 4)[0]
    at, order, keys = at + 8, np.argsort(positions), []
    for _ in range(n_layers):
        row_bytes = struct.unpack_from("<Q", data, at + 4)[0]
        rows = np.frombuffer(data, np.float16, n_cells * row_bytes // 2, at + 12).reshape(n_cells, -1)
        keys.append(rows.astype(np.float32)[order])
        at += 12 + n_cells * row_bytes
    return keys


def decode_at(lib: Any, context: Any, tokens: list[int], position: int) -> None:
    batch = lib.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position + i, 1, i == 0
        batch.seq_id[i][0] = 0
    assert lib.llama_decode(context, batch) == 0
    lib.llama_batch_free(batch)


def check(path: Path) -> str:
    """What is true of one file, in a word, and our reason, if we have one."""
    from moetool.anatomy import make_anatomy, why_no_shift
    from moetool.engine.library import library
    from moetool.engine.model import Engine
    from moetool.gguf import open_header
    from moetool.settings import Settings

    header, lib = open_header(path), library()
    settings = Settings(n_ctx=N_CTX, n_batch=64, n_ubatch=64, n_threads=1)
    reason = why_no_shift(header, make_anatomy(header), settings)
    with Engine([path], settings, header.arch) as engine:
        context, memory = engine.context, lib.llama_get_memory(engine.context)
        if not memory:
            return "no cache;"
        if not lib.llama_memory_can_shift(memory):
            return f"refused by llama.cpp;{reason}"
        if any(buffer.holds == "state" for buffer in engine.buffers):
            return f"states;{reason}"
        tokens = np.random.default_rng(0).integers(3, 120, N_TOKENS).tolist()
        decode_at(lib, context, tokens, 0)
        lib.llama_memory_seq_add(memory, 0, 0, -1, SHIFT)
        decode_at(lib, context, [5], N_TOKENS + SHIFT)
        shifted = read_keys(lib, context)
        lib.llama_memory_clear(memory, True)
        decode_at(lib, context, tokens, SHIFT)
        decode_at(lib, context, [5], N_TOKENS + SHIFT)
        anew = read_keys(lib, context)
    off = max(float(np.abs(a - b).max() / (np.abs(b).max() or 1)) for a, b in zip(shifted, anew, strict=True))
    return f"{'right' if off < TOLERANCE else 'wrong'};{reason}"


def main() -> int:
    if len(sys.argv) > 1 and sys.argv[1] == "--one":
        print(check(Path(sys.argv[2])))
        return 0
    folder, begins = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    n_lies = n_cautious = n_all = 0
    for path in sorted(folder.glob(f"{begins}*.gguf")):
        command = [sys.executable, __file__, "--one", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        truth, _, reason = (lines[-1] if lines and not done.returncode else "no answer;").partition(";")
        n_all += 1
        lies = truth == "wrong" and not reason
        cautious = truth == "right" and bool(reason)
        n_lies += lies
        n_cautious += cautious
        if lies or cautious or truth in {"wrong", "no answer"}:
            print(f"{path.stem:<22} {truth:<10} {reason or 'taken as possible'}", flush=True)
    print(f"{n_all} files: {n_lies} shifted wrongly and not known, {n_cautious} refused for nothing")
    return 1 if n_lies else 0


if __name__ == "__main__":
    sys.exit(main())
