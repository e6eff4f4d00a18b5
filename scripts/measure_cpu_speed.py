#!/usr/bin/env python3
"""Decode and prompt speed of GGUF files on this machine's CPU, beside what is predicted.

    scripts/synthetic_model.py /tmp/q8.gguf --type Q8_0 --experts 0 --layers 8
    scripts/measure_cpu_speed.py /tmp/*.gguf --threads 1 2 --out cpu.jsonl
    scripts/fit_cpu_speed.py cpu.jsonl

Each file is loaded once for each number of threads; memory bandwidth is read again before each load, since a
machine with other guests is not the same from minute to minute ("busy": other processes took part of the
cores, so the figures are worth little). Appends one JSON line a measurement.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moetool.anatomy import Anatomy, make_anatomy
from moetool.bench.speed import SpeedTest, Stopwatch
from moetool.engine.model import Engine
from moetool.gguf import open_header
from moetool.machine.readtest import measure_reading
from moetool.settings import Settings
from moetool.speed import Lane, Load, Where, make_work, predict_work

N_PROMPT, N_GEN = 512, 64


def measure(path: Path, n_threads: int, repetitions: int) -> Iterator[dict[str, Any]]:
    """A record each of decode and prompt."""
    model = make_anatomy(open_header(path))
    settings = Settings(n_ctx=N_PROMPT + 256, n_threads=n_threads, n_threads_batch=n_threads)
    reading = measure_reading(n_threads, 4 << 30)
    work = make_work(model, settings, all_in_ram(model))
    lane = Lane("CPU", "cpu", reading.bytes_s, measured=True, n_threads=n_threads)
    predicted = predict_work(work, [lane], Load(N_PROMPT, settings.n_ubatch))
    with Engine([path], settings, model.arch) as engine:
        for test, tok_s in (
            (SpeedTest(0, N_GEN), predicted.decode_tok_s),
            (SpeedTest(N_PROMPT, 0), predicted.prompt_tok_s),
        ):
            samples = Stopwatch(repetitions).measure(engine, test)
            yield {
                "file": path.name,
                "quant": model.quant,
                "test": test.name,
                "n_prompt": test.n_prompt,
                "quiet": reading.quiet,
                "lane": asdict(lane),
                "work": asdict(work),
                "measured_tok_s": samples.median_tok_s,
                "predicted_tok_s": tok_s,
            }


def all_in_ram(model: Anatomy) -> Where:
    return Where({t.info.name: "CPU" for t in model.tensors}, ("CPU",) * len(model.layers), "CPU")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    print("file                           test   threads   GB/s   measured  predicted  tok/s")
    for path in args.models:
        for n_threads in args.threads:
            for record in measure(path, n_threads, args.repetitions):
                with args.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                show(record)


def show(record: dict[str, Any]) -> None:
    lane, predicted = record["lane"], record["predicted_tok_s"]
    print(
        f"{record['file']:30} {record['test']:6} {lane['n_threads']:7} {lane['bandwidth_bytes_s'] / 1e9:6.1f}"
        f" {record['measured_tok_s']:10.2f} {predicted:10.2f}  x {record['measured_tok_s'] / predicted:.2f}"
        f"{'' if record['quiet'] else '  busy'}",
        flush=True,
    )


if __name__ == "__main__":
    main()
