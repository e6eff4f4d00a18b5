#!/usr/bin/env python3
"""Does `moetool bench` agree with llama-bench? The same tests on the same files, in alternation.

    scripts/check_bench.py --tools ~/llama.cpp/build/bin small.gguf -r 60 --pairs 5 --out bench.jsonl
    scripts/check_bench.py --out bench.jsonl            only the table of what was measured before

Both run at once, but only one at a time: the other one is stopped, and they change places every --slice
seconds. So both see the same hours of a machine that others use too. A repetition that was stopped half-way
is slow, and does not move the median as long as a slice holds many: choose -p, -n and --slice so. A row is
the middle of the pairs' ratios. The names of the fields, their order, and what they say of the settings must
be llama-bench's too. Exits 1 where they are not, or where a ratio is off by more than 3 %.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from moetool.machine.cpu import read_linux_cores

LIMIT = 0.03
# What may differ: how the two name processor, back ends, model and build, and what they choose by themselves.
OWN = {"build_commit", "build_number", "cpu_info", "backends", "model_filename", "model_type", "test_time"}
OWN |= {"n_gpu_layers", "devices", "model_n_params", "model_size", "flash_attn", "load_mode"}
MEASURED = {"avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts"}

Row = dict[str, Any]
Bench = subprocess.Popen[bytes]


def start_bench(ours: bool, model: Path, flags: Sequence[str], tools: Path, home: Path, out: Path) -> Bench:
    """One of the two programs, begun; its rows go to `out`."""
    env = {**os.environ, "MOETOOL_HOME": str(home)}
    env.pop("LD_LIBRARY_PATH", None)
    command = [sys.executable, "-m", "moetool", "bench", str(model)]
    if not ours:
        # Their libraries are theirs alone: moetool brings its own, of the same names.
        env |= {"LD_LIBRARY_PATH": str(tools)}
        command = [str(tools / "llama-bench"), "-m", str(model)]
    with out.open("wb") as rows:
        return subprocess.Popen(
            [*command, *flags, "-o", "jsonl"], env=env, stdout=rows, stderr=subprocess.DEVNULL
        )


def take_turns(programs: Sequence[Bench], slice_s: float) -> None:
    """Let them run to their ends, one at a time."""
    for program in programs:
        program.send_signal(signal.SIGSTOP)
    while running := [program for program in programs if program.poll() is None]:
        for program in running:
            program.send_signal(signal.SIGCONT)
            with suppress(subprocess.TimeoutExpired):
                program.wait(slice_s)
            program.send_signal(signal.SIGSTOP)
    for program in programs:
        if program.returncode:
            sys.exit(f"{program.args} failed")


def measure(args: argparse.Namespace, model: Path, home: Path, *, ours_first: bool) -> Row:
    """One pair."""
    flags = ["-p", args.p, "-n", args.n, "-r", args.r, "-t", str(args.threads)]
    outs = {ours: home / f"{ours}.jsonl" for ours in (ours_first, not ours_first)}
    take_turns(
        [start_bench(ours, model, flags, args.tools, home, out) for ours, out in outs.items()], args.slice
    )
    found = {ours: list(map(json.loads, out.read_text().splitlines())) for ours, out in outs.items()}
    return {
        "model": model.stem,
        "bytes": model.stat().st_size,
        "tests": {
            f"pp{mine['n_prompt']}" if mine["n_prompt"] else f"tg{mine['n_gen']}": [
                statistics.median(row["samples_ts"]) for row in (mine, theirs)
            ]
            for mine, theirs in zip(found[True], found[False], strict=True)
        },
        "unlike": sorted(
            {name for pair in zip(found[True], found[False], strict=True) for name in unlike(*pair)}
        ),
    }


def unlike(mine: Row, theirs: Row) -> list[str]:
    """Fields that differ though they should not; "order" where our first names are not theirs."""
    if list(mine)[: len(theirs)] != list(theirs):
        return ["order"]
    return [name for name in theirs if name not in OWN | MEASURED and mine[name] != theirs[name]]


def show_table(records: Sequence[Row]) -> bool:
    """A line for each test of each model; whether all agree."""
    met = True
    print("model                 GB  test    llama-bench    moetool  moetool / llama-bench (from – to)")
    for name in dict.fromkeys(record["model"] for record in sorted(records, key=lambda r: r["bytes"])):
        of_model = [record for record in records if record["model"] == name]
        for test in of_model[0]["tests"]:
            pairs = [record["tests"][test] for record in of_model if test in record["tests"]]
            ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratios = [mine / other for mine, other in pairs]
            ratio = statistics.median(ratios)
            is_met = abs(ratio - 1) <= LIMIT
            met = met and is_met
            print(
                f"{name:18} {of_model[0]['bytes'] / 1e9:5.1f}  {test:6} {theirs:12.2f} {ours:10.2f}"
                f"  {ratio:.3f} ({min(ratios):.3f} – {max(ratios):.3f}) of {len(pairs)}"
                f"  {'met' if is_met else 'MISSED'}"
            )
        unlike_fields = sorted({field for record in of_model for field in record["unlike"]})
        met = met and not unlike_fields
        if unlike_fields:
            print(f"{'':26}fields that differ: {', '.join(unlike_fields)}")
    return met


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--tools", type=Path, help="the folder of llama-bench")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("-p", default="128")
    parser.add_argument("-n", default="32")
    parser.add_argument("-r", default="30")
    parser.add_argument("--slice", type=float, default=1.0, help="seconds of a turn")
    parser.add_argument("--threads", type=int, default=read_linux_cores().n_threads)
    parser.add_argument("--out", type=Path, help="append what is measured, as JSON lines")
    args = parser.parse_args()
    if args.models and args.tools is None:
        parser.error("--tools is needed to measure")
    lines = args.out.read_text().splitlines() if args.out and args.out.exists() else []
    records: list[Row] = list(map(json.loads, lines))
    with tempfile.TemporaryDirectory() as home:
        for model in args.models:
            for number in range(args.pairs):
                ours_first = number % 2 == 0
                record = measure(args, model.resolve(), Path(home), ours_first=ours_first)
                records.append(record)
                if args.out:
                    with args.out.open("a") as file:
                        file.write(json.dumps(record) + "\n")
    return 0 if show_table(records) else 1


if __name__ == "__main__":
    sys.exit(main())
