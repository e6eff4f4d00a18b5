"""Published speed results (DATA_DIR/measurements.csv) as `Work` and `Lane`s, for fit_speed.py.

A row names a model, a file and a machine; what each device reads follows from the model's shape
(models.json, or SHAPES below), the file's size and the split that the row states. A row that does not state
enough is refused with a reason, never completed by guessing.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moetool.speed import Cache, DeviceWork, Lane, Load, Read, Work, lane_kind

GIB = 1 << 30


# --- models -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """Caches of one kind: on how many layers, values per token (K and V together), the window (0: none),
    and query heads × head size, for the operations."""

    n_layers: int
    values: int
    window: int
    queries: int


@dataclass(frozen=True)
class Shape:
    """A model. Parameters in billions: `output` (read, too, when tied), `looked_up` (never read whole),
    `routed` experts, of which `used` of `experts` take part; the rest is always read."""

    n_layer: int
    n_embd: int
    total: float
    output: float
    looked_up: float
    caches: tuple[Rows, ...]
    n_recurrent: int = 0
    state_bytes: float = 0.0
    n_moe: int = 0
    routed: float = 0.0
    experts: int = 1
    used: int = 1

    @property
    def always(self) -> float:
        return self.total - self.looked_up - self.routed - self.output


def dense(n_layer: int, n_embd: int, heads: tuple[int, int, int], vocabulary: int, total: float) -> Shape:
    """A plain transformer; `heads` are query heads, key/value heads and their size."""
    n_head, n_kv, size = heads
    output = n_embd * vocabulary / 1e9
    rows = Rows(n_layer, 2 * n_kv * size, 0, n_head * size)
    return Shape(n_layer, n_embd, total, output, output, (rows,))


def tied(shape: Shape) -> Shape:
    """The embedding is the output matrix: nothing is only looked up."""
    return replace(shape, looked_up=0.0)


def sliding(shape: Shape, n_full: int, window: int) -> Shape:
    """All but `n_full` layers look at the last `window` tokens only."""
    rows = shape.caches[0]
    caches = (replace(rows, n_layers=n_full), replace(rows, n_layers=rows.n_layers - n_full, window=window))
    return replace(shape, caches=caches)


# Models that models.json lacks or leaves incomplete: layers, widths, heads, vocabulary, parameters, from
# their configuration files and llama.cpp's own print of the parameters.
_MLA = Rows(47, 576, 0, 20 * 576)
_MINIMAX = dense(62, 3072, (48, 8, 128), 200064, 228.69)
_NEMOTRON = dense(88, 4096, (32, 2, 128), 131072, 120.67)
SHAPES = {
    "Llama-2-7B": dense(32, 4096, (32, 32, 128), 32000, 6.74),
    "Mistral-7B": dense(32, 4096, (32, 8, 128), 32768, 7.25),
    "Mistral-Nemo-12B": dense(40, 5120, (32, 8, 128), 131072, 12.25),
    "Ministral-3-14B": dense(40, 5120, (32, 8, 128), 131072, 13.51),
    "qwen2 7B": dense(28, 3584, (28, 4, 128), 152064, 7.62),
    "Qwen2.5-14B": dense(48, 5120, (40, 8, 128), 152064, 14.77),
    "Qwen2.5-32B": dense(64, 5120, (40, 8, 128), 152064, 32.76),
    "Qwen3-14B": dense(40, 5120, (40, 8, 128), 151936, 14.77),
    "Qwen3-32B": dense(64, 5120, (64, 8, 128), 151936, 32.76),
    "GLM-Z1-32B": dense(61, 6144, (48, 2, 128), 151552, 32.57),
    "glm-4-9b": dense(40, 4096, (32, 2, 128), 151552, 9.40),
    "Phi-4-mini": tied(dense(32, 3072, (24, 8, 128), 200064, 3.84)),
    "gemma3 4B": sliding(tied(dense(34, 2560, (8, 4, 256), 262144, 3.88)), 5, 1024),
    "gemma-3-12b": sliding(tied(dense(48, 3840, (16, 8, 256), 262144, 11.77)), 8, 1024),
    "gemma-3-27b": sliding(tied(dense(62, 5376, (32, 16, 128), 262144, 27.01)), 10, 1024),
    "gemma-4-12B": replace(
        tied(dense(48, 3840, (16, 8, 256), 262144, 11.91)),
        caches=(Rows(8, 1024, 0, 16 * 512), Rows(40, 4096, 1024, 16 * 256)),
    ),
    "gemma-4-31B": replace(
        tied(dense(60, 5376, (32, 16, 256), 262144, 30.70)),
        caches=(Rows(10, 4096, 0, 32 * 512), Rows(50, 8192, 1024, 32 * 256)),
    ),
    # The per-layer embeddings are looked up, on the CPU: 262144 x 256 for each layer.
    "gemma-4-E2B": replace(sliding(tied(dense(35, 1536, (8, 1, 256), 262144, 4.65)), 7, 512), looked_up=2.35),
    "gemma-4-E4B": replace(sliding(tied(dense(42, 2560, (8, 2, 256), 262144, 7.52)), 7, 512), looked_up=2.82),
    "gemma-4-26B-A4B": replace(
        tied(dense(30, 2816, (16, 8, 256), 262144, 25.23)),
        caches=(Rows(5, 2048, 0, 16 * 512), Rows(25, 4096, 1024, 16 * 256)),
        n_moe=30,
        routed=30 * 128 * 3 * 2816 * 704 / 1e9,
        experts=128,
        used=8,
    ),
    "GLM-4.7-Flash": replace(
        dense(47, 2048, (20, 20, 256), 154880, 29.94),
        caches=(_MLA,),
        n_moe=46,
        routed=46 * 64 * 3 * 2048 * 1536 / 1e9,
        experts=64,
        used=4,
    ),
    "MiniMax-M2.7": replace(_MINIMAX, n_moe=62, routed=62 * 256 * 3 * 3072 * 1536 / 1e9, experts=256, used=8),
    "Qwen3-Coder-Next": replace(
        dense(48, 2048, (16, 2, 256), 151936, 79.67),
        caches=(Rows(12, 1024, 0, 16 * 256),),
        n_recurrent=36,
        state_bytes=75.375 * (1 << 20),
        n_moe=48,
        routed=48 * 512 * 3 * 2048 * 512 / 1e9,
        experts=512,
        used=10,
    ),
    "dots.llm1": replace(
        dense(62, 4096, (32, 32, 128), 152064, 142.77),
        n_moe=61,
        routed=61 * 128 * 3 * 4096 * 1408 / 1e9,
        experts=128,
        used=6,
    ),
    "Llama-4-Scout": replace(
        dense(48, 5120, (40, 8, 128), 202048, 107.77),
        n_moe=48,
        routed=48 * 16 * 3 * 5120 * 8192 / 1e9,
        experts=16,
        used=1,
    ),
    "Hunyuan-A13B": replace(
        tied(dense(32, 4096, (32, 8, 128), 128167, 80.39)),
        n_moe=32,
        routed=32 * 64 * 3 * 4096 * 3072 / 1e9,
        experts=64,
        used=8,
    ),
}
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


def read_shapes(data: Path) -> dict[str, Shape]:
    """Shapes by name; models.json where it states enough, the table above before it."""
    shapes = dict(SHAPES)
    for model in json.loads((data / "models.json").read_text()):
        if model["name"] not in shapes and (shape := shape_of(model)) is not None:
            shapes[model["name"]] = shape
    return shapes


def shape_of(model: Mapping[str, Any]) -> Shape | None:
    total = model.get("total_params_gguf") or model.get("total_params_official")
    if isinstance(total, str):
        match = re.match(r"[\d.]+(e9)?", total)
        total = float(match[0].removesuffix("e9")) * 1e9 if match else None
    n_embd = model.get("hidden_size") or _from_shapes(model)
    if not total or not n_embd or not model.get("vocab_size"):
        return None
    by_class = model.get("params_by_class") or {}
    output = n_embd * model["vocab_size"] / 1e9
    is_tied = model.get("tied_embeddings") is True
    n_moe = (model["n_layer"] - (model.get("leading_dense_layers") or 0)) if model.get("n_experts") else 0
    expert = 3 * n_embd * (model.get("expert_intermediate_size") or 0)
    recurrent = _recurrent(model)
    return Shape(
        n_layer=model["n_layer"],
        n_embd=n_embd,
        total=total / 1e9,
        output=output,
        looked_up=(0.0 if is_tied else output) + by_class.get("nextn", 0) / 1e9,
        caches=_caches(model, recurrent[0]),
        n_recurrent=recurrent[0],
        state_bytes=recurrent[1],
        n_moe=n_moe,
        routed=by_class.get("routed_experts", n_moe * (model.get("n_experts") or 0) * expert) / 1e9,
        experts=model.get("n_experts") or 1,
        used=model.get("n_experts_used") or 1,
    )


def _from_shapes(model: Mapping[str, Any]) -> int:
    """The embedding's width from the tensor list ("4096, 248320")."""
    shapes = (model.get("gguf_shapes") or {}).get("token_embd.weight") or {}
    return int(next(iter(shapes), "0").split(",")[0])


