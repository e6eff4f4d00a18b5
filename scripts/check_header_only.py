#!/usr/bin/env python3
"""Is `moetool bench --header-only` right? Its speed and memory beside those of the file itself.

    scripts/check_header_only.py measure a.gguf b.gguf --out header_only.jsonl
    scripts/check_header_only.py measure large.gguf --parts --out header_only.jsonl    two parts, extrapolated
    scripts/check_header_only.py table header_only.jsonl
    scripts/check_header_only.py write headers/some-hybrid.gguf.hdr /tmp/some-hybrid.gguf      a file to check

Each figure is a median over alternating pairs of processes, after one of each kind that does not count.
`took` is the whole command by header alone with the tests that it chooses itself. With --parts it may use so
much RAM only that it must extrapolate. Exits 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moetool.anatomy import make_anatomy
from moetool.gguf import hollow_file, open_header, read_header
from moetool.standin import make_tiles, tensor_pieces

# What may be off: decode, prompt, memory; and speed where it is extrapolated.
DECODE, PROMPT, MEMORY, PARTS = 0.10, 0.15, 0.02, 0.15
# Of the file's size: too little for it, enough for two parts.
PARTS_RAM = 0.6

Record = dict[str, Any]


def measure(model: Path, pairs: int, tests: Sequence[str], home: Path, *, parts: bool) -> Record:
    """Pairs of the file and of what is made up of its header."""
    ram = ["--ram", str(int(PARTS_RAM * model.stat().st_size))] if parts else []
    kinds = {"file": [], "header": ["--header-only", *ram]}
    found: dict[str, list[Record]] = {"file": [], "header": []}
    for number in range(pairs + 1):
        for kind in kinds if number % 2 else reversed(kinds):
            rows = bench(model, [*tests, *kinds[kind]], home)
            if number:
                found[kind].append(rows)
    started = time.perf_counter()
    bench(model, kinds["header"], home)
    took_s = time.perf_counter() - started
    return {"model": model.stem, "bytes": model.stat().st_size, "parts": parts, "took_s": took_s} | found


def bench(model: Path, flags: Sequence[str], home: Path) -> Record:
    command = [sys.executable, "-m", "moetool", "bench", str(model), *flags, "--output", "json"]
    env = {**os.environ, "MOETOOL_HOME": str(home)}
    done = subprocess.run(command, check=True, env=env, stdout=subprocess.PIPE)
    prompt, decode = sorted(json.loads(done.stdout)["data"]["rows"], key=lambda row: row["n_gen"])
    return {
        "prompt": prompt["median_ts"],
        "decode": decode["median_ts"],
        "memory": decode["memory_bytes"],
        "layers": decode.get("sampled_layers", ""),
    }


def show_table(path: Path) -> bool:
    """A line for each model; whether all targets are met."""
    met = True
    print(
        f"{'model':35}GB  took s  decode tok/s: file  header   error   prompt: file  header   error  memory"
    )
    for record in map(json.loads, path.read_text().splitlines()):
        errors = {}
        cells = ""
        for what in ("decode", "prompt", "memory"):
            of_file, of_header = (statistics.median(r[what] for r in record[k]) for k in ("file", "header"))
            errors[what] = of_header / of_file - 1
            shown = "" if what == "memory" else f"{of_file:10.2f} {of_header:9.2f}"
            cells += f"{shown} {errors[what]:+7.1%}  "
        limits = {"decode": DECODE, "prompt": PROMPT, "memory": MEMORY}
        if record["parts"]:
            limits = {"decode": PARTS, "prompt": PARTS, "memory": MEMORY}
        missed = [what for what, limit in limits.items() if abs(errors[what]) > limit]
        met = met and not missed
        layers = record["header"][0]["layers"]
        print(
            f"{record['model'][:32]:32} {record['bytes'] / 1e9:5.1f} {record['took_s']:6.1f} {cells}"
            f" {'MISSED ' + ', '.join(missed) if missed else 'met'} {layers}"
        )
    return met


def write(header_path: Path, out: Path) -> None:
    """A whole file of a header, on disk, with weights that are made up."""
    header = open_header(header_path)
    head, size = hollow_file(header, make_anatomy(header).n_vocab)
    with out.open("w+b") as file:
        file.write(head)
        file.truncate(size)
        made = read_header(file, size)
        tiles = make_tiles(made.tensors)
        for tensor in made.tensors:
            file.seek(made.data_offset + tensor.offset)
            file.writelines(tensor_pieces(tensor, tiles))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("models", type=Path, nargs="+")
    measuring.add_argument("--out", type=Path, required=True)
    measuring.add_argument("--pairs", type=int, default=3)
    measuring.add_argument("--parts", action="store_true")
    measuring.add_argument("--tests", default="-p 128 -n 32 -r 3", help="flags of both sides")
    writing = commands.add_parser("write")
    writing.add_argument("header", type=Path)
    writing.add_argument("out", type=Path)
    commands.add_parser("table").add_argument("file", type=Path)
    args = parser.parse_args()
    if args.command == "write":
        write(args.header, args.out)
    elif args.command == "measure":
        with tempfile.TemporaryDirectory() as home:
            for model in args.models:
                record = measure(model, args.pairs, args.tests.split(), Path(home), parts=args.parts)
                with args.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
    else:
        return 0 if show_table(args.file) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
