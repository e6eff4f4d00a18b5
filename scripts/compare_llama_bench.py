#!/usr/bin/env python3
"""Decode speed of `moetool run`'s loop beside llama-bench's tg, in alternation on the same file.

    scripts/compare_llama_bench.py model.gguf --llama-bench ~/llama.cpp/build/bin/llama-bench --pairs 7

Each side starts a process of its own. `run` samples (greedy) and turns tokens into text, llama-bench does
neither. Build llama-bench from the llama.cpp that llama-cpp-python vendors, or the kernels differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path


def llama_bench_tok_s(program: Path, model: Path, n_gen: int, threads: int) -> float:
    """One repetition of tg after llama-bench's own warm-up."""
    command = [program, "-m", model, "-p", "0", "-n", n_gen, "-r", "1", "-t", threads, "-o", "json"]
    done = subprocess.run([str(part) for part in command], capture_output=True, check=True)
    return float(json.loads(done.stdout)[0]["avg_ts"])


def run_tok_s(model: Path, n_gen: int, threads: int) -> float:
    """One answer of `moetool run`; tokens per second after the first."""
    prompt = "The quick brown fox jumps over the lazy dog."
    command = [sys.executable, "-m", "moetool", "run", str(model.resolve()), prompt, "--raw", "--temp", "0"]
    command += ["-n", str(n_gen), "-t", str(threads), "--ctx", "512", "-o", "json"]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=True)
    data = json.loads(done.stdout)["data"]
    if data["generated_tokens"] < n_gen:
        sys.exit(f"the model ended after {data['generated_tokens']} tokens: use one that does not")
    return float(data["decode_tok_s"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--llama-bench", type=Path, required=True, help="the program to compare with")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--n-gen", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    llama_bench_tok_s(args.llama_bench, args.model, 8, args.threads)  # the file is in memory now
    print("pair  llama-bench  moetool run  ratio")
    ratios, theirs, ours = [], [], []
    for pair in range(1, args.pairs + 1):
        their = llama_bench_tok_s(args.llama_bench, args.model, args.n_gen, args.threads)
        our = run_tok_s(args.model, args.n_gen, args.threads)
        theirs.append(their)
        ours.append(our)
        ratios.append(our / their)
        print(f"{pair:4}  {their:11.2f}  {our:11.2f}  {our / their:5.3f}", flush=True)
    medians = statistics.median(theirs), statistics.median(ours)
    print(f"median {medians[0]:10.2f}  {medians[1]:11.2f}  {medians[1] / medians[0]:5.3f}", end="")
    print(f"   (median of ratios {statistics.median(ratios):.3f})")


if __name__ == "__main__":
    main()
