"""What quantization costs a trained model: quality of every type made from its F32 file, as one table.

    python scripts/study_quants.py build/demo/demo-F32.gguf build/dense/demo-F32.gguf --out study.jsonl

Each file is quantized by llama.cpp's own quantizer and held against itself in F32 (`bench --quality`).
Several models (a mixture of experts and its dense twin, `scripts/train_demo.py --dense`) stand side by side.
Without control tokens: the text is plain, the shipped one unless --text names another.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from demo_export import quantize

# enum llama_ftype, llama.h.
TYPES = {"F16": 1, "Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q4_K_M": 15, "Q3_K_M": 12, "Q2_K": 10}
HEADS = ("model", "type", "MB", "bits/weight", "perplexity", "KLD mean [95 %]", "99 %", "max", "same top")


def measure(model: Path, reference: Path, text: Path | None) -> dict[str, Any]:
    """The bench document of a model against its reference."""
    command = [sys.executable, "-m", "moetool", "bench", str(model), "--ref", str(reference)]
    command += ["-p", "0", "-n", "0", "-o", "json", *(["--text", str(text)] if text else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)["data"]
    return found


def study(name: str, source: Path, text: Path | None, folder: Path) -> list[dict[str, Any]]:
    """A row for each type."""
    rows = []
    for kind, ftype in TYPES.items():
        target = folder / f"{kind}.gguf"
        quantize(source, target, ftype)
        data = measure(target, source, text)
        plan, quality = data["plan"]["model"], data["quality"][0]
        bits = 8 * plan["weights_bytes"] / plan["n_params"]
        row = {"model": name, "type": kind, "file_bytes": target.stat().st_size, "bits_per_weight": bits}
        row |= {key: quality[key] for key in ("n_tokens", "n_chunks", "ppl", "kld")}
        rows.append(row)
        print("| " + " | ".join(line(row)) + " |", flush=True)
        target.unlink()
    return rows


def line(row: dict[str, Any]) -> tuple[str, ...]:
    kld = row["kld"]
    mean = kld["mean"]
    return (
        row["model"],
        row["type"],
        f"{row['file_bytes'] / 1e6:.2f}",
        f"{row['bits_per_weight']:.2f}",
        f"{row['ppl']['value']:.3f}",
        f"{mean['value']:.5f} [{mean['low']:.5f} – {mean['high']:.5f}]",
        f"{kld['p99']['value']:.3f}",
        f"{kld['max']:.2f}",
        f"{kld['same_top']['value']:.2%}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "models", nargs="+", type=Path, help="F32 files, as scripts/train_demo.py writes them"
    )
    parser.add_argument("--text", type=Path)
    parser.add_argument("--out", type=Path, help="write the rows as JSON lines")
    args = parser.parse_args()
    print("| " + " | ".join(HEADS) + " |\n|" + " --- |" * len(HEADS), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in args.models:
            rows += study(model.parent.name or model.stem, model, args.text, Path(folder))
    if args.out:
        args.out.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
