#!/usr/bin/env python3
"""Fit the CPU's constants in moetool/data/speed.json to measured runs: fit_cpu_speed.py FILE.jsonl [--write].

The records come from measure_cpu_speed.py. What is fitted: how much of the measured bandwidth kernels reach,
seconds a thread needs for a weight of each type, seconds for a layer and a token, operations per second in
prompts. Drawn towards what the file holds now; errors are of models that were left out.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moetool.speed import Cache, DeviceWork, Lane, Load, Read, Work, parse_constants
from moetool.speed.constants import by_quant, quant_group
from moetool.speed.predict import decode_s, prompt_s

FILE = Path(__file__).parent.parent / "moetool" / "data" / "speed.json"

Array = np.ndarray[Any, np.dtype[np.float64]]
Name = tuple[str, ...]

# How far a constant may move from what it was (standard deviation of its logarithm).
SIGMA = {"read_share": 0.15, "routed_share": 0.15, "routed_flops_share": 0.3}
SIGMA_ELSE = 1.0
NOISE = 0.08
# Beyond this error (logarithm) a run counts less and less: on a shared machine some are disturbed.
OUTLIER = 0.15


@dataclass(frozen=True)
class Run:
    """One measurement: seconds for a token, or for the whole prompt."""

    file: str
    test: str
    work: Work
    lane: Lane
    n_prompt: int
    seconds: float

    def predict(self, document: Mapping[str, Any]) -> float:
        constants = parse_constants(document)
        lanes = {self.lane.device: self.lane}
        if self.n_prompt:
            return prompt_s(self.work, lanes, Load(self.n_prompt), constants)
        return decode_s(self.work, lanes, 0, constants)


def parse_run(record: Mapping[str, Any]) -> Run:
    shares = tuple(parse_share(share) for share in record["work"]["devices"])
    n_tokens = record["n_prompt"] or 1
    return Run(
        file=record["file"],
        test=record["test"],
        work=Work(shares, record["work"]["n_hops"], record["work"]["n_borders"]),
        lane=Lane(**record["lane"]),
        n_prompt=record["n_prompt"],
        seconds=n_tokens / record["measured_tok_s"],
    )


def parse_share(share: Mapping[str, Any]) -> DeviceWork:
    reads = tuple(Read(**read) for read in share["reads"])
    caches = tuple(Cache(**cache) for cache in share["caches"])
    return DeviceWork(**{**share, "reads": reads, "caches": caches})


def with_usual_bandwidth(runs: Sequence[Run]) -> list[Run]:
    """Each run with the median bandwidth of all with as many threads: one second's reading is not the
    next one's, and what a machine keeps is one figure."""
    found: dict[int, list[float]] = {}
    for run in runs:
        found.setdefault(run.lane.n_threads, []).append(run.lane.bandwidth_bytes_s or 0.0)
    usual = {n_threads: statistics.median(rates) for n_threads, rates in found.items()}
    return [replace(run, lane=replace(run.lane, bandwidth_bytes_s=usual[run.lane.n_threads])) for run in runs]


def names_of(runs: Sequence[Run]) -> list[Name]:
    """The constants that these runs tell something of."""
    reads = [read for run in runs for share in run.work.devices for read in share.reads]
    # Norms and routers are F32 and small: nothing can be learnt of that type.
    types = sorted({read.quant for read in reads if read.quant != "F32"})
    names: list[Name] = [("read_share",), ("layer_s",), ("token_s",), ("attention_flops_share",)]
    names += [(table, quant) for table in ("weight_s", "thread_flops_s") for quant in types]
    if any(read.routed for read in reads):
        names += [("routed_share",), ("moe_layer_s",), ("routed_flops_share",)]
    return names


def with_types(document: Mapping[str, Any], names: Sequence[Name]) -> dict[str, Any]:
    """The document with a value of its own for each type, at first its group's."""
    changed = deepcopy(dict(document))
    cpu = changed["kernels"]["cpu"]
    for name in names:
        if len(name) > 1:
            cpu[name[0]][name[1]] = by_quant(cpu[name[0]], name[1])
    return changed


