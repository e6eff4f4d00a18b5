#!/usr/bin/env python3
"""moetool's speed beside llama.cpp's own programs, on the same files, in alternation.

    scripts/check_engine_speed.py --tools ~/llama.cpp/build/bin small.gguf large.gguf --pairs 7
    scripts/check_engine_speed.py --out speed.jsonl         only the table of what was measured before

Each measurement is a process of its own. `bench`: llama-bench and `moetool bench`, random tokens. `run`:
llama-completion and `moetool run`, one greedy answer, as the reader of its pipe sees it: when the first byte
came, how fast the others, when the process was gone. Build the programs from the llama.cpp that
llama-cpp-python vendors, or the kernels differ. With --out pairs are appended to a file and the table is over
all of it: on a machine that others use too, measure a few pairs at a time. A measurement during which other
processes took more than 5 % of a core is made again. Exits 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from moetool.machine.cpu import read_linux_cores

DISTURBED, TRIES = 0.05, 4
PROMPT = "The quick brown fox jumps over the lazy dog."
N_PROMPT, N_GEN, N_ANSWER = 512, 64, 128
# Beyond this a prompt takes seconds: fewer of them say as much.
LARGE_BYTES = 1e9

Record = dict[str, Any]


@dataclass(frozen=True)
class Measure:
    """One row for each model: whose figures are compared, and what must hold of `ours` and `theirs`."""

    name: str
    key: str
    target: str
    gain: Callable[[float, float], float]
    least: float
    shown: str = "{:.3f} x"


def _ratio(ours: float, theirs: float) -> float:
    return ours / theirs


def _seconds_saved(ours: float, theirs: float) -> float:
    return theirs - ours


def _inverse(ours: float, theirs: float) -> float:
    return theirs / ours


MEASURES = (
    Measure(f"bench, pp{N_PROMPT} tok/s", "prompt_tok_s", ">= 0.98 x", _ratio, 0.98),
    Measure(f"bench, tg{N_GEN} tok/s", "decode_tok_s", ">= 1.00 x", _ratio, 1.0),
    Measure("run, tok/s after the first", "answer_tok_s", ">= 1.00 x", _ratio, 1.0),
    Measure("run, first token s", "first_s", ">= -0.25 s", _seconds_saved, -0.25, "{:+.3f} s"),
    Measure(f"run, all {N_ANSWER} tokens s", "total_s", "", _inverse, 0.0),
)


# --- measuring ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Programs:
    """How to call both sides."""

    tools: Path
    threads: int
    env: Mapping[str, str]

    def bench(self, ours: bool, model: Path) -> Record:
        """Prompt and decode speed: the middle of a few repetitions after the program's own warm-up."""
        repetitions = 3 if model.stat().st_size > LARGE_BYTES else 9
        flags = ["-p", N_PROMPT, "-n", N_GEN, "-r", repetitions, "-t", self.threads, "-o", "json"]
        if ours:
            rows = json.loads(self._output(sys.executable, "-m", "moetool", "bench", model, *flags))
            rows = rows["data"]["rows"]
        else:
            rows = json.loads(self._output(self.tools / "llama-bench", "-m", model, *flags))
        rows.sort(key=lambda row: int(row["n_gen"]))
        prompt, decode = (statistics.median(row["samples_ts"]) for row in rows)
        return {"prompt_tok_s": prompt, "decode_tok_s": decode}

    def _output(self, *command: object) -> bytes:
        words = [str(word) for word in command]
        return subprocess.run(words, capture_output=True, check=True, env=self._env(words)).stdout

    def _env(self, command: Sequence[str]) -> Mapping[str, str]:
        # Their libraries are theirs alone: moetool brings its own, of the same names.
        return self.env if command[0] == sys.executable else {**self.env, "LD_LIBRARY_PATH": str(self.tools)}

    def run(self, ours: bool, model: Path) -> Record:
        """One answer through a pipe."""
        flags = ["-n", N_ANSWER, "-t", self.threads, "--temp", 0]
        if ours:
            command = [sys.executable, "-m", "moetool", "run", model, PROMPT, "--raw", "--ctx", 512, *flags]
        else:
            command = [self.tools / "llama-completion", "-m", model, "-p", PROMPT, "-c", 512, *flags]
            command += ["-no-cnv", "--no-display-prompt", "--ignore-eos"]
        return self._timed([str(word) for word in command])

    def _timed(self, command: Sequence[str]) -> Record:
        started = time.perf_counter()
        quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=self._env(command), **quiet) as process:
            assert process.stdout is not None
            times, written = [], b""
            while data := os.read(process.stdout.fileno(), 1 << 16):
                times.append(time.perf_counter() - started)
                written += data
            process.wait()
            total = time.perf_counter() - started
        if process.returncode != 0 or len(times) < 2:
            sys.exit(f"{command[0]} failed: {written[-200:]!r}")
        text = written.decode("utf-8", "replace").strip()
        # The newline at the end comes with the process's.
        last = times[-1] if written[-1:] != b"\n" or len(times) < 3 else times[-2]
        rate = (N_ANSWER - 1) / (last - times[0])
        return {"first_s": times[0], "answer_tok_s": rate, "total_s": total, "text": text}


