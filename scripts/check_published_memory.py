"""How near moetool.memory comes to published load logs of real models: a table over memory.csv.

    python scripts/check_published_memory.py DATA_DIR

DATA_DIR has memory.csv (rows of devices, several of them one load) and headers/*.hdr. A figure is compared
where all that it follows from is stated: caches and output need the model's shape (a header of it, in any
quant), context and cache types; weights need the same quant and a placement told in full. Every figure that
is not compared is counted with its reason. Compute buffers are not: the builds of these logs kept masks of 4
bytes a cell (the 272 MiB logged of GLM-4.6V are 1024 x (4 x 65536 + 4 x 4096) bytes), today's keep 2;
check_memory.py holds them to today's llama.cpp. Forks keep the same caches, and are shown apart.
"""

from __future__ import annotations

import csv
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from moetool.anatomy import Anatomy, make_anatomy
from moetool.errors import UsageError
from moetool.gguf import open_header
from moetool.machine import Device
from moetool.memory import DeviceMemory, device_memory
from moetool.settings import Settings, TensorOverride

Row = dict[str, str]

CPU = Device("CPU", "", "cpu", 1 << 40, 1 << 40)
HOST = ("CPU", "Host", "AMX", "_Host", "_Mapped")
EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"

# Names in the logs -> the header of the same shape; the first that matches.
SHAPES = (
    (r"deepseek[- ](r1|v3)", "DeepSeek-V3.1"),
    (r"qwen3-vl-235b|qwen3[ -]235b", "Qwen3-235B-A22B"),
    (r"qwen3[ -]30b", "Qwen3-30B-A3B"),
    (r"qwen3\.[56x][ -]35b", "Qwen3.5-35B-A3B"),
    (r"qwen3\.[5-8](/3\.6)?[ -]27b", "Qwen3.6-27B"),
    (r"qwen3\.5[ -]397b", "Qwen3.5-397B-A17B"),
    (r"glm[- ]4\.5[ -]air|glm-4\.6v", "GLM-4.5-Air"),
    (r"gemma-3-27b", "Gemma-3-27B"),
    (r"gemma[ -]4[ -]31b", "Gemma-4-31B"),
    (r"llama_3\.1_8b", "Llama-3.1-8B"),
    (r"gpt-oss-20b", "gpt-oss-20b"),
    (r"olmoe-1b-7b", "OLMoE-1B-7B"),
)
# What a log calls a quant -> the header's.
QUANTS = (
    (r"^Q(\d)_K - Medium$|^Q(\d)_K_M\b", "Q{}_K_M"),
    (r"^Q6_K$", "Q6_K"),
    (r"^Q8_0$", "Q8_0"),
    (r"^MXFP4$", "MXFP4"),
    (r"^B?F16$|^bf16 recipe", "BF16"),
)
# Why a figure is off that could be compared: what is known about the log beyond its columns.
EXPLAINED = {
    ("108", "weights, host"): "an AMX build: matrices repacked beside the mapped file, which is equal",
    ("108", "output"): "equals four sequences; the log does not say how many",
    ("483", "caches"): "equals a q8_0 cache (583 MiB); the log's column says q4_0",
    ("546", "caches"): "perhaps the cache and states of a draft by its MTP layer: the log does not say",
}
# The published file need not be the header's to the byte: sizes in logs have two or three decimals.
SAME_FILE = 0.002
NEAR = 0.02


@dataclass(frozen=True)
class Figure:
    """A figure of a log: what was logged, and the prediction or why there is none."""

    load: str
    what: str
    logged_mib: float
    predicted_mib: float | None = None
    reason: str = ""

    @property
    def error(self) -> float:
        return (self.predicted_mib or 0.0) / self.logged_mib - 1


