#!/usr/bin/env python3
"""Time to the first byte of an answer: a long prompt read whole, and read again under `--session`.

    scripts/bench_session.py MODEL.gguf [MODEL.gguf …] [--tokens 2000] [--pairs 3]

Each pair is three processes: the first run of a new session; the second, whose prompt has the same beginning
and another end; and that prompt without a session. Seconds are from the start of the process to the first
byte on stdout; "kept" is what the first run needed after its answer, to write the state.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
FLAGS = ["--raw", "--temp", "0", "-n", "4", "--quiet"]
# A token of most vocabularies; the count need not be exact, as all three runs read the same.
WORD = " w7"


def run(model: Path, prompt: str, home: str, *flags: str) -> tuple[float, float]:
    """Seconds to the first byte, and from the last one to the end."""
    environment = os.environ | {"MOETOOL_HOME": home, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "moetool", "run", str(model), *FLAGS, *flags]
    started = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(prompt.encode())
        process.stdin.close()
        os.read(process.stdout.fileno(), 1)
        first = last = time.perf_counter()
        while os.read(process.stdout.fileno(), 1 << 16):
            last = time.perf_counter()
        process.wait()
    if process.returncode:
        raise SystemExit(f"{model.name}: exit code {process.returncode}")
    return first - started, time.perf_counter() - last


def measure(model: Path, n_tokens: int, n_pairs: int) -> str:
    long, ctx = WORD * n_tokens, ["--ctx", str(2 * n_tokens + 512)]
    firsts, seconds, plains, kept, size = [], [], [], [], 0
    with tempfile.TemporaryDirectory() as home:
        for n in range(n_pairs):
            session = ["--session", f"s{n}"]
            first, tail = run(model, long + " one", home, *session, *ctx)
            second, _ = run(model, long + " two", home, *session, *ctx)
            plain, plain_tail = run(model, long + " two", home, *ctx)
            firsts.append(first)
            seconds.append(second)
            plains.append(plain)
            kept.append(tail - plain_tail)
            state = Path(home, "sessions", f"s{n}.state")
            size = state.stat().st_size
            state.unlink()
    first, plain, second, tail = (statistics.median(values) for values in (firsts, plains, seconds, kept))
    cells = (
        f"{size / (1 << 20):.1f}",
        *(f"{s:.2f}" for s in (first, plain, second)),
        f"{plain / second:.1f}",
    )
    return " ".join([f"{model.name:<26}", *(f"{cell:>9}" for cell in (*cells, f"{tail:.2f}"))])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=3)
    args = parser.parse_args()
    columns = ("state MiB", "first s", "without s", "second s", "faster", "kept s")
    print(f"{'':<26}", *(f"{column:>9}" for column in columns))
    for model in args.models:
        print(measure(model, args.tokens, args.pairs), flush=True)


if __name__ == "__main__":
    main()
