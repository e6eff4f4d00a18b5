"""Random plans held against llama.cpp's own allocator: check_plans.py HEADERS_DIR [ARCHS_DIR] [--cases N].

HEADERS_DIR has *.hdr, headers that are extended sparsely; ARCHS_DIR small whole files. Machines are the CPU
alone or with one or two loopback workers, of random sizes; wishes are random contexts, caches, sequences,
limits and fixed placements. A plan that says it fits is laid out by llama.cpp without allocating (no_alloc):
no device may take more than the plan may use. Where a plan says that nothing fits, many other placements are
tried by formula: none may fit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from worker_fixture import running_worker

from moetool.anatomy import Anatomy, make_anatomy
from moetool.errors import MoetoolError, UsageError
from moetool.gguf import open_header
from moetool.machine import Device, Machine
from moetool.memory import device_memory
from moetool.plan import Limit, Plan, Wishes, budget_of, make_plan
from moetool.settings import Settings, TensorOverride

GIB = 1 << 30
EXPERTS = "ffn_(up|down|gate|gate_up)_(ch|)exps"


@dataclass(frozen=True)
class Model:
    path: Path
    anatomy: Anatomy


@dataclass(frozen=True)
class Case:
    model: Model
    machine: Machine
    wishes: Wishes


def open_models(headers: Path, archs: Path | None, folder: Path) -> list[Model]:
    """Headers extended to their files' sizes, and small files as they are; those with something to plan."""
    paths = []
    for header in sorted(headers.glob("*.hdr")):
        path = folder / header.stem
        path.write_bytes(header.read_bytes())
        os.truncate(path, open_header(path).file_bytes)
        paths.append(path)
    paths += sorted(archs.glob("*.gguf")) if archs else []
    return [Model(path, make_anatomy(open_header(path))) for path in paths]


# --- cases --------------------------------------------------------------------------------------------------


def make_case(dice: random.Random, models: Sequence[Model]) -> Case:
    model = dice.choice(models)
    machine = make_machine(dice, model.anatomy)
    return Case(model, machine, make_wishes(dice, model.anatomy, machine))


def make_machine(dice: random.Random, anatomy: Anatomy) -> Machine:
    """No, one or two devices that together hold between a tenth of the model and more than all of it."""
    whole = anatomy.weights_bytes + GIB // (1 if anatomy.weights_bytes > GIB else 16)
    devices = []
    for number in range(dice.choice([0, 1, 1, 1, 2, 2])):
        size = int(whole * dice.uniform(0.05, 1.1))
        speed = dice.choice([None, 100e9, 500e9, 1000e9])
        devices.append(Device(f"RPC{number}", "worker", "gpu", size, size, speed))
    ram = int(whole * dice.uniform(0.3, 2.0))
    cpu = Device("CPU", "cpu", "cpu", ram, ram, dice.choice([None, 60e9, 60e9]))
    return Machine((*devices, cpu), "cpu", 8, 8, ram, ram, 1 << 50, "linux", "x86_64")


def make_wishes(dice: random.Random, anatomy: Anatomy, machine: Machine) -> Wishes:
    wishes = Wishes(
        n_ctx=dice.choice([None, 512, 4096, 5000, 32768, 131072]),
        n_seq=dice.choice([1, 1, 1, 2, 4]),
        n_ubatch=dice.choice([None, None, None, 128, 512, 1024]),
        reserve_bytes=dice.choice([None, None, 0, 64 << 20]),
    )
    kv = dice.choice([None, None, "f16", "q8_0", "q4_0", "bf16"])
    wishes = replace(wishes, type_k=kv, type_v=kv)
    offload = [device for device in machine.devices if device.kind == "gpu"]
    if offload and dice.random() < 0.4:
        wishes = fix_something(dice, wishes, anatomy, offload)
    if dice.random() < 0.2:
        wishes = replace(wishes, ram_bytes=int(machine.ram_total_bytes * dice.uniform(0.3, 1)))
    if offload and dice.random() < 0.2:
        limit = int(offload[0].total_bytes * dice.uniform(0.2, 1))
        wishes = replace(wishes, vram=(Limit(dice.choice(["", offload[0].name]), limit),))
    return wishes


def fix_something(dice: random.Random, wishes: Wishes, anatomy: Anatomy, offload: Sequence[Device]) -> Wishes:
    n_layer = len(anatomy.layers)
    override = TensorOverride(rf"blk\.[0-{dice.randrange(1, 10)}]\.{EXPERTS}", dice.choice(["CPU", "RPC0"]))
    return dice.choice(
        [
            replace(wishes, n_gpu_layers=dice.randrange(n_layer + 2)),
            replace(wishes, n_cpu_moe=dice.randrange(n_layer + 1)),
            replace(wishes, tensor_overrides=(override,)),
            replace(wishes, tensor_split=tuple(float(dice.randrange(1, 5)) for _ in offload)),
            replace(wishes, devices=(offload[-1].name,)),
        ]
    )


# --- llama.cpp's answer -------------------------------------------------------------------------------------


