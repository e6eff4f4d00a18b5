"""Hold `moetool bench --quality` against llama-perplexity: same text, same tokens, same reference.

    python scripts/check_quality.py llama-perplexity F32.gguf Q8_0.gguf Q4_K_M.gguf --text text.txt

The first model is the reference. For each other one: perplexity; mean KL divergence beside the reference and
from what was kept of it; and the size of what was kept. A line a model, as JSON with --out.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HEADS = (
    "model",
    "ppl",
    "theirs",
    "differs",
    "KLD",
    "theirs",
    "differs",
    "kept",
    "differs",
    "same top",
    "theirs",
)


def moetool(*arguments: str) -> dict[str, Any]:
    """The quality of the only setting of a bench without speed tests."""
    command = [sys.executable, "-m", "moetool", "bench", *arguments, "-p", "0", "-n", "0", "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)["data"]["quality"][0]
    return found


def llama_perplexity(program: str, *arguments: str) -> str:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout + done.stderr


def number(pattern: str, text: str) -> float:
    found = re.search(pattern + r"\s*([\d.]+)", text)
    if found is None:
        raise SystemExit(f"llama-perplexity says nothing of {pattern}: {text[-1000:]}")
    return float(found[1])


def measure(args: argparse.Namespace, model: Path, folder: Path) -> dict[str, Any]:
    """One model against the reference, by both programs."""
    base = ["-f", str(args.text), "-c", str(args.ctx), "-b", str(args.ctx), "-t", str(args.threads)]
    theirs = llama_perplexity(
        args.program, "-m", str(model), *base, "--kl-divergence", "--kl-divergence-base", str(folder / "base")
    )
    ours = ("--ctx", str(args.ctx), "--threads", str(args.threads))
    live = moetool(str(model), "--text", str(args.text), "--ref", str(args.models[0]), *ours)
    kept = moetool(str(model), "--ref", str(folder / "kept"), *ours)
    return {
        "model": model.name,
        "n_tokens": live["n_tokens"],
        "ppl": live["ppl"],
        "ppl_theirs": number(r"Mean PPL\(Q\)\s*:", theirs),
        "kld": live["kld"]["mean"],
        "kld_theirs": number("Mean    KLD:", theirs),
        "kld_kept": kept["kld"]["mean"]["value"],
        "median": live["kld"]["median"]["value"],
        "median_theirs": number("Median  KLD:", theirs),
        "median_kept": kept["kld"]["median"]["value"],
        "p99": live["kld"]["p99"]["value"],
        "p99_theirs": number("99.0%   KLD:", theirs),
        "p99_kept": kept["kld"]["p99"]["value"],
        "max": live["kld"]["max"],
        "max_theirs": number("Maximum KLD:", theirs),
        "same_top": live["kld"]["same_top"]["value"],
        "same_top_theirs": number("Same top p:", theirs) / 100,
        "kept_bytes": (folder / "kept").stat().st_size,
        "theirs_bytes": (folder / "base").stat().st_size,
    }


def line(row: dict[str, Any]) -> tuple[str, ...]:
    kld = row["kld"]["value"]
    return (
        row["model"],
        f"{row['ppl']['value']:.4f}",
        f"{row['ppl_theirs']:.4f}",
        f"{row['ppl']['value'] / row['ppl_theirs'] - 1:+.3%}",
        f"{kld:.6f}",
        f"{row['kld_theirs']:.6f}",
        f"{kld / row['kld_theirs'] - 1:+.2%}" if row["kld_theirs"] else "",
        f"{row['kld_kept']:.6f}",
        f"{row['kld_kept'] / kld - 1:+.2%}",
        f"{row['same_top']:.3%}",
        f"{row['same_top_theirs']:.3%}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("program", help="llama-perplexity")
    parser.add_argument("models", nargs="+", type=Path, help="the reference, then models to hold against it")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="append the rows as JSON lines")
    args = parser.parse_args()
    print("| " + " | ".join(HEADS) + " |\n|" + " --- |" * len(HEADS), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder, ctx = Path(name), str(args.ctx)
        reference = ["-m", str(args.models[0]), "-f", str(args.text), "-c", ctx, "-b", ctx]
        llama_perplexity(args.program, *reference, "--kl-divergence-base", str(folder / "base"))
        kept = ("--text", str(args.text), "--save-ref", str(folder / "kept"), "--ctx", ctx)
        moetool(str(args.models[0]), *kept)
        for model in args.models[1:]:
            row = measure(args, model, folder)
            print("| " + " | ".join(line(row)) + " |", flush=True)
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        small, large = (folder / "kept").stat().st_size, (folder / "base").stat().st_size
    print(f"\nKept: {small} bytes, {small / large:.2%} of llama-perplexity's {large}")


if __name__ == "__main__":
    main()
