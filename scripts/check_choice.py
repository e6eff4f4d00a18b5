#!/usr/bin/env python3
"""Is the chosen placement the fastest? Each placement that fits is measured, and the choice held against it.

    scripts/synthetic_model.py /tmp/moe.gguf --type Q8_0 --layers 8 --embd 1024 --experts 32 --used 4
    scripts/check_choice.py /tmp/moe.gguf --share 0.6

Two devices: this machine's CPU and a worker of it on loopback, one thread each; of the RAM and of the
worker's memory only --share of the model's size may be used, so that it fits into neither. Placements: every
number of offloaded layers × every number of layers whose experts are in RAM. All are measured once; then the
fastest few and the choice in turn, --rounds times: on a shared machine, the best of many single measurements
is luck. Exits with 1 when a choice is slower than 95 % of the best.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from moetool.bench.speed import SpeedTest, Stopwatch
from moetool.cli.opening import Opened, open_model, plan_for, read_this_machine
from moetool.engine.model import Engine
from moetool.machine import Machine
from moetool.plan import Limit, Plan, Wishes

N_CTX, N_GEN = 1024, 32
ENOUGH = 0.95


@dataclass(frozen=True)
class Placement:
    """A way to lay the model out, and its decode speeds in tokens per second."""

    name: str
    plan: Plan
    measured: tuple[float, ...] = ()

    @property
    def tok_s(self) -> float:
        return statistics.median(self.measured)


@contextmanager
def worker() -> Iterator[str]:
    """A worker on loopback with one thread; its address."""
    command = [sys.executable, "-m", "moetool", "worker", "--threads", "1", "--port", "0", "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["data"]["address"]
        finally:
            process.terminate()


def placements(opened: Opened, machine: Machine, wishes: Wishes) -> Iterator[Placement]:
    """Those that fit; equal ones once."""
    seen = set()
    anatomy = opened.anatomy
    for n_layers in range(anatomy.n_layer + 2):
        for n_cpu_moe in range(anatomy.n_layer_moe + 1):
            fixed = replace(wishes, n_gpu_layers=n_layers, n_cpu_moe=n_cpu_moe)
            plan = plan_for(opened, machine, fixed)
            if plan.fits and where(plan) not in seen:
                seen.add(where(plan))
                yield Placement(f"{n_layers} layers, experts of {n_cpu_moe} in RAM", plan)


def where(plan: Plan) -> tuple[tuple[str, int], ...]:
    """What tells placements apart: bytes of weights on each device."""
    return tuple((row.device, row.weights_bytes) for row in plan.memory)


def measured(opened: Opened, placement: Placement) -> Placement:
    """The placement with one more measurement."""
    with Engine(opened.model.paths, placement.plan.settings, opened.anatomy.arch) as engine:
        tok_s = Stopwatch(3).measure(engine, SpeedTest(0, N_GEN)).median_tok_s
    return replace(placement, measured=(*placement.measured, tok_s))


def check(opened: Opened, machine: Machine, wishes: Wishes, n_finalists: int, rounds: int) -> float:
    """The choice's speed as a part of the best's; prints the table."""
    choice = Placement("the choice", plan_for(opened, machine, wishes))
    if not choice.plan.fits:
        raise SystemExit(f"does not fit: {'; '.join(reason.text for reason in choice.plan.reasons)}")
    all_of_them = [measured(opened, item) for item in placements(opened, machine, wishes)]
    all_of_them.sort(key=lambda item: -item.tok_s)
    # The choice itself, measured twice, would be held against its own luck.
    others = [item for item in all_of_them if where(item.plan) != where(choice.plan)]
    finalists = [choice, *(replace(item, measured=()) for item in others[:n_finalists])]
    for n in range(rounds):
        order = finalists if n % 2 else finalists[::-1]
        done = {item.name: measured(opened, item) for item in order}
        finalists = [done[item.name] for item in finalists]
    show(all_of_them, finalists)
    return finalists[0].tok_s / max(item.tok_s for item in finalists)


def show(all_of_them: Sequence[Placement], finalists: Sequence[Placement]) -> None:
    slowest = all_of_them[-1]
    print(f"{len(all_of_them)} placements fit; the slowest: {slowest.tok_s:.1f} tok/s with {slowest.name}")
    print("finalists                                 tok/s (from - to)   predicted")
    for item in finalists:
        spread = f"({min(item.measured):.1f} - {max(item.measured):.1f})"
        predicted = item.plan.speed.decode_tok_s or 0.0
        print(f"{item.name:38} {item.tok_s:8.1f} {spread:16} {predicted:8.1f}")
    for row in finalists[0].plan.memory:
        print(f"  the choice on {row.device}: {row.total_bytes / 1e6:.0f} MB")
    for reason in finalists[0].plan.reasons:
        print(f"  {reason.text}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--share", type=float, default=0.6, help="of the model's size, for each device")
    parser.add_argument("--finalists", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    failed = 0
    with worker() as address:
        for name in args.models:
            opened = open_model(name)
            limit = int(args.share * opened.anatomy.weights_bytes)
            wishes = Wishes(n_ctx=N_CTX, n_threads=1, vram=(Limit("", limit),), ram_bytes=limit)
            ratio = check(
                opened, read_this_machine(rpc=address, measure="unknown"), wishes, args.finalists, args.rounds
            )
            print(f"{Path(name).stem}: the choice reaches {ratio:.1%} of the best\n", flush=True)
            failed += ratio < ENOUGH
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
