"""How much answering many prompts at once gains: `run --batch`, and the same prompts one `run` after another.

    scripts/bench_batch.py MODEL.gguf [--prompts 32] [--n-gen 64] [--parallel 1,2,4,8,16] [--threads 2]

The prompts are bare text that begins alike (some 40 tokens) and goes on differently (some 50), continued by
--n-gen tokens at temperature 0. Tokens per second are generated tokens by seconds of answering: prompts are
in it, loading is not, except in the last column of the first row.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BEGINNING = (
    "The following stories are for children. Each of them has the things in it that are named first, "
    "in that order, and ends well. None is longer than a page. "
)
THINGS = "river stone engine paper garden window market winter silver number letter bridge forest"


def make_prompts(count: int) -> list[str]:
    """Prompts that begin alike."""
    dice = random.Random(1)
    things = THINGS.split()
    return [f"{BEGINNING}{', '.join(dice.choice(things) for _ in range(20))}. Once" for _ in range(count)]


def moetool(*arguments: str) -> Any:
    """The data of one command's document."""
    command = [sys.executable, "-m", "moetool", *arguments, "-o", "json"]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    document = json.loads(done.stdout)
    if document["exit_code"]:
        sys.exit(f"{' '.join(command)}: {document['errors']}")
    return document["data"]


def one_after_another(model: str, prompts: list[str], flags: list[str]) -> tuple[int, float, float]:
    """Tokens, seconds of answering, and seconds with starts and loads."""
    started = time.perf_counter()
    found = [moetool("run", model, prompt, *flags) for prompt in prompts]
    whole_s = time.perf_counter() - started
    tokens = [data["generated_tokens"] for data in found]
    decode_s = [(n - 1) / data["decode_tok_s"] for n, data in zip(tokens, found, strict=True) if n > 1]
    return sum(tokens), sum(data["ttft_s"] for data in found) + sum(decode_s), whole_s


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--n-gen", type=int, default=64)
    parser.add_argument("--parallel", default="1,2,4,8,16")
    parser.add_argument("--singles", type=int, default=4, help="so many one after another")
    parser.add_argument("--threads", default="2")
    args = parser.parse_args()
    prompts = make_prompts(args.prompts)
    flags = ["--raw", "-n", str(args.n_gen), "--temp", "0", "--ctx", "512", "-t", args.threads]
    print("at once  tokens  seconds   tok/s     x")
    tokens, seconds, whole_s = one_after_another(args.model, prompts[: args.singles], flags)
    base = tokens / seconds
    told = f"with starts and loads {tokens / whole_s:.1f} tok/s"
    print(f"    run {tokens:7} {seconds:8.1f} {base:7.1f}  1.00   {told}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "prompts.jsonl"
        source.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
        for n in args.parallel.split(","):
            out = str(Path(folder) / f"{n}.jsonl")
            data = moetool("run", args.model, "--batch", str(source), "--out", out, "-np", n, *flags)
            tokens, seconds, rate = data["generated_tokens"], data["seconds"], data["generated_tok_s"]
            print(f"{n:>7} {tokens:7} {seconds:8.1f} {rate:7.1f}  {rate / base:4.2f}", flush=True)


if __name__ == "__main__":
    main()