def measure_pair(programs: Programs, model: Path, *, ours_first: bool) -> Record:
    """Both programs twice, in alternation."""
    found: Record = {"file": model.stem, "bytes": model.stat().st_size, "ours": {}, "theirs": {}}
    for measured in (programs.bench, programs.run):
        for ours in (ours_first, not ours_first):
            found["ours" if ours else "theirs"] |= undisturbed(partial(measured, ours, model))
    found["same_text"] = found["ours"].pop("text") == found["theirs"].pop("text")
    return found


def undisturbed(measured: Callable[[], Record]) -> Record:
    """What was measured while the machine did nothing else; the least disturbed of a few tries."""
    best: tuple[float, Record] | None = None
    for _ in range(TRIES):
        started, before = time.perf_counter(), others_s()
        record = measured()
        share = (others_s() - before) / (time.perf_counter() - started)
        if best is None or share < best[0]:
            best = share, record
        if share <= DISTURBED:
            break
    assert best is not None
    return best[1]


def others_s() -> float:
    """CPU seconds that all processes but our children have taken so far; 0 where the system does not say."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq = map(int, stat.read_text().split()[1:8])
    ours = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = user + nice + system + irq + softirq
    return ticks / os.sysconf("SC_CLK_TCK") - ours.ru_utime - ours.ru_stime


def measure(args: argparse.Namespace, home: Path) -> list[Record]:
    """All pairs of all models; what was measured before, in --out, comes first."""
    records = read_records(args.out)
    # A package that was installed has compiled modules; a checkout may not be allowed to write them.
    env = {**os.environ, "MOETOOL_HOME": str(home), "PYTHONPYCACHEPREFIX": str(home / "compiled")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    env.pop("LD_LIBRARY_PATH", None)
    programs = Programs(args.tools, args.threads, env)
    for model in args.models:
        programs.run(True, model)  # the file is in memory now
        programs.run(False, model)
        for pair in range(args.pairs):
            record = measure_pair(programs, model.resolve(), ours_first=pair % 2 == 0)
            records.append(record)
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return records


def read_records(path: Path | None) -> list[Record]:
    """Pairs of earlier calls; none without a file."""
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- the table ----------------------------------------------------------------------------------------------


def show_table(records: Sequence[Record]) -> bool:
    """A row for each model and measure; whether all targets are met."""
    met = True
    print("model               GB  measure                       llama.cpp    moetool     gain (from – to)")
    for name in dict.fromkeys(record["file"] for record in sorted(records, key=lambda r: r["bytes"])):
        of_model = [record for record in records if record["file"] == name]
        same = sum(record["same_text"] for record in of_model)
        for measure in MEASURES:
            pairs = [(record["ours"][measure.key], record["theirs"][measure.key]) for record in of_model]
            ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
            gains = [measure.gain(*pair) for pair in pairs]
            gain = statistics.median(gains)
            is_met = gain >= measure.least
            met = met and is_met
            low, high = measure.shown.format(min(gains)), measure.shown.format(max(gains))
            print(
                f"{name:18} {of_model[0]['bytes'] / 1e9:4.1f}  {measure.name:28} {theirs:10.3f} {ours:10.3f}"
                f"   {measure.shown.format(gain)} ({low} – {high}) {measure.target:9}"
                f" {'' if not measure.target else 'met' if is_met else 'MISSED'}"
            )
        print(f"{'':26}medians of {len(of_model)} pairs; the same text in {same}")
    return met


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--tools", type=Path, help="the folder of llama-bench and llama-completion")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=read_linux_cores().n_threads)
    parser.add_argument("--out", type=Path, help="append what is measured, as JSON lines")
    args = parser.parse_args()
    if args.models and args.tools is None:
        parser.error("--tools is needed to measure")
    with tempfile.TemporaryDirectory() as home:
        records = measure(args, Path(home)) if args.models else read_records(args.out)
    return 0 if show_table(records) else 1


if __name__ == "__main__":
    sys.exit(main())