def _recurrent(model: Mapping[str, Any]) -> tuple[int, float]:
    """Layers with a state instead of a cache, and the state's bytes."""
    linear = model.get("linear_attention")
    if linear and "recurrent_state_mib_per_sequence" in linear:
        mib = linear["recurrent_state_mib_per_sequence"]
        return linear.get("n_linear_layers", model["n_layer"] * 3 // 4), mib * (1 << 20)
    if model.get("gguf_arch") == "qwen35":  # 9B and 4B: three of four layers, state 128 x 128 x 32 heads
        n = model["n_layer"] * 3 // 4
        return n, n * (32 * 128 * 128 + 3 * 8192) * 4.0
    if model.get("mamba2"):
        inner, state = model["mamba2"]["inner_size"], model["mamba2"]["state_size"]
        return model["mamba2"]["n_mamba_layers"], model["mamba2"]["n_mamba_layers"] * inner * state * 4.0
    if model.get("short_conv"):
        return model["short_conv"]["conv_layers"], 0.0
    return 0, 0.0


def _caches(model: Mapping[str, Any], n_recurrent: int) -> tuple[Rows, ...]:
    kv = model.get("kv_cache") or {}
    n_head = model.get("n_head") or 16
    if model.get("gguf_arch") == "deepseek4":
        # Raw window of 128; every fourth or every 128th token compressed, with an indexer key of 128.
        return (
            Rows(43, 512, 128, n_head * 512),
            Rows(21, (512 + 128) // 4, 0, n_head * 512 // 4),
            Rows(20, 512 // 128, 0, n_head * 512 // 128),
        )
    if "kv_heads" not in kv:
        n_kv = model.get("n_head_kv") if isinstance(model.get("n_head_kv"), int) else 8
        size = model.get("head_dim_k") or 256
        if model.get("gguf_arch") == "qwen35":
            n_kv, size = 4, 256
        return (Rows(model["n_layer"] - n_recurrent, 2 * n_kv * size, 0, n_head * size),)
    values = kv["kv_heads"] * (kv["dim_k"] + kv["dim_v"])
    rows = Rows(kv["layers_with_kv"], values, 0, n_head * kv["dim_k"])
    if model.get("gguf_arch") == "gpt-oss":
        half = rows.n_layers // 2
        return (replace(rows, n_layers=half), replace(rows, n_layers=half, window=128))
    return (rows,)


# --- quants -------------------------------------------------------------------------------------------------

# Bits per weight of a file whose size is not stated (llama.cpp tools/quantize README, Llama-3.1-8B).
_NOMINAL = {
    "F16": 16.0,
    "BF16": 16.0,
    "Q8_0": 8.5,
    "Q6_K": 6.57,
    "Q5_K_M": 5.7,
    "Q5_K_S": 5.55,
    "Q4_K_M": 4.9,
    "Q4_K_S": 4.66,
    "Q4_0": 4.65,
    "Q3_K_L": 4.3,
    "Q3_K_M": 4.0,
    "Q3_K_S": 3.64,
    "Q2_K": 3.16,
    "IQ4_NL": 4.68,
    "IQ4_XS": 4.45,
    "MXFP4": 4.4,
    "NVFP4": 4.7,
}
# The type that most of a file's weights are in, by the name's beginning.
_TYPES = (
    ("F16", "F16"), ("BF16", "BF16"), ("MXFP4", "MXFP4"), ("NVFP4", "NVFP4"), ("Q8", "Q8_0"), ("Q6", "Q6_K"),
    ("Q5_K", "Q5_K"), ("Q4_K", "Q4_K"), ("Q4_0", "Q4_0"), ("Q3_K", "Q3_K"), ("Q2_K", "Q2_K"),
    ("IQ4_NL", "IQ4_NL"), ("IQ4", "IQ4_XS"), ("IQ3", "IQ3_S"), ("IQ2", "IQ2_XS"), ("IQ1", "IQ1_M"),
)  # fmt: skip


def quant_type(name: str) -> str | None:
    """The ggml type behind a file's quant name ("UD-Q4_K_XL" -> "Q4_K")."""
    short = name.removeprefix("UD-").removeprefix("i1-").removeprefix("QAT ")
    return next((kind for start, kind in _TYPES if short.startswith(start)), None)


def nominal_bits(name: str) -> float | None:
    short = name.removeprefix("UD-").removeprefix("i1-").removeprefix("QAT ").split(" ")[0]
    return _NOMINAL.get(short.replace("_XL", "_M"), _NOMINAL.get(short))


@dataclass(frozen=True)
class Bits:
    """Weights of one kind: their ggml type and bits per weight."""

    quant: str
    bits: float


@dataclass(frozen=True)
class File:
    """A quantized model: what its always-read weights, its output and its experts are in."""

    always: Bits
    output: Bits
    experts: Bits


_WIDE = Bits("Q8_0", 8.5)


def make_file(shape: Shape, quant: str, size_bytes: float, date: str) -> File:
    """What a file's size says about its weights.

    The output matrix is Q6_K in K- and I-quants, and like the rest in wider ones. Two kinds of mixtures keep
    their always-read weights at 8 bits: MXFP4 files, and Unsloth's dynamic quants (UD, _XL) since 2026.
    """
    average = 8 * size_bytes / (shape.total * 1e9)
    kind = quant_type(quant) or "Q4_K"
    if average > 7:
        return File(Bits(kind, average), Bits(kind, average), Bits(kind, average))
    output = Bits("Q6_K", 6.5625)
    dynamic = ("UD-" in quant or "_XL" in quant) and not date.startswith("2025")
    if shape.routed and (kind == "MXFP4" or dynamic):
        experts = (average * shape.total - 8.5 * (shape.total - shape.routed)) / shape.routed
        return File(_WIDE, _WIDE, Bits(kind, max(1.6, experts)))
    rest = (average * shape.total - output.bits * shape.output) / (shape.total - shape.output)
    return File(Bits(kind, max(1.6, rest)), output, Bits(kind, max(1.6, rest)))


# --- rows ---------------------------------------------------------------------------------------------------

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


@dataclass(frozen=True)
class Split:
    """Blocks in RAM (`n_cpu_layers`, from the first), the output there too or not, and blocks whose experts
    (or whole feed-forward) are in RAM."""

    n_cpu_layers: int = 0
    n_cpu_moe: int = 0
    output_on_cpu: bool = False

    @property
    def name(self) -> str:
        if self.n_cpu_layers:
            return f"{self.n_cpu_layers} layers in RAM"
        return f"experts of {self.n_cpu_moe} in RAM" if self.n_cpu_moe else "all"


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


# --- work ---------------------------------------------------------------------------------------------------


def make_work(shape: Shape, file: File, split: Split, lanes: tuple[Lane, ...], kv_bytes: float) -> Work:
    """The row's work: blocks dealt evenly to the GPUs, what is in RAM to the CPU."""
    gpus = [lane.device for lane in lanes if lane.device != "CPU"]
    on_cpu = split.n_cpu_layers / shape.n_layer
    moved = split.n_cpu_moe / shape.n_moe if shape.n_moe else 0.0
    blocks = (1 - on_cpu) / len(gpus)
    devices = [
        _share(shape, file, name, Part(blocks, blocks * (1 - moved), name == gpus[-1]), kv_bytes)
        for name in gpus
    ]
    if on_cpu or moved:
        part = Part(on_cpu, on_cpu + (1 - on_cpu) * moved)
        devices.append(_share(shape, file, "CPU", part, kv_bytes))
    n_hops = 1 + 2 * split.n_cpu_moe
    return Work(tuple(devices), n_hops, len(gpus) - 1)


@dataclass(frozen=True)
class Part:
    """A device's part: of all blocks, of all routed experts, and whether the output is there."""

    blocks: float
    experts: float
    output: bool = False


def _share(shape: Shape, file: File, device: str, part: Part, kv_bytes: float) -> DeviceWork:
    caches = tuple(
        Cache(
            part.blocks * rows.n_layers * rows.values * kv_bytes,
            rows.window,
            4 * part.blocks * rows.n_layers * rows.queries,
        )
        for rows in shape.caches
    )
    return DeviceWork(
        device=device,
        reads=tuple(_reads(shape, file, part)),
        caches=caches,
        state_bytes=part.blocks * shape.state_bytes,
        n_layers=round(part.blocks * shape.n_layer),
        n_moe=round(part.blocks * shape.n_moe),
        n_recurrent=round(part.blocks * shape.n_recurrent),
    )


def _reads(shape: Shape, file: File, part: Part) -> Iterator[Read]:
    yield _read(file.always, shape.always * part.blocks)
    if part.output:
        yield replace(_read(file.output, shape.output), last_only=True)
    if shape.routed and part.experts:
        yield _read(file.experts, shape.routed * part.experts, shape.used / shape.experts)


def _read(bits: Bits, billions: float, used: float = 1.0) -> Read:
    held = 1e9 * billions * bits.bits / 8
    return Read(bits.quant, 1e9 * billions * used, held * used, held, routed=used < 1)
