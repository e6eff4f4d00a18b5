"""Hold `moetool quantize --recipe moe-aware` against llama.cpp's stock mixes of the same size.

    python scripts/quality_text.py --seed calibration --out calibration.txt
    python scripts/check_quantize.py demo-F32.gguf --text calibration.txt --completion llama-completion

Each stock mix is made; then moe-aware files of at most its size, with the sensitivities that ship and with
those measured on --text. All are held against the source on the shipped text, which is another one. Every
dry run is held against the file that comes of it; with --completion each moe-aware file is loaded by
llama.cpp's own program, which must write the tokens that moetool writes. A line a mix, as CSV with --out.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MIXES = ("Q2_K", "Q3_K_S", "Q3_K_M", "IQ4_XS", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K")
HEADS = ("mix", "bytes", "typical", "measured", "KLD", "typical", "measured", "expected", "same tokens")
PROMPTS = tuple(
    f"user\n{question}\nassistant"  # no line break behind it: run would take it off
    for question in (
        "What is 12 + 30?",
        "Start with 9. Add 81. Add 17. What is the result?",
        "Put these in order: heat the pan, fry the eggs, crack the eggs, eat the eggs.",
        "JSON list of the names: There were Margaret, Frances, Emmy, Donald and Edsger today.",
    )
)
N_TOKENS = 48


def moetool(home: Path, *arguments: str) -> dict[str, Any]:
    """The data of a command's document; what it keeps goes to `home`."""
    command = [sys.executable, "-m", "moetool", *arguments, "-o", "json"]
    environment = os.environ | {"MOETOOL_HOME": str(home)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    found: dict[str, Any] = json.loads(done.stdout)["data"]
    return found


def make(home: Path, source: Path, target: Path, *flags: str) -> dict[str, Any]:
    """Quantize; the dry run before it must have told the size to the byte."""
    target.unlink(missing_ok=True)
    said = moetool(home, "quantize", str(source), str(target), *flags, "--dry-run")
    done = moetool(home, "quantize", str(source), str(target), *flags)
    if not said["file_bytes"] == done["file_bytes"] == target.stat().st_size:
        raise SystemExit(f"{flags}: {said['file_bytes']} bytes said, {target.stat().st_size} written")
    return done


def divergence(home: Path, model: Path, source: Path) -> float:
    """Mean KL divergence on the shipped text, in nats."""
    judged = moetool(home, "bench", str(model), "--ref", str(source), "-p", "0", "-n", "0")
    value: float = judged["quality"][0]["kld"]["mean"]["value"]
    return value


def writes_the_same(home: Path, program: str, model: Path) -> bool:
    """Do llama-completion and moetool continue texts by the same tokens? What differs is shown."""
    same = [_is_same(home, program, model, prompt) for prompt in PROMPTS]
    return all(same)


def _is_same(home: Path, program: str, model: Path, prompt: str) -> bool:
    ours = moetool(home, "run", str(model), prompt, "--raw", "--temp", "0", "--max-tokens", str(N_TOKENS))
    command = [program, "-m", str(model), "-p", prompt, "-n", str(N_TOKENS), "--temp", "0", "-no-cnv"]
    done = subprocess.run(
        [*command, "--no-display-prompt", "-e"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    theirs, text = done.stdout.replace("[end of text]", "").strip(), ours["text"].strip()
    if done.returncode or not theirs or theirs != text:
        print(
            f"{model.name}, llama-completion ({done.returncode}): {theirs!r}, moetool: {text!r}",
            file=sys.stderr,
        )
        return False
    return True


def check(args: argparse.Namespace, mix: str, folder: Path) -> dict[str, Any]:
    plain, asked = folder / "typical", args.home or folder / "measured"
    paths = {name: folder / f"{name}.gguf" for name in ("stock", "typical", "measured")}
    both = ("--imatrix", str(args.imatrix)) if args.imatrix else ()
    make(plain, args.source, paths["stock"], "--recipe", mix, *both)
    size = str(paths["stock"].stat().st_size)
    make(plain, args.source, paths["typical"], "--size", size, *both)
    done = make(asked, args.source, paths["measured"], "--size", size, "--text", str(args.text), *both)
    row: dict[str, Any] = {"mix": mix}
    row |= {f"{name}_bytes": path.stat().st_size for name, path in paths.items()}
    row |= {f"{name}_kld": divergence(plain, path, args.source) for name, path in paths.items()}
    row["expected_kld"] = done["expected_kld"]
    written = [paths["typical"], paths["measured"]] if args.completion else []
    same = [writes_the_same(plain, args.completion, path) for path in written]
    row["same_tokens"] = all(same) if same else ""
    return row


def line(row: dict[str, Any]) -> tuple[str, ...]:
    stock = row["stock_bytes"]
    return (
        row["mix"],
        str(stock),
        *(f"{row[f'{name}_bytes'] / stock - 1:+.2%}" for name in ("typical", "measured")),
        f"{row['stock_kld']:.5f}",
        *(
            f"{row[f'{n}_kld']:.5f} ({row[f'{n}_kld'] / row['stock_kld'] - 1:+.0%})"
            for n in ("typical", "measured")
        ),
        f"{row['expected_kld']:.5f}",
        {True: "yes", False: "NO"}.get(row["same_tokens"], "–"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("source", type=Path, help="an F32, BF16 or F16 file")
    parser.add_argument("--text", type=Path, required=True, help="what sensitivity is measured on")
    parser.add_argument("--mixes", nargs="+", default=MIXES)
    parser.add_argument("--home", type=Path, help="a folder to keep the measured sensitivities in")
    parser.add_argument("--imatrix", type=Path, help="what `moetool imatrix` collected, for all files alike")
    parser.add_argument("--completion", help="llama-completion")
    parser.add_argument("--out", type=Path, help="write the rows as CSV")
    args = parser.parse_args()
    print("| " + " | ".join(HEADS) + " |\n|" + " --- |" * len(HEADS), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for mix in args.mixes:
            rows.append(check(args, mix, Path(folder)))
            print("| " + " | ".join(line(rows[-1])) + " |", flush=True)
    if args.out:
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