@dataclass(frozen=True)
class Load:
    """One load: its rows, one a device."""

    rows: tuple[Row, ...]

    @property
    def first(self) -> Row:
        return self.rows[0]

    @property
    def is_fork(self) -> bool:
        return "fork" in self.first["engine"]

    @property
    def name(self) -> str:
        row = self.first
        return f"{row['id']} {row['model'][:28]} {row['quant'][:12]} n_ctx {row['n_ctx']} {row['kv_type']}"

    @property
    def notes(self) -> str:
        return " ".join(row["notes"] for row in self.rows)

    @property
    def gpus(self) -> list[Row]:
        return [row for row in self.rows if not is_host(row)]

    def sum_of(self, *columns: str) -> float:
        return sum(number(row[column]) for row in self.rows for column in columns)


def is_host(row: Row) -> bool:
    return row["device"].startswith(HOST[:3]) or row["device"].endswith(HOST[3:])


def number(text: str) -> float:
    found = re.match(r"[\d.]+", text)
    return float(found[0]) if found else 0.0


def read_loads(path: Path) -> list[Load]:
    """Rows that follow each other and state the same load."""
    same = ("source", "model", "quant", "n_ctx", "n_ubatch", "kv_type", "offload", "mla")
    loads: list[list[Row]] = []
    with path.open(newline="") as stream:
        for row in csv.DictReader(stream):
            before = loads[-1][-1] if loads else None
            twice = before and row["device"] in {other["device"] for other in loads[-1]}
            if before and not twice and all(row[key] == before[key] for key in same):
                loads[-1].append(row)
            else:
                loads.append([row])
    return [Load(tuple(rows)) for rows in loads]


# --- what a log says ----------------------------------------------------------------------------------------


def shape_of(load: Load) -> str:
    name = load.first["model"].lower()
    return next((shape for pattern, shape in SHAPES if re.search(pattern, name)), "")


def header_quant(load: Load) -> str:
    for pattern, quant in QUANTS:
        if found := re.search(pattern, load.first["quant"]):
            return quant.format(next((group for group in found.groups() if group), ""))
    return ""


@cache
def load_header(path: Path) -> Anatomy:
    return make_anatomy(open_header(path))


def cache_types(load: Load) -> tuple[str, str]:
    """The types that the log's own line names, else those of the column."""
    said = re.search(r"(?:c\^KV|K) \((\w+)\)(?:.*?\bV \((\w+)\))?", load.notes)
    if said:
        return said[1], said[2] or said[1]
    types = (load.first["kv_type"] or "f16").split("/")
    return types[0], types[-1]


def settings_of(load: Load) -> Settings:
    row = load.first
    type_k, type_v = cache_types(load)
    return Settings(
        n_ctx=int(number(row["n_ctx"])),
        n_seq=max(1, int(number(row["n_seq"]))),
        type_k=type_k,
        type_v=type_v,
        n_batch=max(2048, int(number(row["n_ubatch"]))),
        n_ubatch=int(number(row["n_ubatch"]) or 512),
        flash_attn=row["flash_attn"] != "0",
        kv_unified="unified" in row["n_seq"],
        swa_full=load.is_fork,  # ik_llama.cpp has no sliding caches
    )


def placed(load: Load, settings: Settings, n_layer: int) -> Settings | None:
    """The settings with the load's placement, None where it is not one that a few words tell."""
    told = load.first["offload"]
    if not load.gpus:
        return settings
    if len(load.gpus) > 1:
        return None
    settings = replace(settings, devices=(load.gpus[0]["device"],))
    everything = replace(settings, n_gpu_layers=n_layer + 1)
    if re.fullmatch(r"(layers offloaded )?(\d+)/\2|all|", told):
        return None if _has_experts_in_ram(load) else everything
    if found := re.fullmatch(r"(?:layers offloaded )?(\d+)/(\d+)", told):
        return replace(settings, n_gpu_layers=int(found[1]))
    if found := re.match(r"-ngl (\d+), experts of layers (\d+)-(\d+) on CPU", told):
        layers = "|".join(map(str, range(int(found[2]), int(found[3]) + 1)))
        experts = TensorOverride(rf"blk\.({layers}){EXPERTS}", "CPU")
        return replace(settings, n_gpu_layers=int(found[1]), tensor_overrides=(experts,))
    if re.search(r"-ot exps=CPU$|^all experts on CPU", told):
        return replace(everything, tensor_overrides=(TensorOverride(EXPERTS, "CPU"),))
    return None


