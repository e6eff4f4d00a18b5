"""How near moetool.memory comes to what llama.cpp allocates: a table over memory_truth.csv.

    python scripts/check_memory.py DATA_DIR

DATA_DIR has memory_truth.csv and headers/*.hdr. Weights, caches and states must be equal on every device;
the compute buffers are near, and how near is shown by model and device.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from moetool.anatomy import Anatomy, make_anatomy
from moetool.errors import UsageError
from moetool.gguf import open_header
from moetool.machine import Device
from moetool.memory import DeviceMemory, device_memory
from moetool.settings import Settings, TensorOverride

ALL_EXPERTS = TensorOverride(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps", "CPU")
CPU = Device("CPU", "", "cpu", 1 << 40, 1 << 40)
WORKER = Device("RPC0", "", "gpu", 1 << 40, 1 << 40)


@cache
def load(path: Path) -> Anatomy:
    return make_anatomy(open_header(path))


def settings_of(row: dict[str, str], anatomy: Anatomy) -> Settings:
    """The settings of a row; how its `device` column is meant is said in the data's own notes."""
    n_layer = len(anatomy.layers)
    layers = {"cpu": 0, "rpc": n_layer + 1, "rpc-half": n_layer // 2, "rpc-moe": n_layer + 1}
    return Settings(
        n_ctx=int(row["n_ctx"]),
        n_seq=int(row["n_seq_max"]),
        devices=() if row["device"] == "cpu" else ("RPC0",),
        n_gpu_layers=layers[row["device"]],
        tensor_overrides=(ALL_EXPERTS,) if row["device"] == "rpc-moe" else (),
        type_k=row["type_k"],
        type_v=row["type_v"],
        n_ubatch=int(row["n_ubatch"]),
        n_outputs_max=int(row["n_outputs_max"]),
        flash_attn=row["flash_attn"] != "off",
        kv_unified=row["kv_unified"] == "1",
        swa_full=row["swa_full"] == "1",
        load_mtp=row["load_mtp"] == "1",
    )


def by_device(text: str) -> dict[str, int]:
    """JSON of buffers -> bytes by device: the CPU's several kinds of buffers as one, zeros left out."""
    found: Counter[str] = Counter()
    for name, n_bytes in json.loads(text).items():
        found["CPU" if name.startswith("CPU") else name.split("[")[0]] += n_bytes
    return {name: n_bytes for name, n_bytes in found.items() if n_bytes}


def predict(row: dict[str, str], anatomy: Anatomy) -> tuple[DeviceMemory, ...]:
    return device_memory(
        anatomy, settings_of(row, anatomy), [CPU] if row["device"] == "cpu" else [CPU, WORKER]
    )


def inexact(row: dict[str, str], memory: Iterable[DeviceMemory]) -> list[str]:
    """What should be equal to the byte and is not."""
    memory = list(memory)
    caches = {m.device: m.kv_bytes + m.state_bytes for m in memory if m.kv_bytes + m.state_bytes}
    equal = {
        "weights": {m.device: m.weights_bytes for m in memory if m.weights_bytes}
        == by_device(row["weights_loaded_by_device"]),
        "kv": sum(m.kv_bytes for m in memory) == int(row["kv_bytes"]),
        "state": sum(m.state_bytes for m in memory) == int(row["rs_bytes"]),
        "kv + state by device": caches == by_device(row["context_bytes_by_device"]),
    }
    return [name for name, is_equal in equal.items() if not is_equal]


def compute_errors(row: dict[str, str], memory: Iterable[DeviceMemory]) -> dict[str, float]:
    """Device -> relative error of its compute buffer."""
    ours = {m.device: m.compute_bytes for m in memory}
    truth = by_device(row["compute_bytes_by_device"])
    return {name: ours.get(name, 0) / n_bytes - 1 for name, n_bytes in truth.items()}


def kind_of(row: dict[str, str]) -> str:
    outputs = "one output" if row["n_outputs_max"] == "1" else "all outputs"
    return f"flash attention {'off' if row['flash_attn'] == 'off' else 'on'}, {outputs}"


def show(title: str, errors: list[float]) -> None:
    sizes = [abs(e) for e in errors]
    worst = max(errors, key=abs)
    far = sum(size > 0.02 for size in sizes)
    print(
        f"{title:58} {len(sizes):5} {100 * statistics.median(sizes):9.3f} {100 * worst:+9.2f} {far:5} "
        f"{sum(size > 0.08 for size in sizes):5}"
    )


def check_refusal(row: dict[str, str], anatomy: Anatomy) -> bool:
    try:
        predict(row, anatomy)
    except UsageError:
        return True
    return False


def main() -> int:
    data = Path(sys.argv[1])
    exact, refused, wrong = 0, 0, []
    errors: dict[str, list[float]] = {}
    per_model: dict[str, list[float]] = {}
    with (data / "memory_truth.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row.get("ctx_type", "default") == "default"]
    for row in rows:
        anatomy = load(data / "headers" / f"{row['model']}-{row['quant']}.gguf.hdr")
        name = f"{row['model']} {row['quant']} {row['device']} n_ctx {row['n_ctx']}"
        if row.get("load_ok", "1") != "1":
            refused += check_refusal(row, anatomy)
            continue
        memory = predict(row, anatomy)
        bad = inexact(row, memory)
        exact += not bad
        wrong += [f"{name}: {what}" for what in bad]
        for error in compute_errors(row, memory).values():
            errors.setdefault(kind_of(row), []).append(error)
            if kind_of(row) == "flash attention on, one output":
                per_model.setdefault(f"{row['model']} {row['device']}", []).append(error)
    print(
        f"{len(rows)} rows: {exact} with exact weights, KV and state on every device, "
        f"{refused} refused by both"
    )
    print(*wrong, sep="\n")
    print(f"{'compute buffers':58} {'n':>5} {'median %':>9} {'worst %':>9} {'> 2 %':>5} {'> 8 %':>5}")
    for title in sorted(per_model):
        show(title, per_model[title])
    for title in sorted(errors):
        show(title, errors[title])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
