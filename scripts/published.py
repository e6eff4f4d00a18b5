"""Published speed results (DATA_DIR/measurements.csv) as `Work` and `Lane`s, for fit_speed.py.

A row names a model, a file and a machine; what each device reads follows from the model's shape
(published_models.py), the file's size and the split that the row states. A row that does not state enough is
refused with a reason, never completed by guessing.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from published_files import make_file, nominal_bits
from published_models import Shape, read_shapes
from published_work import Split, make_work

from moetool.speed import Lane, Load, Work, lane_kind

GIB = 1 << 30

# Bandwidths (GB/s) that the CSV leaves empty: the makers' data sheets.
_BANDWIDTH = {
    "RTX 4000 Ada": 360, "RTX 5000 Ada": 576, "RTX 6000 Ada": 960, "A40": 696, "A100 PCIe": 1935,
    "RTX PRO 6000 Blackwell": 1792, "RTX 3080 20GB": 760, "GTX 1050 Ti": 112, "RTX 4060 Laptop 8GB": 256,
    "PRO W7800": 576, "PRO W7900": 864, "RTX 5060 Ti 16GB": 448, "RTX 5070 Ti": 896, "RTX 3080": 760,
}  # fmt: skip
_VRAM = {"RTX 4070": 12, "RTX 3060": 12, "RTX 5080": 16, "RTX 5070 Ti + RTX 5060 Ti 16GB": 32, "T4": 16}


@dataclass(frozen=True)
class Row:
    """A usable result. `weight` says how far to trust it."""

    id: str
    hardware: str
    kind: str
    model: str
    quant: str
    split: str
    work: Work
    lanes: tuple[Lane, ...]
    load: Load
    decode_tok_s: float | None
    prompt_tok_s: float | None
    weight: float
    date: str


def read_rows(data: Path) -> tuple[list[Row], Counter[str]]:
    """The usable rows, and how many were refused for which reason."""
    shapes = read_shapes(data)
    sizes = read_sizes(data)
    rows: list[Row] = []
    refused: Counter[str] = Counter()
    with (data / "measurements.csv").open(newline="") as file:
        for record in csv.DictReader(file):
            made = make_row(record, shapes, sizes)
            if isinstance(made, str):
                refused[made] += 1
            else:
                rows.append(made)
    return rows, refused


def read_sizes(data: Path) -> dict[tuple[str, str], float]:
    """Published file sizes, in bytes, by model and quant."""
    found = {}
    for model in json.loads((data / "models.json").read_text()):
        for file in model.get("file_sizes", ()):
            size = file.get("bytes") or file["gib"] * GIB
            found[model["name"], file["quant"].removeprefix("UD-")] = float(size)
    return found


def make_row(
    record: Mapping[str, str], shapes: Mapping[str, Shape], sizes: Mapping[tuple[str, str], float]
) -> Row | str:
    """The row, or why it cannot be used."""
    reason = _why_not(record)
    if reason:
        return reason
    model = _model_name(record)
    if model not in shapes:
        return "shape of the model not known"
    size = _size_bytes(record, model, sizes, shapes[model])
    if not size:
        return "size of the file not stated, and no usual one"
    lanes = _lanes(record)
    if lanes is None:
        return "bandwidth of the device not known"
    split = _split(record, shapes[model], size)
    if split is None:
        return "split between devices not stated, or larger than the memory"
    shape, file = shapes[model], make_file(shapes[model], record["quant"], size, record["date"])
    kv_bytes = {"q8_0": 34 / 32, "q4_0": 18 / 32}.get(record["kv_type"], 2.0)
    work = make_work(shape, file, split, lanes, kv_bytes)
    if len({share.device for share in work.devices}) > len(lanes):
        return "bandwidth of the RAM not known"
    if _beats_memory(record, work, lanes):
        return "faster than the memory could be read: another model, or speculation"
    return Row(
        id=record["id"],
        hardware=_hardware(record["gpu"]),
        kind=lanes[0].kind,
        model=model,
        quant=record["quant"],
        split=split.name,
        work=work,
        lanes=lanes,
        load=_load(record),
        decode_tok_s=_number(record["tg_tps"]),
        prompt_tok_s=_number(record["pp_tps"]) if (_number(record["pp_n"]) or 0) >= 256 else None,
        weight=_weight(record),
        date=record["date"],
    )


_FORKS = re.compile(r"turboquant|tqp|fork|beellama|dflash|\bMTP\b|draft", re.IGNORECASE)


def _why_not(record: Mapping[str, str]) -> str:
    engine = record["engine"]
    note = record["notes"] + " " + record["build"]
    checks = (
        (not engine.startswith("llama.cpp") or " or " in engine, "other engine"),
        ("fork" in engine or bool(_FORKS.search(note)) and "no_MTP" not in note, "fork or speculation"),
        (not record["spec_decode"].startswith("no"), "fork or speculation"),
        ("not stated" in record["gpu"].lower() or "not recorded" in record["gpu"], "hardware not stated"),
        (not record["gpu"], "CPU only, bandwidth not stated"),
        ("nkvo" in record["notes"], "caches kept in RAM"),
        ("spill" in record["notes"] or "UNIFIED_MEMORY" in record["notes"], "model larger than the memory"),
        ("tensor parallel" in note or "-sm tensor" in note, "other way to split"),
        (not _number(record["tg_tps"]) and not _number(record["pp_tps"]), "no speed"),
    )
    return next((reason for failed, reason in checks if failed), "")


# How results begin the names of models that they state without a key.
_LIKE = {
    "Llama-2-7B": ("llama-2-7b", "llama 7b"),
    "Mistral-7B": ("mistral-7b",),
    "Llama-3.1-8B": ("deepseek-r1-distill-llama-8b", "deepseek-r1-distill-llama"),
    "Mistral-Nemo-12B": ("mistral-nemo",),
    "Ministral-3-14B": ("ministral-3-14b",),
    "qwen2 7B": ("qwen2 7b",),
    "Qwen2.5-14B": ("qwen2.5-14b",),
    "Qwen2.5-32B": ("qwen2.5-32b",),
    "Qwen3-14B": ("qwen3-14b",),
    "Qwen3-32B": ("qwen3-32b",),
    "GLM-Z1-32B": ("glm-z1-32b",),
    "glm-4-9b": ("glm-4-9b",),
    "Phi-4-mini": ("microsoft_phi-4-mini",),
    "gemma3 4B": ("gemma3 4b", "gemma-3-4b"),
    "gemma-3-12b": ("gemma-3-12b",),
    "GLM-4.7-Flash": ("glm-4.7-flash", "deepseek2 30b", "zai-org_glm-4.7-flash"),
    "MiniMax-M2.7": ("minimax-m2.7",),
    "Qwen3-Coder-Next": ("qwen3-coder-next",),
    "dots.llm1": ("dots.llm1",),
    "Llama-4-Scout": ("llama-4-scout",),
    "Hunyuan-A13B": ("hunyuan-a13b",),
}


def _model_name(record: Mapping[str, str]) -> str:
    if record["model_key"]:
        return record["model_key"]
    name = record["model"].lower()
    return next((key for key, starts in _LIKE.items() if name.startswith(starts)), record["model"])


def _size_bytes(
    record: Mapping[str, str], model: str, sizes: Mapping[tuple[str, str], float], shape: Shape
) -> float:
    if record["file_size_gib"]:
        return float(record["file_size_gib"]) * GIB
    quant = record["quant"].removeprefix("UD-").split(" ")[0]
    if (model, quant) in sizes:
        return sizes[model, quant]
    return shape.total * 1e9 * (nominal_bits(record["quant"]) or 0.0) / 8


def _hardware(gpu: str) -> str:
    name = re.sub(r"\(.*\)|NVIDIA|GeForce|AMD|Radeon|Apple M\d (?=M\d)|\d+.Core GPU", " ", gpu)
    return " ".join(name.replace("Apple", " ").split()) or gpu


def _lanes(record: Mapping[str, str]) -> tuple[Lane, ...] | None:
    """The GPUs, then the CPU where its bandwidth is stated."""
    gpus = [name.strip() for name in record["gpu"].split(" + ")]
    kind = _kind(record)
    lanes = []
    for i in range(max(len(gpus), int(record["n_gpu"] or 1))):
        name = gpus[min(i, len(gpus) - 1)]
        bandwidth = _gpu_bandwidth(record, name, len(gpus) > 1)
        if not bandwidth:
            return None
        lanes.append(Lane(f"GPU{i}", kind, 1e9 * bandwidth))
    ram = _ram_bandwidth(record["ram_bw_gbs"])
    if ram:
        threads = int(record["threads"] or 8)
        lanes.append(Lane("CPU", "cpu", 1e9 * ram[0], measured=ram[1], n_threads=threads))
    return tuple(lanes)


def _gpu_bandwidth(record: Mapping[str, str], name: str, many: bool) -> float | None:
    if record["gpu_bw_gbs_spec"] and not many:
        return float(record["gpu_bw_gbs_spec"])
    return _BANDWIDTH.get(_hardware(name))


def _ram_bandwidth(text: str) -> tuple[float, bool] | None:
    """GB/s, and whether it was measured ("225-250 (mlc, author)")."""
    match = re.match(r"~?([\d.]+)(?:-([\d.]+))?", text)
    if not match:
        return None
    low, high = float(match[1]), float(match[2] or match[1])
    return (low + high) / 2, "(" in text


def _kind(record: Mapping[str, str]) -> str:
    gpu, backend = record["gpu"], record["backend"].lower()
    if gpu.startswith("Apple"):
        return "metal"
    if "vulkan" in backend or "Intel" in gpu:
        return "vulkan"
    if "rocm" in backend or "hip" in backend:
        return "rocm"
    if re.search(r"RX \d|Radeon|W7\d00|8060S", gpu):
        return "rocm" if not backend else "vulkan"
    return lane_kind("CUDA0", gpu)


def _split(record: Mapping[str, str], shape: Shape, size: float) -> Split | None:
    if record["override_tensor"]:
        return _split_by_pattern(record["override_tensor"], shape)
    if record["n_cpu_moe"]:
        text = record["n_cpu_moe"]
        if text.startswith("all"):
            return Split(n_cpu_moe=shape.n_moe)
        return Split(n_cpu_moe=min(int(text), shape.n_moe)) if text.isdigit() else None
    ngl = record["ngl"]
    if ngl.isdigit() and int(ngl) <= shape.n_layer:
        return Split(n_cpu_layers=shape.n_layer + 1 - int(ngl))
    if not ngl and record["n_cpu_moe"] == "" and not _fits(record, size):
        return None
    return Split() if _fits(record, size) else None


def _split_by_pattern(pattern: str, shape: Shape) -> Split | None:
    """Only patterns whose meaning the CSV spells out ("layers 14-93 …")."""
    match = re.search(r"layers (\d+)-(\d+) (?:ffn|experts) on CPU", pattern)
    if pattern == "exps=CPU":
        return Split(n_cpu_moe=shape.n_moe)
    return Split(n_cpu_moe=int(match[2]) - int(match[1]) + 1) if match else None


def _fits(record: Mapping[str, str], size: float) -> bool:
    vram = re.match(r"[\d.]+", record["vram_gb"])
    gib = float(vram[0]) if vram else _VRAM.get(_hardware(record["gpu"]), 0)
    if " + " in record["gpu"]:
        return size < 31 * GIB
    n_gpu = int(record["n_gpu"] or 1)
    # A discrete card also holds caches and buffers, and a screen: a file this large did not fit beside them.
    return not gib or size < 0.92 * n_gpu * gib * GIB


def _beats_memory(record: Mapping[str, str], work: Work, lanes: tuple[Lane, ...]) -> bool:
    bandwidth = {lane.device: lane.bandwidth_bytes_s or 0.0 for lane in lanes}
    least_s = sum(read.n_bytes / bandwidth[share.device] for share in work.devices for read in share.reads)
    return least_s * (_number(record["tg_tps"]) or 0.0) > 1.05


def _load(record: Mapping[str, str]) -> Load:
    depth = _number(record["depth"]) or 0
    # Submissions state the prompt's length as depth; the answer then starts behind it.
    n_prompt = int(_number(record["pp_n"]) or 512)
    n_ubatch = int(_number(record["ubatch"]) or 512)
    if "longctx" in record["source"]:
        n_ubatch = 2048
    return Load(n_prompt=max(1, n_prompt), n_ubatch=n_ubatch, depth=int(depth))


def _weight(record: Mapping[str, str]) -> float:
    weight = {"high": 1.0, "medium": 0.7}.get(record["confidence"], 0.4)
    return weight * (0.4 if record["date"][:4] in ("2023", "2024") or "OLD" in record["notes"] else 1.0)


def _number(text: str) -> float | None:
    try:
        return float(text) or None
    except ValueError:
        return None