# --- figures ------------------------------------------------------------------------------------------------


def figures(load: Load, headers: Path) -> Iterator[Figure]:
    """Everything that the load's rows state, compared or not."""
    yield from (_figure(load, *stated, headers) for stated in _stated(load))


def _stated(load: Load) -> Iterator[tuple[str, float]]:
    """What is stated, and how many MiB."""
    caches = tuple(r for r in load.rows if any(r[c] for c in ("kv_mib", "rs_mib", "context_mib")))
    if caches:
        said = re.search(r"(?:KV self|unified:) size\s*=\s*([\d.]+)", load.notes)
        # Devices may be left out of the rows, and states of what the line calls KV.
        total = max(float(said[1]) if said else 0.0, load.sum_of("kv_mib", "rs_mib", "context_mib"))
        if total:
            yield "caches", total
    for side in ("host", "device"):
        weights = tuple(r for r in load.rows if r["model_mib"] and is_host(r) == (side == "host"))
        if weights:
            yield f"weights, {side}", sum(number(row["model_mib"]) for row in weights)
    for row in load.rows:
        side = "host" if is_host(row) else "device"
        if row["compute_mib"]:
            yield f"compute, {side}", number(row["compute_mib"])
        if row["output_mib"]:
            yield "output", number(row["output_mib"])
        if row["self_mib"] and not (row["model_mib"] or row["context_mib"]):
            yield "all of the VRAM", number(row["self_mib"])


def _figure(load: Load, what: str, mib: float, headers: Path) -> Figure:
    figure = Figure(load.name, what, mib)
    reason = _not_comparable(load, what)
    if reason:
        return replace(figure, reason=reason)
    shape, quant = shape_of(load), header_quant(load)
    path = headers / f"{shape}-{quant}.gguf.hdr"
    if what.startswith("weights") and not path.exists():
        return replace(figure, reason="weights: no header of this quant")
    path = path if path.exists() else next(iter(sorted(headers.glob(f"{shape}-*.hdr"))))
    predicted = _predict(load, what, load_header(path))
    if isinstance(predicted, str):
        return replace(figure, reason=predicted)
    return replace(figure, predicted_mib=predicted)


def _not_comparable(load: Load, what: str) -> str:
    row = load.first
    checks = (
        ("not named" in row["model"] or row["model"] in {"n/a", ""}, "the model is not named"),
        (not shape_of(load), "no header of this shape"),
        (what == "all of the VRAM", "VRAM by nvidia-smi: driver and other programs are in it"),
        (not what.startswith("weights") and not number(row["n_ctx"]), "the context length is not stated"),
        (
            what == "caches" and "left out" in load.notes and "KV self" not in load.notes,
            "devices left out",
        ),
        ("turbo" in row["kv_type"], "a cache type of a fork"),
        (load.is_fork and what.startswith(("compute", "output")), "compute and output of a fork's own graph"),
        (what.startswith("compute"), "compute of an older build's graph"),
        (what == "caches" and _keeps_all_heads(load), "DeepSeek before MLA: keys and values of every head"),
        (what == "caches" and "rollback" in load.notes, "states for speculative rollback"),
    )
    return next((reason for holds, reason in checks if holds), "")


def devices_of(load: Load) -> list[Device]:
    return [CPU, *(Device(row["device"], "", "gpu", 1 << 40, 1 << 40) for row in load.gpus)]


def _has_experts_in_ram(load: Load) -> bool:
    """Whether more lies in RAM than an embedding."""
    in_ram = sum(number(row["model_mib"]) for row in load.rows if is_host(row))
    return in_ram > load.sum_of("model_mib") / 10


