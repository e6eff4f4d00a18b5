"""How long a header with a large vocabulary takes: moetool.gguf against gguf.GGUFReader, on a file made here.

    python scripts/bench_header.py [N_TOKENS] [--no-reader]

The file has N_TOKENS tokens (150,000), their scores and types, as many merges, and 1,000 small tensors.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gguf as reference
import numpy as np

from moetool.gguf import open_header


def write(path: Path, n_tokens: int) -> None:
    writer = reference.GGUFWriter(path, "qwen3moe")
    words = [f"token{n * 7919 % n_tokens}" for n in range(n_tokens)]
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * n_tokens)
    writer.add_token_types([1] * n_tokens)
    writer.add_token_merges([f"{word[:3]} {word[3:]}" for word in words])
    for n in range(1000):
        writer.add_tensor(f"blk.{n // 10}.part_{n % 10}.weight", np.zeros((1, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def seconds(call: Callable[[], object], repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return sorted(times)


def main() -> None:
    numbers = [int(a) for a in sys.argv[1:] if a.isdigit()]
    n_tokens = numbers[0] if numbers else 150_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        write(path, n_tokens)
        header = open_header(path)
        ours = seconds(lambda: open_header(path), 15)
        print(
            f"{n_tokens} tokens, {len(header.tensors)} tensors, {header.header_bytes / 1e6:.1f} MB of header"
        )
        print(f"moetool.gguf.open_header  min {ours[0] * 1e3:7.1f} ms  median {ours[7] * 1e3:7.1f} ms")
        if "--no-reader" not in sys.argv:
            theirs = seconds(lambda: reference.GGUFReader(path), 1)
            print(f"gguf.GGUFReader           one {theirs[0] * 1e3:7.1f} ms")


if __name__ == "__main__":
    main()
