"""moetool.memory against real loads over RPC: two workers on loopback, several splits of each architecture.

    test-llama-archs -o ARCHS_DIR        # llama.cpp's own test writes the files
    python scripts/check_rpc_memory.py ARCHS_DIR [NAME_BEGINS_WITH …]

Each file is loaded and allocated by llama.cpp (scripts/llama_memory.py, one process a file) as each of SPLITS
says. On every device weights, caches and states must be equal; its total must be within 3 % or 8 MiB.
Linux only, as llama_memory.py is.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moetool.anatomy import Anatomy, make_anatomy
from moetool.errors import UsageError
from moetool.gguf import open_header
from moetool.machine import Device
from moetool.memory import DeviceMemory, device_memory
from moetool.settings import Settings, TensorOverride

EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
EARLY_EXPERTS = r"blk\.[01]\.ffn_(up|down|gate|gate_up)_(ch|)exps"
NEAR, NEAR_BYTES = 0.03, 8 << 20
CPU = Device("CPU", "", "cpu", 1 << 40, 1 << 40)


@dataclass(frozen=True)
class Split:
    """Where the layers go: a part of them, shares of the workers, experts left on the CPU, and the caches."""

    name: str
    part: float
    shares: tuple[float, ...]
    experts: str = ""
    type_k: str = "f16"
    type_v: str = "f16"
    n_ctx: int = 4096
    n_ubatch: int = 512

    def settings(self, anatomy: Anatomy) -> Settings:
        return Settings(
            n_ctx=self.n_ctx,
            n_ubatch=self.n_ubatch,
            devices=tuple(f"RPC{i}" for i in range(len(self.shares))),
            n_gpu_layers=round(self.part * (len(anatomy.layers) + 1)),
            tensor_split=self.shares,
            tensor_overrides=(TensorOverride(self.experts, "CPU"),) if self.experts else (),
            type_k=self.type_k,
            type_v=self.type_v,
        )


SPLITS = (
    Split("half on one", 0.5, (1.0,)),
    Split("all on one", 1.0, (1.0,)),
    Split("all on two, 1:1", 1.0, (1.0, 1.0)),
    Split("all on two, 3:1, KV q8_0", 1.0, (3.0, 1.0), type_k="q8_0", type_v="q8_0"),
    Split("experts on the CPU", 1.0, (1.0,), EXPERTS, n_ctx=512),
    Split("mixed: part, 1:2, early experts, KV q8_0/q4_0", 0.7, (1.0, 2.0), EARLY_EXPERTS, "q8_0", "q4_0"),
    Split("long context, small batches, two", 1.0, (1.0, 1.0), n_ctx=32768, n_ubatch=128),
)


@dataclass(frozen=True)
class Result:
    """One device of one load: what is not equal, and by how much total and compute buffer are off."""

    where: str
    device: str
    unequal: tuple[str, ...]
    total_error: float
    compute_error: float
    off_bytes: int

    @property
    def is_far(self) -> bool:
        return abs(self.total_error) > NEAR and self.off_bytes > NEAR_BYTES


@contextmanager
def running_worker() -> Iterator[str]:
    """A worker of this machine's CPU on a free port of loopback: its address."""
    command = [sys.executable, "-m", "moetool", "worker", "--device", "CPU", "--port", "0", "-o", "json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout
    try:
        yield json.loads(process.stdout.readline())["data"]["address"]
    finally:
        process.kill()
        process.wait()


def ask_llama(path: Path, anatomy: Anatomy, workers: list[str]) -> list[dict[str, Any]]:
    """llama.cpp's figures for each of SPLITS, really allocated."""
    lines = [
        {
            "workers": workers[: len(split.shares)],
            "allocate": True,
            "n_gpu_layers": split.settings(anatomy).n_gpu_layers,
            "tensor_split": split.shares,
            "cpu_overrides": [split.experts] if split.experts else [],
            "type_k": split.type_k,
            "type_v": split.type_v,
            "n_ctx": split.n_ctx,
            "n_ubatch": split.n_ubatch,
        }
        for split in SPLITS
    ]
    script = Path(__file__).with_name("llama_memory.py")
    done = subprocess.run(
        [sys.executable, str(script), str(path)],
        input="\n".join(map(json.dumps, lines)),
        capture_output=True,
        text=True,
        timeout=600,
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if len(found) < len(lines):
        print(f"  llama.cpp ended at {SPLITS[len(found)].name!r}: {done.stderr.strip()[-200:]}")
    return found


def compare(path: Path, anatomy: Anatomy, split: Split, truth: dict[str, Any]) -> list[Result]:
    """One result for each device; none where both refuse."""
    where = f"{path.stem}: {split.name}"
    devices = [CPU, *(Device(f"RPC{i}", "", "gpu", 1 << 40, 1 << 40) for i in range(len(split.shares)))]
    try:
        memory = device_memory(anatomy, split.settings(anatomy), devices)
    except UsageError as error:
        return [] if "error" in truth else [Result(where, "", (f"we refuse: {error}",), 0, 0, 0)]
    if "error" in truth:
        return [Result(where, "", (f"llama.cpp refuses: {truth['error'].strip()}",), 0, 0, 0)]
    ours = {row.device: row for row in memory}
    names = [d.name for d in devices if d.name in ours or truth["weights"].get(d.name)]
    return [compare_device(where, name, ours.get(name), truth) for name in names]


def compare_device(where: str, name: str, ours: DeviceMemory | None, truth: dict[str, Any]) -> Result:
    ours = ours or DeviceMemory(name, 0, 0, 0, 0, 0)
    weights, caches, compute = (truth[key].get(name, 0) for key in ("weights", "context", "compute"))
    pairs = {
        "weights": (ours.weights_bytes, weights),
        "KV and state": (ours.kv_bytes + ours.state_bytes, caches),
    }
    unequal = [f"{what}: {mine} is not {true}" for what, (mine, true) in pairs.items() if mine != true]
    output = truth["output_about"] if name == "CPU" else 0
    if abs(ours.output_bytes - output) > 1 << 14:  # the log rounds to 0.01 MiB
        unequal.append(f"output: {ours.output_bytes} is not about {output}")
    total = weights + caches + compute + ours.output_bytes
    off = ours.total_bytes - total
    share = ours.compute_bytes / compute - 1 if compute else float(ours.compute_bytes > 0)
    return Result(where, name, tuple(unequal), off / max(total, 1), share, abs(off))


def faults(result: Result) -> tuple[str, ...]:
    """What is wrong with a result, in words."""
    if not result.is_far:
        return result.unequal
    shares = f"total {100 * result.total_error:+.1f} %, compute buffer {100 * result.compute_error:+.1f} %"
    return (*result.unequal, f"{shares}, {result.off_bytes / 2**20:.1f} MiB off")


def show_split(split: Split, results: list[Result]) -> None:
    here = [r for r in results if r.where.endswith(f": {split.name}")]
    if not here:
        print(f"{split.name:48}      0")
        return
    totals, compute = [abs(r.total_error) for r in here], [abs(r.compute_error) for r in here]
    worst, off = max((r.total_error for r in here), key=abs), max(r.off_bytes for r in here)
    unequal = sum(bool(r.unequal) for r in here)
    print(
        f"{split.name:48} {len(here):6} {unequal:9} {100 * statistics.median(totals):9.3f} "
        f"{100 * worst:+8.2f} {off / 2**20:8.2f} {100 * statistics.median(compute):10.3f}"
    )


def show(results: list[Result], n_files: int) -> None:
    head = ("split", "devices", "not equal", "median %", "worst %", "off MiB", "compute %")
    print("\n{:48} {:>6} {:>9} {:>9} {:>8} {:>8} {:>10}".format(*head))
    for split in SPLITS:
        show_split(split, results)
    totals = [abs(r.total_error) for r in results]
    n_loads = len({r.where for r in results})
    print(f"\n{n_files} files, {n_loads} loads, {len(results)} device totals")
    print(f"weights, KV or state not equal: {sum(bool(r.unequal) for r in results)}")
    print(f"total: median error {100 * statistics.median(totals):.3f} %, worst {100 * max(totals):.2f} %")
    print(f"off by more than {100 * NEAR:.0f} % and {NEAR_BYTES >> 20} MiB: {sum(r.is_far for r in results)}")


def main() -> int:
    begins = tuple(sys.argv[2:]) or ("",)
    files = sorted(path for path in Path(sys.argv[1]).glob("*.gguf") if path.stem.startswith(begins))
    results: list[Result] = []
    with ExitStack() as stack:
        workers = [stack.enter_context(running_worker()) for _ in range(2)]
        for path in files:
            anatomy = make_anatomy(open_header(path))
            truths = ask_llama(path, anatomy, workers)
            here = [
                r
                for split, truth in zip(SPLITS, truths, strict=False)
                for r in compare(path, anatomy, split, truth)
            ]
            results += here
            worst = max((r.total_error for r in here), key=abs, default=0.0)
            print(f"{path.stem:28} {len(here):3} devices, worst {100 * worst:+7.2f} %")
            for r in here:
                for what in faults(r):
                    print(f"    {r.where.partition(': ')[2]}, {r.device}: {what}")
    show(results, len(files))
    return 1 if any(r.unequal or r.is_far for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