class Allocators:
    """A process of llama_memory.py for each model that is asked about, one at a time."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    def ask(self, model: Model, settings: Settings) -> dict[str, int] | str:
        """Device -> bytes of weights, caches and compute buffers; or why llama.cpp refuses."""
        workers = [self._addresses[int(name[3:])] for name in settings.devices]
        numbers = {name: number for number, name in enumerate(settings.devices)}
        overrides = [
            (o.pattern, "CPU" if o.device == "CPU" else f"RPC{numbers[o.device]}")
            for o in settings.tensor_overrides
        ]
        question = asdict(settings) | {"workers": workers, "overrides": overrides}
        done = subprocess.run(
            [sys.executable, str(Path(__file__).parent / "llama_memory.py"), str(model.path)],
            input=json.dumps(question),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not done.stdout:
            return f"it ended: {done.stderr[-200:]}"
        answer = json.loads(done.stdout)
        if "error" in answer:
            return str(answer["error"])
        found: Counter[str] = Counter()
        for kind in ("weights", "context", "compute"):
            for name, n_bytes in answer[kind].items():
                found[settings.devices[int(name[3:])] if name.startswith("RPC") else name] += n_bytes
        return dict(found)


# --- other placements ---------------------------------------------------------------------------------------


def others(case: Case, plan: Plan) -> Iterator[Settings]:
    """Placements that a plan could have found, by brute force: layer counts times experts in RAM."""
    wishes, n_all = case.wishes, len(case.model.anatomy.layers) + 1
    base = replace(plan.settings, n_gpu_layers=0, tensor_split=(), tensor_overrides=wishes.tensor_overrides)
    base = replace(base, n_ubatch=wishes.n_ubatch or 128, devices=())
    kinds = ("q8_0", "f16") if wishes.type_k is None else (wishes.type_k,)
    for kind in kinds:
        yield from placements(case, replace(base, type_k=kind, type_v=kind), n_all)


def placements(case: Case, base: Settings, n_all: int) -> Iterator[Settings]:
    wishes = case.wishes
    named = wishes.devices or tuple(d.name for d in case.machine.devices if d.kind == "gpu")
    if not named or wishes.n_gpu_layers in (None, 0):
        yield base
    numbers = range(1, n_all + 1) if wishes.n_gpu_layers is None else [min(wishes.n_gpu_layers, n_all)]
    for n in numbers if named else ():
        for split in splits(named, n, wishes):
            offloaded = replace(base, devices=named, n_gpu_layers=n, tensor_split=split)
            yield from with_experts_in_ram(offloaded, wishes, n_all)


def splits(named: Sequence[str], n: int, wishes: Wishes) -> Iterator[tuple[float, ...]]:
    if len(named) == 1 or wishes.tensor_split:
        yield wishes.tensor_split if len(named) > 1 else ()
        return
    step = max(1, n // 8)
    yield from ((float(first), float(n - first)) for first in range(0, n + 1, step) if n)


def with_experts_in_ram(settings: Settings, wishes: Wishes, n_all: int) -> Iterator[Settings]:
    counts = [wishes.n_cpu_moe] if wishes.n_cpu_moe is not None else range(0, n_all + 4, 4)
    for count in counts:
        blocks = "|".join(str(block) for block in range(count))
        more = (TensorOverride(rf"blk\.({blocks})\.{EXPERTS}", "CPU"),) if count else ()
        yield replace(settings, tensor_overrides=(*settings.tensor_overrides, *more))


def overlooked(case: Case, plan: Plan) -> Settings | None:
    """A placement that fits although the plan says that none does."""
    budget = budget_of(plan)
    for settings in others(case, plan):
        try:
            memory = device_memory(case.model.anatomy, settings, case.machine.devices)
        except UsageError:
            continue
        if not budget.shortfalls(memory):
            return settings
    return None


# --- the table ----------------------------------------------------------------------------------------------


def check(case: Case, allocators: Allocators) -> tuple[str, str]:
    """What became of a case, and a line about it."""
    try:
        plan = make_plan(case.model.anatomy, case.machine, case.wishes)
    except UsageError as error:
        return "refused", error.message
    if not plan.fits:
        found = overlooked(case, plan)
        return ("overlooked", f"{found}") if found else ("does not fit", "")
    answer = allocators.ask(case.model, plan.settings)
    if isinstance(answer, str):
        return "llama.cpp refuses", answer.strip().splitlines()[-1] if answer.strip() else ""
    output = sum(row.output_bytes for row in plan.memory)
    used = answer | {"CPU": answer.get("CPU", 0) + output}
    over = budget_of(plan).missing(used)
    ours = {row.device: row.total_bytes for row in plan.memory}
    worst = max(used[name] / max(1, ours.get(name, 0)) - 1 for name in used)
    free = min(budget_of(plan).available[name] - n_bytes for name, n_bytes in used.items())
    line = f"llama.cpp takes {worst:+.2%} of the plan's bytes at most; least free {free / (1 << 20):,.0f} MiB"
    return ("too large", f"{line} {over}") if over else ("fits", line)


def describe(case: Case) -> str:
    wishes = case.wishes
    fixed = {
        name: value
        for name, value in asdict(replace(wishes, draft=None)).items()
        if value not in (None, (), 1)
    }
    sizes = " ".join(f"{d.name} {d.free_bytes / GIB:.2f}" for d in case.machine.devices)
    return f"{case.model.path.name} | {sizes} | {fixed}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("headers", type=Path)
    parser.add_argument("archs", type=Path, nargs="?")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    dice, counts = random.Random(asked.seed), Counter[str]()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moetool-plans-")))
        workers = [stack.enter_context(running_worker(folder)) for _ in range(2)]
        allocators = Allocators([worker.address for worker in workers])
        models = open_models(asked.headers, asked.archs, folder)
        for number in range(asked.cases):
            case = make_case(dice, models)
            try:
                outcome, line = check(case, allocators)
            except MoetoolError as error:
                outcome, line = "error", error.message
            counts[outcome] += 1
            print(f"{number:4} {outcome:18} {describe(case)}  {line}", flush=True)
    print(f"\n{asked.cases} cases over {len(models)} models:")
    for outcome, count in counts.most_common():
        print(f"  {outcome:18} {count:5}")
    return 1 if counts["too large"] or counts["overlooked"] or counts["error"] else 0


if __name__ == "__main__":
    sys.exit(main())
