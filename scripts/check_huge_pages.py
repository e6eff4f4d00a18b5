#!/usr/bin/env python3
"""What huge pages under the weights are worth: starts and tokens with them and without, turn by turn.

    scripts/check_huge_pages.py model.gguf another.gguf --starts 10 --turns 25

Two processes hold the same model, mapped or copied as a plan has it; one does not ask for huge pages. They
start one after the other, in random order, and decode in turn as those of check_python_tax.py do. A start is
the time from the beginning of a process to its fifth token. Nothing changes where all weights are pages of
the file.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from check_python_tax import N_CTX, TURN_S, Side, decode_for

WITHOUT, WITH = 0, 1


def serve(model: Path, n_threads: int, huge: int) -> None:
    """One side."""
    from moetool.engine.huge_pages import NewMemory

    if huge == WITHOUT:
        setattr(NewMemory, "advise_huge", lambda _self: None)  # noqa: B010 - mypy refuses to assign a method
    decode_for(model, n_threads)


def measure_start(model: Path, n_threads: int, n_turns: int) -> tuple[list[float], float]:
    """Seconds to start, without and with, and how many times as fast tokens came with huge pages."""
    with ExitStack() as stack:
        sides: dict[int, Side] = {}
        start_s = [0.0, 0.0]
        for huge in random.sample((WITHOUT, WITH), 2):
            began = time.perf_counter()
            command = [
                sys.executable,
                __file__,
                "--serve",
                str(huge),
                "--threads",
                str(n_threads),
                str(model),
            ]
            sides[huge] = Side(command, stack)
            sides[huge].token_ms(4)
            start_s[huge] = time.perf_counter() - began
        n_tokens = max(4, min(N_CTX // 2, int(1e3 * TURN_S / sides[WITHOUT].token_ms(4))))
        ratios = []
        for _ in range(n_turns):
            took = {huge: sides[huge].token_ms(n_tokens) for huge in random.sample((WITHOUT, WITH), 2)}
            ratios.append(took[WITHOUT] / took[WITH])
        return start_s, statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--starts", type=int, default=8)
    parser.add_argument("--turns", type=int, default=25, help="of each start")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        serve(args.models[0], args.threads, args.serve)
        return
    print("model                 GB  start s without  with   tokens x (95 %)          of starts")
    for model in args.models:
        found = [measure_start(model, args.threads, args.turns) for _ in range(args.starts)]
        ratios = [ratio for _, ratio in found]
        medians = sorted(statistics.median(random.choices(ratios, k=args.starts)) for _ in range(2000))
        without, with_ = (statistics.median(start_s[huge] for start_s, _ in found) for huge in (0, 1))
        print(
            f"{model.stem:18} {model.stat().st_size / 1e9:5.1f} {without:16.2f} {with_:5.2f}"
            f"   {statistics.median(ratios):.3f} ({medians[50]:.3f} – {medians[1949]:.3f})"
            f"   {min(ratios):.3f} – {max(ratios):.3f} of {args.starts}",
            flush=True,
        )


if __name__ == "__main__":
    main()
