#!/usr/bin/env python3
"""Is `moetool bench --header-only` right? Its speed and memory beside those of the file itself.

    scripts/check_header_only.py measure a.gguf b.gguf --out header_only.jsonl
    scripts/check_header_only.py measure large.gguf --parts --out header_only.jsonl    two parts, extrapolated
    scripts/check_header_only.py table header_only.jsonl
    scripts/check_header_only.py write headers/some-hybrid.gguf.hdr /tmp/some-hybrid.gguf      a file to check

The file and what is made up of its header are both loaded, and measured in alternation; an error is the
middle of those of the pairs. `took` is the whole command by header alone, with the tests that it chooses
itself. With --parts two parts are made up, as the command does of large models. Exits 1 where a target is
missed.
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
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moetool.anatomy import Anatomy, make_anatomy
from moetool.bench.extrapolate import Line
from moetool.bench.speed import SpeedTest, Stopwatch
from moetool.cli.bench_rows import memory_use
from moetool.cli.header_only import HeaderOf
from moetool.cli.header_parts import choose_parts, size_for
from moetool.cli.opening import Opened, open_model, plan_for, read_this_machine
from moetool.engine.model import Engine
from moetool.gguf import hollow_file, open_header, read_header
from moetool.plan import Wishes
from moetool.standin import MemoryFile, first_layers, make_tiles, tensor_pieces

# What may be off: decode, prompt, memory; and speed where it is extrapolated.
DECODE, PROMPT, MEMORY, PARTS = 0.10, 0.15, 0.02, 0.15

Record = dict[str, Any]


def measure(model: Path, home: Path, tests: Sequence[SpeedTest], pairs: int, *, parts: bool) -> Record:
    """The file beside what is made up of its header, test by test in alternation."""
    with ExitStack() as stack:
        whole = open_model(str(model))
        made = [whole.header]
        if parts:
            found = HeaderOf(str(model), whole.header)
            samples = choose_parts(found, read_this_machine(), Wishes(n_ctx=1024)).samples
            made = [first_layers(whole.header, n) for n in (samples.small, samples.large)]
        sides = [load(stack, whole, whole.model.paths[0])]
        for header in made:
            file = stack.enter_context(MemoryFile(header, whole.anatomy.n_vocab))
            file.fill()
            opened = Opened(whole.model, header, make_anatomy(header))
            sides.append(load(stack, opened, file.path))
        results = [alternate(sides, test, pairs) for test in tests]
    took_s = time_command(model, home)
    return {"model": model.stem, "bytes": model.stat().st_size, "parts": parts, "took_s": took_s} | {
        "tests": results,
        "memory": [side.memory_bytes for side in sides],
        "layers": [side.anatomy.n_layer for side in sides],
    }


@dataclass(frozen=True)
class Side:
    """A loaded model."""

    engine: Engine
    anatomy: Anatomy
    memory_bytes: int


def load(stack: ExitStack, opened: Opened, path: Path) -> Side:
    plan = plan_for(opened, read_this_machine(), Wishes(n_ctx=1024))
    engine = stack.enter_context(Engine([path], plan.settings, opened.anatomy.arch))
    used = sum(use.measured_bytes for use in memory_use(plan, engine.buffers))
    return Side(engine, opened.anatomy, used)


def alternate(sides: Sequence[Side], test: SpeedTest, pairs: int) -> Record:
    """Seconds of the test on each side, and what it grows with."""
    watch = Stopwatch(1, warm_tokens=16)
    seconds: list[list[float]] = []
    for number in range(pairs + 1):
        order = range(len(sides)) if number % 2 else reversed(range(len(sides)))
        taken = {i: watch.measure(sides[i].engine, test).samples_ns[0] / 1e9 for i in order}
        if number:
            seconds.append([taken[i] for i in range(len(sides))])
    return {
        "name": test.name,
        "n_tokens": test.n_tokens,
        "sizes": [size_for(side.anatomy, test) for side in sides],
        "seconds": seconds,
    }


def time_command(model: Path, home: Path) -> float:
    """Seconds of the whole command, with the tests that it chooses itself."""
    command = [sys.executable, "-m", "moetool", "bench", str(model), "--header-only", "--output", "json"]
    started = time.perf_counter()
    env = {**os.environ, "MOETOOL_HOME": str(home)}
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


# --- the table ----------------------------------------------------------------------------------------------


def show_table(path: Path) -> bool:
    """A line for each test of each model; whether all targets are met."""
    met = True
    print(f"{'model':34}   GB  took s  memory  test    file tok/s  header   error (from – to)")
    for record in map(json.loads, path.read_text().splitlines()):
        memory = 0.0 if record["parts"] else record["memory"][1] / record["memory"][0] - 1
        layers = f"  layers {record['layers']}" if record["parts"] else ""
        for at, test in enumerate(record["tests"]):
            pairs = [(seconds[0], estimate(test, seconds)) for seconds in test["seconds"]]
            errors = [of_file / ours - 1 for of_file, ours in pairs]
            error = statistics.median(errors)
            if record["parts"]:  # a line makes several times the noise of its ends
                middles = [statistics.median(side) for side in zip(*test["seconds"], strict=True)]
                error = middles[0] / estimate(test, middles) - 1
            limit = PARTS if record["parts"] else PROMPT if test["name"].startswith("pp") else DECODE
            is_met = abs(error) <= limit and abs(memory) <= MEMORY
            met = met and is_met
            rates = [test["n_tokens"] / statistics.median(side) for side in zip(*pairs, strict=True)]
            size = f"{record['bytes'] / 1e9:4.1f} {record['took_s']:7.1f} {memory:+7.1%}"
            head = "" if at else f"{record['model'][:34]:34} {size}"
            spread = f"({min(errors):+.0%} – {max(errors):+.0%})"
            print(
                f"{head:55}  {test['name']:6} {rates[0]:11.2f} {rates[1]:7.2f} {error:+7.1%} {spread:15}"
                f" {'met' if is_met else 'MISSED'}{layers if at == 0 else ''}"
            )
    return met


def estimate(test: Record, seconds: Sequence[float]) -> float:
    """What is said of the file by what was made up: as measured, or on a line through two parts."""
    if len(seconds) == 2:
        return seconds[1]
    whole, small, large = test["sizes"]
    return Line((small, seconds[1]), (large, seconds[2])).at(whole)


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
    measuring.add_argument("--pairs", type=int, default=5)
    measuring.add_argument("--parts", action="store_true")
    measuring.add_argument("-p", type=int, default=128, help="tokens of the prompt")
    measuring.add_argument("-n", type=int, default=32, help="tokens to decode")
    writing = commands.add_parser("write")
    writing.add_argument("header", type=Path)
    writing.add_argument("out", type=Path)
    commands.add_parser("table").add_argument("file", type=Path)
    args = parser.parse_args()
    if args.command == "write":
        write(args.header, args.out)
    elif args.command == "measure":
        with tempfile.TemporaryDirectory() as home:
            os.environ["MOETOOL_HOME"] = home
            for model in args.models:
                tests = (SpeedTest(args.p, 0), SpeedTest(0, args.n))
                record = measure(model.resolve(), Path(home), tests, args.pairs, parts=args.parts)
                with args.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
    else:
        return 0 if show_table(args.file) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
