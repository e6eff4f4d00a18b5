"""Hold `moetool imatrix` against llama-imatrix: same text, same chunks, every sum and every count.

    python scripts/check_imatrix.py llama-imatrix text.txt model.gguf [model.gguf …]

Counts must be equal; of the sums the largest relative difference is shown (each adds up floats in an order of
its own). A line a model.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from moetool.lab.imatrix import Imatrix, read_imatrix


def collect(program: str, model: Path, text: Path, ctx: int, folder: Path) -> tuple[Imatrix, Imatrix]:
    """Both programs' matrices of a text."""
    ours, theirs = folder / "ours.gguf", folder / "theirs.gguf"
    for path in (ours, theirs):
        path.unlink(missing_ok=True)
    run = [sys.executable, "-m", "moetool", "imatrix", str(model), "--text", str(text)]
    subprocess.run([*run, "--out", str(ours), "--ctx", str(ctx)], check=True, capture_output=True)
    base = [program, "-m", str(model), "-f", str(text), "-o", str(theirs), "-c", str(ctx), "-b", str(ctx)]
    done = subprocess.run([*base, "--no-ppl"], check=False, capture_output=True, text=True)
    if done.returncode or not theirs.exists():
        raise SystemExit(done.stdout[-1500:] + done.stderr[-1500:])
    return read_imatrix(ours), read_imatrix(theirs)


def compare(ours: Imatrix, theirs: Imatrix) -> tuple[bool, bool, float]:
    """Are the names equal, are the counts, and how far are the sums apart?"""
    names = ours.entries.keys() == theirs.entries.keys()
    both = ours.entries.keys() & theirs.entries.keys()
    pairs = [(ours.entries[name], theirs.entries[name]) for name in both]
    counts = all(np.array_equal(a.counts, b.counts) for a, b in pairs) and ours.n_chunks == theirs.n_chunks
    apart = [np.abs(a.sums - b.sums).max() / max(np.abs(b.sums).max(), 1e-30) for a, b in pairs]
    return names, counts, max(apart, default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("program", help="llama-imatrix")
    parser.add_argument("text", type=Path)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--ctx", type=int, default=512)
    args = parser.parse_args()
    print("| model | tensors | names | counts | unseen experts | sums apart |\n|" + " --- |" * 6, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for model in args.models:
            ours, theirs = collect(args.program, model, args.text, args.ctx, Path(folder))
            names, counts, apart = compare(ours, theirs)
            unseen = sum(map(len, ours.unseen().values()))
            words = ["equal" if same else "DIFFER" for same in (names, counts)]
            print(
                f"| {model.name} | {len(ours.entries)} | {' | '.join(words)} | {unseen} | {apart:.1e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
