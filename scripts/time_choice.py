"""How long choosing among 20 quants takes, by model, and one plan by machine: time_choice.py [HEADERS_DIR].

Headers are made as in tests/quant_repo.py: published ones, in the types of 20 quants; the first with 384
experts instead of 256, a trillion parameters. Times are of this process's CPU, the best of three.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from hub_server import size_of
from quant_repo import QUANTS, quant_file, vocabulary
from test_plan import machine

from moetool.anatomy import make_anatomy
from moetool.choice import Candidate, choose
from moetool.gguf import Header, open_header, read_header
from moetool.machine import Machine
from moetool.memory import device_memory
from moetool.plan import Wishes, make_plan

GIB = 1 << 30


def best_s(work: Callable[[], object]) -> float:
    """Seconds of CPU, the best of three."""
    took = []
    for _ in range(3):
        started = time.process_time()
        work()
        took.append(time.process_time() - started)
    return min(took)


def with_link(here: Machine) -> Machine:
    devices = tuple(replace(d, link_bytes_s=None if d.kind == "cpu" else 25e9) for d in here.devices)
    return replace(here, devices=devices, disk_free_bytes=9000 * GIB)


def headers_of(model: str, n_expert: int) -> list[Header]:
    files = [quant_file(model, label, vocabulary(2000), n_expert) for label in QUANTS]
    return [read_header(io.BytesIO(data), size_of(data)) for data in files]


def make_choice(headers: list[Header], here: Machine) -> str:
    """The quant picked from 20 headers that have arrived."""
    found = [
        Candidate(label, header.file_bytes, make_anatomy(header))
        for label, header in zip(QUANTS, headers, strict=True)
    ]
    pick = choose(found, here, Wishes(n_ctx=32768)).pick
    return pick.label if pick else "nothing fits"


def choices() -> None:
    machines = {"700 GiB + 24": machine(700, 24), "64 GiB + 12": machine(64, 12), "16 GiB": machine(16)}
    print(f"{'20 quants of':26}{'machine':16}{'seconds':>8}   pick")
    for model, n_expert in (("DeepSeek", 384), ("Qwen3-30B-A3B", 0), ("GLM-4.5-Air", 0)):
        headers = headers_of(model, n_expert)
        for name, here in machines.items():
            work = partial(make_choice, headers, with_link(here))
            title = f"{model} ({n_expert} experts)" if n_expert else model
            print(f"{title:26}{name:16}{best_s(work):8.2f}   {work()}")


def plans(folder: Path) -> None:
    machines = {"24 GiB": machine(900, 24), "8 GiB": machine(900, 8), "24 + 12 GiB": machine(900, 24, 12)}
    heads = "".join(f"{name:>13}" for name in ("one memory", *machines))
    print(f"\nms for the memory of one placement, and for one plan on\n{'':40}{heads}")
    for path in sorted(folder.glob("*Q4_K_M*")):
        anatomy = make_anatomy(open_header(path))
        whole = make_plan(anatomy, machine(900), Wishes())
        times = [best_s(partial(device_memory, anatomy, whole.settings, whole.machine.devices))]
        for here in machines.values():
            times.append(best_s(partial(make_plan, anatomy, with_link(here), Wishes(n_ctx=32768))))
        print(f"{path.name:40}" + "".join(f"{1000 * seconds:13.1f}" for seconds in times))


if __name__ == "__main__":
    choices()
    plans(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "tests/data/headers")
