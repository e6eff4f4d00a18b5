#!/usr/bin/env python3
"""Predicted speed against measured speed, before and after calibration, on models from 0.1 to 12 GB.

    scripts/check_speed.py make /tmp/models         ten synthetic models, 39 GB in all: delete them afterwards
    scripts/check_speed.py measure /tmp/models --rounds 3 --out speed.jsonl
    scripts/check_speed.py table speed.jsonl

A measurement is one `moetool bench` as a process of its own, with an empty home but for the machine's memory
bandwidth, which is measured once at the start: so the prediction is what a user sees before the first run.
"before" is that prediction. "others" is after calibration by the first round of all other models, "own" after
calibration by the first round of all models, held against the later rounds. Rounds go over all models in
turn: a shared machine is not the same from minute to minute. --one-by-one leaves that drift out: the rounds
of a model follow each other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from moetool.kept_runs import parse_run
from moetool.speed import Calibration, Speed, calibrate

SCRIPTS = Path(__file__).parent
# Shapes like those of published models; none of them is in the set that constants are fitted to.
MODELS = {
    "dense-0.1G-Q8_0": "--type Q8_0 --experts 0 --layers 16 --embd 512 --ff 1408 --heads 8 --kv-heads 2"
    " --head-dim 64 --vocab 49152",
    "dense-0.5G-Q4_K": "--type Q4_K --experts 0 --layers 24 --embd 1024 --ff 3072 --kv-heads 8",
    "dense-2G-F16": "--type F16 --experts 0 --layers 20 --embd 1536 --ff 6144 --heads 12 --kv-heads 2"
    " --vocab 64000",
    "dense-3G-Q6_K": "--type Q6_K --experts 0 --layers 28 --embd 2560 --ff 9728 --heads 32 --kv-heads 8"
    " --vocab 64000",
    "dense-8G-Q8_0": "--type Q8_0 --experts 0 --layers 32 --embd 4096 --ff 14336 --heads 32 --kv-heads 8"
    " --vocab 128256",
    "moe-1.5G-Q8_0": "--type Q8_0 --layers 24 --embd 1024 --kv-heads 8 --head-dim 64 --experts 32 --used 8"
    " --expert-ff 512 --vocab 49152",
    "moe-2G-F16": "--type F16 --layers 12 --embd 1024 --head-dim 64 --experts 32 --used 4 --expert-ff 768"
    " --vocab 32000",
    "moe-4G-Q4_K": "--type Q4_K",
    "moe-6G-Q6_K": "--type Q6_K --layers 20 --heads 32 --experts 64 --used 6 --expert-ff 768",
    "moe-12G-MXFP4": "--type MXFP4 --layers 24 --embd 2880 --heads 64 --kv-heads 8 --head-dim 64 --experts 32"
    " --used 4 --expert-ff 2880 --vocab 201088",
}
# Beyond this a prompt takes half a minute, long enough to be measured once a round.
LARGE_BYTES = 3e9


def make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, flags in MODELS.items():
        command = [sys.executable, str(SCRIPTS / "synthetic_model.py"), str(folder / f"{name}.gguf")]
        subprocess.run([*command, *flags.split()], check=True)


# --- measuring ----------------------------------------------------------------------------------------------


def measure(folder: Path, rounds: int, out: Path, *, one_by_one: bool) -> None:
    files = sorted(folder.glob("*.gguf"), key=lambda path: path.stat().st_size)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        moetool(home, "doctor")
        turns = [(path, n) for n in range(rounds) for path in files]
        if one_by_one:
            turns.sort(key=lambda turn: files.index(turn[0]))
        for path, n in turns:
            record = measure_once(path, home) | {"round": n}
            with out.open("a") as file:
                file.write(json.dumps(record) + "\n")
            show_record(record)


def measure_once(path: Path, home: Path) -> dict[str, Any]:
    """One `moetool bench`; the runs it keeps are taken out of its home, so that the next knows nothing."""
    repetitions = 1 if path.stat().st_size > LARGE_BYTES else 5
    moetool(home, "bench", str(path), "-p", "512", "-n", "64", "-r", str(repetitions))
    runs = (home / "runs.jsonl").read_text().splitlines()
    (home / "runs.jsonl").unlink()
    return {"file": path.stem, "bytes": path.stat().st_size, "runs": runs}


def moetool(home: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "moetool", *arguments, "--output", "json"]
    env = {**os.environ, "MOETOOL_HOME": str(home)}
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)


def show_record(record: dict[str, Any]) -> None:
    for run in runs_of(record):
        for predicted, measured, unit in rates_of(run):
            print(f"{record['file']:18} round {record['round']}  {unit} {measured:9.2f} of {predicted:9.2f}")
    sys.stdout.flush()


# --- the table ----------------------------------------------------------------------------------------------


def runs_of(record: dict[str, Any]) -> list[Calibration]:
    return [run for line in record["runs"] if (run := parse_run(line)) is not None]


def rates_of(run: Calibration) -> Iterable[tuple[float, float, str]]:
    """Predicted, measured, and of what."""
    if run.predicted_decode_tok_s and run.measured_decode_tok_s:
        yield run.predicted_decode_tok_s, run.measured_decode_tok_s, "decode"
    if run.predicted_prompt_tok_s and run.measured_prompt_tok_s:
        yield run.predicted_prompt_tok_s, run.measured_prompt_tok_s, "prompt"


def show_table(path: Path) -> None:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    files = list(dict.fromkeys(record["file"] for record in sorted(records, key=lambda r: r["bytes"])))
    first = {r["file"]: runs_of(r) for r in records if r["round"] == 0}
    errors: dict[tuple[str, str], list[float]] = {}
    print("file               test    GB  measured tok/s    before   error   others   error      own   error")
    for file in files:
        of_file = [record for record in records if record["file"] == file]
        for unit in ("decode", "prompt"):
            measured = [m for r in of_file for run in runs_of(r) for _, m, u in rates_of(run) if u == unit]
            later = measured[1:] or measured
            before = predicted(first[file], unit, [])
            others = [run for other in files if other != file for run in first[other]]
            found = [
                ("before", before, statistics.median(measured)),
                ("others", predicted(first[file], unit, others), statistics.median(measured)),
                ("own", predicted(first[file], unit, [*others, *first[file]]), statistics.median(later)),
            ]
            cells = ""
            for name, rate, truth in found:
                error = rate / truth - 1
                errors.setdefault((unit, name), []).append(abs(error))
                cells += f" {rate:8.1f} {error:+7.1%}"
            size = of_file[0]["bytes"] / 1e9
            print(f"{file:18} {unit} {size:5.1f} {spread(measured):>16} {cells}")
    for (unit, name), values in errors.items():
        print(f"{unit} {name}: median {statistics.median(values):.1%}, worst {max(values):.1%}")


def predicted(runs: Sequence[Calibration], unit: str, calibration: Sequence[Calibration]) -> float:
    """What would be predicted for the load of one of `runs`, after `calibration`."""
    for run in runs:
        for rate, _, found in rates_of(run):
            if found == unit:
                speed = calibrate(Speed(rate, rate, rate, rate, rate, rate), run.target, calibration)
                result = speed.decode_tok_s if unit == "decode" else speed.prompt_tok_s
                assert result is not None
                return result
    raise SystemExit(f"nothing measured of {unit}")


def spread(rates: Sequence[float]) -> str:
    return f"{statistics.median(rates):.1f} ({min(rates):.0f}-{max(rates):.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("make").add_argument("folder", type=Path)
    measuring = commands.add_parser("measure")
    measuring.add_argument("folder", type=Path)
    measuring.add_argument("--rounds", type=int, default=3)
    measuring.add_argument("--one-by-one", action="store_true", help="all rounds of a model, then the next")
    measuring.add_argument("--out", type=Path, required=True)
    commands.add_parser("table").add_argument("file", type=Path)
    args = parser.parse_args()
    if args.command == "make":
        make(args.folder)
    elif args.command == "measure":
        measure(args.folder, args.rounds, args.out, one_by_one=args.one_by_one)
    else:
        show_table(args.file)


if __name__ == "__main__":
    main()