def moved(document: Mapping[str, Any], names: Sequence[Name], logs: Array) -> dict[str, Any]:
    """The document with each named constant times e^log."""
    changed = deepcopy(dict(document))
    for name, log in zip(names, logs, strict=True):
        table = changed["kernels"]["cpu"]
        for key in name[:-1]:
            table = table[key]
        table[name[-1]] *= math.exp(log)
    return changed


def tidied(document: Mapping[str, Any], names: Sequence[Name]) -> dict[str, Any]:
    """Three digits; a group's value is the middle of its measured types'."""
    changed = deepcopy(dict(document))
    cpu = changed["kernels"]["cpu"]
    measured = {name[1] for name in names if len(name) > 1}
    for table in (cpu["weight_s"], cpu["thread_flops_s"]):
        for group in {quant_group(quant) for quant in measured}:
            table[group] = statistics.median(table[q] for q in measured if quant_group(q) == group)
    return json.loads(json.dumps(changed), parse_float=lambda text: float(f"{float(text):.3g}"))


def fit(runs: Sequence[Run], document: Mapping[str, Any], names: Sequence[Name]) -> Array:
    """Logarithms by which the constants move: least squares with priors (Gauss-Newton)."""

    def residuals(logs: Array) -> Array:
        changed = moved(document, names, logs)
        return np.array([math.log(run.predict(changed) / run.seconds) for run in runs])

    logs = np.zeros(len(names))
    sigma = np.array([SIGMA.get(name[0], SIGMA_ELSE) for name in names])
    for _ in range(12):
        base = residuals(logs)
        noise = NOISE * np.hypot(1, base / OUTLIER)
        steps = np.eye(len(names)) * 0.02
        jacobian = np.stack([(residuals(logs + step) - base) / 0.02 for step in steps], 1)
        left = np.concatenate([jacobian / noise[:, None], np.diag(1 / sigma)])
        right = np.concatenate([-base / noise, -logs / sigma])
        logs = logs + np.clip(np.linalg.lstsq(left, right, rcond=None)[0], -0.5, 0.5)
    return logs


def show(runs: Sequence[Run], document: Mapping[str, Any], names: Sequence[Name]) -> None:
    print("file                           test   threads  measured  fitted  left out")
    best = moved(document, names, fit(runs, document, names))
    errors: dict[str, list[float]] = {}
    for file in dict.fromkeys(run.file for run in runs):
        others = [run for run in runs if run.file != file]
        without = moved(document, names, fit(others, document, names)) if others else best
        for run in (run for run in runs if run.file == file):
            n = run.n_prompt or 1
            rates = [n / seconds for seconds in (run.seconds, run.predict(best), run.predict(without))]
            errors.setdefault(run.test, []).append(abs(rates[2] / rates[0] - 1))
            numbers = " ".join(f"{rate:9.2f}" for rate in rates)
            print(f"{file:30} {run.test:6} {run.lane.n_threads:7} {numbers}")
    for test, found in errors.items():
        print(
            f"{test}: median error {100 * np.median(found):.1f} %, worst {100 * max(found):.1f} % (left out)"
        )
    for name in names:
        table = best["kernels"]["cpu"]
        for key in name:
            table = table[key]
        print(f"  {' '.join(name):28} {table:.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--write", action="store_true", help=f"write {FILE.name}")
    args = parser.parse_args()
    runs = with_usual_bandwidth([parse_run(json.loads(line)) for line in args.runs.read_text().splitlines()])
    names = names_of(runs)
    document = with_types(json.loads(FILE.read_text()), names)
    show(runs, document, names)
    if args.write:
        best = tidied(moved(document, names, fit(runs, document, names)), names)
        FILE.write_text(json.dumps(best, indent=1) + "\n")


if __name__ == "__main__":
    main()