def _keeps_all_heads(load: Load) -> bool:
    return load.first["arch"] == "deepseek2" and bool(re.search(r"\bV \(\w+\): +[1-9]", load.notes))


def _predict(load: Load, what: str, anatomy: Anatomy) -> float | str:
    """MiB, or why there is no prediction."""
    settings = settings_of(load)
    if what.startswith("weights"):
        size = re.match(r"([\d.]+) GiB", load.first["file_size"])
        gib = float(size[1]) if size else load.sum_of("model_mib") / 1024
        if abs(anatomy.weights_bytes / 2**30 / gib - 1) > SAME_FILE:
            return "weights: another file of this quant"
    layout = placed(load, settings, len(anatomy.layers))
    if layout is None and what not in {"caches", "output"}:
        return "several GPUs, or a placement that is not told in full"
    try:
        memory = device_memory(anatomy, layout or settings, devices_of(load) if layout else [CPU])
    except UsageError as error:
        return f"refused: {error.message}"
    return _read_off(what, memory) / 2**20


def _read_off(what: str, memory: Sequence[DeviceMemory]) -> int:
    if what == "caches":
        return sum(m.kv_bytes + m.state_bytes for m in memory)
    if what == "output":
        return sum(m.output_bytes for m in memory)
    return sum(m.weights_bytes for m in memory if (m.device == "CPU") == what.endswith("host"))


# --- tables -------------------------------------------------------------------------------------------------


def show(title: str, found: Sequence[Figure]) -> None:
    compared = [f for f in found if f.predicted_mib is not None]
    print(f"\n{title}: {len(found)} figures stated, {len(compared)} compared")
    print(f"{'figure':18} {'stated':>7} {'compared':>9} {'median %':>9} {'worst %':>9} {'> 2 %':>6}")
    for what in (*sorted({f.what for f in found}), "all"):
        here = [f for f in found if what in (f.what, "all")]
        errors = [f.error for f in here if f.predicted_mib is not None]
        if not errors:
            print(f"{what:18} {len(here):7} {0:9}")
            continue
        median, worst = statistics.median(map(abs, errors)), max(errors, key=abs)
        n_far = sum(abs(error) > NEAR for error in errors)
        print(f"{what:18} {len(here):7} {len(errors):9} {100 * median:9.3f} {100 * worst:+9.2f} {n_far:6}")


def show_far(found: Sequence[Figure]) -> None:
    print(f"\nOff by more than {100 * NEAR:.0f} %:")
    for f in found:
        if f.predicted_mib is not None and abs(f.error) > NEAR:
            figures = f"{f.logged_mib:10.2f} {f.predicted_mib:10.2f} {100 * f.error:+8.2f} %"
            print(f"{f.load:66} {f.what:16} {figures}")
            print(f"    {EXPLAINED.get((f.load.split()[0], f.what), 'not explained')}")


def show_left_out(found: Sequence[Figure]) -> None:
    print("\nNot compared:")
    for reason, count in Counter(f.reason for f in found if f.reason).most_common():
        print(f"{count:5}  {reason}")


def main() -> int:
    data = Path(sys.argv[1])
    loads = read_loads(data / "memory.csv")
    found = [(load, list(figures(load, data / "headers"))) for load in loads]
    n_rows = sum(len(load.rows) for load in loads)
    used = sum(len(load.rows) for load, here in found if any(f.predicted_mib is not None for f in here))
    print(f"{n_rows} rows, {len(loads)} loads; {used} rows are of loads of which something can be compared")
    mainline = [f for load, here in found if not load.is_fork for f in here]
    forks = [f for load, here in found if load.is_fork for f in here]
    show("llama.cpp", mainline)
    show("forks", forks)
    show_far([*mainline, *forks])
    show_left_out([*mainline, *forks])
    errors = [abs(f.error) for f in (*mainline, *forks) if f.predicted_mib is not None]
    return 0 if statistics.median(errors) <= NEAR else 1


if __name__ == "__main__":
    sys.exit(main())
