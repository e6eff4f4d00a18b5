#!/usr/bin/env python3
"""An answer of moetool beside llama-completion's, as the reader of a pipe sees it: same file and threads.

    scripts/check_engine_speed.py --tools ~/llama.cpp/build/bin small.gguf large.gguf --pairs 7
    scripts/check_engine_speed.py --out speed.jsonl         only the table of what was measured before

Both programs are started at once, but only one of them runs at a time: the other one is stopped, and they
change places every --slice seconds. So both see the same moments of a machine that others use too; a time is
what a program took while it ran. One greedy answer of --tokens tokens: when its first byte came after the
start of the process, how fast the others came, and when the process was gone. Build llama-completion from the
llama.cpp that llama-cpp-python vendors, or the kernels differ. Prompt and decode speed without an answer are
check_bench.py's. Exits 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moetool.machine.cpu import read_linux_cores

PROMPT = "The quick brown fox jumps over the lazy dog."

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
    Measure("tok/s after the first", "answer_tok_s", ">= 1.00 x", _ratio, 1.0),
    Measure("first token s", "first_s", ">= -0.25 s", _seconds_saved, -0.25, "{:+.3f} s"),
    Measure("all of it s", "total_s", "", _inverse, 0.0),
)


# --- measuring ----------------------------------------------------------------------------------------------


class Program:
    """A process whose output is read, and whose own time passes only in its turns."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._process.send_signal(signal.SIGSTOP)
        assert self._process.stdout is not None
        self._pipe = self._process.stdout.fileno()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pipe, selectors.EVENT_READ)
        self._passed_s = 0.0
        self.times_s: list[float] = []
        self.text = b""
        self.is_done = False

    def take_turn(self, seconds: float) -> None:
        """Run so long, or to the end."""
        began = time.perf_counter()
        self._process.send_signal(signal.SIGCONT)
        while (left := began + seconds - time.perf_counter()) > 0 and not self.is_done:
            if self._selector.select(left):
                data = os.read(self._pipe, 1 << 16)
                if data:
                    self.times_s.append(self._passed_s + time.perf_counter() - began)
                    self.text += data
                else:
                    self._process.wait()
                    self.is_done = True
        self._process.send_signal(signal.SIGSTOP)
        self._passed_s += time.perf_counter() - began

    def result(self, n_tokens: int) -> Record:
        """What it took."""
        if self._process.returncode != 0 or len(self.times_s) < 2:
            sys.exit(f"{self._process.args} failed: {self.text[-200:]!r}")
        # The newline at the end comes with the process's.
        is_late = self.text[-1:] == b"\n" and len(self.times_s) > 2
        last = self.times_s[-2 if is_late else -1]
        return {
            "first_s": self.times_s[0],
            "answer_tok_s": (n_tokens - 1) / (last - self.times_s[0]),
            "total_s": self._passed_s,
            "text": self.text.decode("utf-8", "replace").strip(),
        }


@dataclass(frozen=True)
class Bout:
    """How both sides are called."""

    tools: Path
    threads: int
    n_tokens: int
    slice_s: float
    env: Mapping[str, str]

    def start(self, ours: bool, model: Path) -> Program:
        flags = ["-n", self.n_tokens, "-t", self.threads, "--temp", 0]
        env = self.env
        if ours:
            command = [sys.executable, "-m", "moetool", "run", model, PROMPT, "--raw", "--ctx", 512, *flags]
        else:
            command = [self.tools / "llama-completion", "-m", model, "-p", PROMPT, "-c", 512, *flags]
            command += ["-no-cnv", "--no-display-prompt", "--ignore-eos"]
            # Their libraries are theirs alone: moetool brings its own, of the same names.
            env = {**env, "LD_LIBRARY_PATH": str(self.tools)}
        return Program([str(word) for word in command], env)

    def pair(self, model: Path, *, ours_first: bool) -> Record:
        """Both, a turn each."""
        programs = {ours: self.start(ours, model) for ours in (ours_first, not ours_first)}
        while not all(program.is_done for program in programs.values()):
            for program in programs.values():
                if not program.is_done:
                    program.take_turn(self.slice_s)
        ours, theirs = (programs[side].result(self.n_tokens) for side in (True, False))
        same = ours.pop("text") == theirs.pop("text")
        sizes = {"file": model.stem, "bytes": model.stat().st_size, "n_tokens": self.n_tokens}
        return {**sizes, "ours": ours, "theirs": theirs, "same_text": same}


def measure(args: argparse.Namespace, home: Path) -> list[Record]:
    """All pairs of all models; what was measured before, in --out, comes first."""
    records = read_records(args.out)
    # A package that was installed has compiled modules; a checkout may not be allowed to write them.
    env = {**os.environ, "MOETOOL_HOME": str(home), "PYTHONPYCACHEPREFIX": str(home / "compiled")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    env.pop("LD_LIBRARY_PATH", None)
    bout = Bout(args.tools, args.threads, args.tokens, args.slice, env)
    for model in args.models:
        bout.pair(model.resolve(), ours_first=True)  # the file is in memory now
        for number in range(args.pairs):
            record = bout.pair(model.resolve(), ours_first=number % 2 == 0)
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
    print("model               GB  measure                  llama.cpp    moetool     gain (from – to)")
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
                f"{name:18} {of_model[0]['bytes'] / 1e9:4.1f}  {measure.name:23} {theirs:10.3f} {ours:10.3f}"
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
    parser.add_argument("--tools", type=Path, help="the folder of llama-completion")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--slice", type=float, default=0.2, help="seconds of a turn")
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
