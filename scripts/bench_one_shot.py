#!/usr/bin/env python3
"""How long one answer takes from its start, by what could be set: repacking, mmap, sizes of batches.

    scripts/bench_one_shot.py a.gguf b.gguf [--prompt 256] [--n-gen 64] [--rounds 3] [--only no-repack]

Each run is a process of its own: load, a prompt of random tokens, then tokens one by one. Rounds go through
all settings, every second one backwards; the file is read once before, so that pages are in memory as they
are the second time that a model is used. Seconds are medians; `x` is the default's total by a setting's.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from moetool.engine.model import Engine
from moetool.gguf import open_header
from moetool.machine.cpu import read_linux_cores
from moetool.settings import Sampling, Settings

CHANGES: dict[str, dict[str, Any]] = {
    "default": {},
    "no-repack": {"repack": False},
    "no-mmap": {"use_mmap": False},
    "neither": {"repack": False, "use_mmap": False},
    "ubatch-128": {"n_ubatch": 128},
    "ubatch-256": {"n_ubatch": 256},
    "ubatch-1024": {"n_ubatch": 1024},
}
PARTS = ("load_s", "prompt_s", "decode_s", "total_s")


def answer(path: Path, change: Mapping[str, Any], n_prompt: int, n_gen: int) -> dict[str, float]:
    """Seconds of one run in this process; imports are not in it."""
    n_threads = read_linux_cores().n_threads
    base = Settings(n_ctx=n_prompt + n_gen + 64, n_threads=n_threads, n_threads_batch=n_threads)
    arch = open_header(path).arch
    dice = random.Random(1)
    started = time.perf_counter()
    with Engine([path], replace(base, **change), arch) as engine:
        loaded = time.perf_counter()
        engine.use_sampling(Sampling(temperature=0))
        engine.decode([dice.randrange(1000, engine.n_vocab - 1000) for _ in range(n_prompt)])
        token = engine.sample()
        prompted = time.perf_counter()
        for _ in range(n_gen - 1):
            engine.decode([token])
            token = engine.sample()
        ended = time.perf_counter()
    seconds = (loaded - started, prompted - loaded, ended - prompted, ended - started)
    return dict(zip(PARTS, seconds, strict=True))


def in_a_process(path: Path, name: str, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, str(path), "--one", name]
    command += ["--prompt", str(options.prompt), "--n-gen", str(options.n_gen)]
    found: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--n-gen", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="these settings besides the default, with commas between")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(answer(options.models[0], CHANGES[options.one], options.prompt, options.n_gen)))
        return
    names = ["default", *options.only.split(",")] if options.only else list(CHANGES)
    print("model              setting       load s  prompt s  decode s  total s      x")
    for path in options.models:
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for number in range(options.rounds):
            for name in names[:: -1 if number % 2 else 1]:
                runs[name].append(in_a_process(path, name, options))
                print(path.stem, name, json.dumps(runs[name][-1]), file=sys.stderr, flush=True)
        base_s = statistics.median(run["total_s"] for run in runs["default"])
        for name, found in runs.items():
            medians = [statistics.median(run[part] for run in found) for part in PARTS]
            seconds = "".join(f"{s:{width}.2f}" for s, width in zip(medians, (9, 10, 10, 9), strict=True))
            print(f"{path.stem:18} {name:11}{seconds} {base_s / medians[-1]:6.2f}", flush=True)


if __name__ == "__main__":
    main()
