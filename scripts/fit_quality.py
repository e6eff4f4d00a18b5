"""Fit moetool/data/quality.json to published perplexities: fit_quality.py DATA_DIR [--write].

DATA_DIR holds quality.csv (results by quant) and models.json (architectures). Each loss is taken against the
unquantized model of the same source and dataset. Prints what was left out and why, the fit for several
choices of "size", the error on models that were left out, and the largest residuals.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moetool.quality import Fit, Part, effective_bits

OUT = Path(__file__).parent.parent / "moetool" / "data" / "quality.json"

# In the mixtures whose recipes are published as "bits of the file", the tensors that are always active are
# kept wide (GGUF-Tool-Suite keeps them on the GPU at iq6_k to q8_0; the AesSedai recipes state Q8_0).
WIDE_BITS = {"Thireus": 6.6, "AesSedai": 8.5}

# Smaller losses drown in the error of a perplexity over one test set; wider types lose nothing that can be
# told from them.
SMALLEST_LOSS = 0.0015
WIDEST_BITS = 6.7
STEPS = tuple(step / 20 for step in range(14, 34))


@dataclass(frozen=True)
class Shape:
    """Parameters in billions: all, always multiplied, routed, and routed ones that a token uses."""

    total: float
    always: float
    routed: float = 0.0
    used: float = 0.0


# Models that models.json lacks, or has without parameters by class. From their configuration files.
SHAPES = {
    "Qwen3-4B-Instruct-2507": Shape(4.02, 4.02),
    "Qwen3.5-0.8B": Shape(0.75, 0.75),
    "Qwen3.5-2B": Shape(1.88, 1.88),
    "Qwen3.8-27B": Shape(26.9, 25.6),
    "Meta-Llama-3-8B": Shape(8.03, 7.5),
    "Llama-2-7B": Shape(6.74, 6.6),
    "Llama-2-70B": Shape(69.0, 68.7),
    "salamandra-2b-instruct": Shape(2.25, 1.73),
    "Qwen3.5-397B-A17B": Shape(396.3, 8.75, 386.5, 7.55),
    "Qwen3-30B-A3B": Shape(30.5, 1.23, 28.99, 1.81),
    "Mixtral-8x7B": Shape(46.7, 1.47, 45.1, 11.27),
    "GLM-4.5": Shape(355.0, 14.4, 336.0, 16.8),
    "GLM-5.1": Shape(753.9, 17.9, 734.4, 22.95),
    "LFM2-8B-A1B": Shape(8.3, 0.69, 7.75, 0.97),
}
SAME_SHAPE = {
    "GLM-4.6": "GLM-4.5",
    "GLM-4.7": "GLM-4.5",
    "Qwen3-235B-A22B-Thinking-2507": "Qwen3-235B-A22B",
    "DeepSeek-V3-0324": "DeepSeek-V3",
    "Kimi-K2-Instruct": "Kimi-K2 (K2-Instruct)",
    "Kimi-K2-Thinking": "Kimi-K2 (K2-Instruct)",
}

# Mainline recipes, for rows that state no size (llama.cpp tools/quantize README, Llama-3.1-8B, and alike).
BITS = {
    "q8_0": 8.5,
    "q6_k": 6.57,
    "q5_k_m": 5.68,
    "q5_k_s": 5.52,
    "q5_1": 6.0,
    "q5_0": 5.5,
    "q4_k_m": 4.87,
    "q4_k_s": 4.6,
    "q4_0": 4.6,
    "q4_1": 5.05,
    "q3_k_l": 4.3,
    "q3_k_m": 3.95,
    "q3_k_s": 3.5,
    "q2_k": 3.15,
    "iq4_nl": 4.6,
    "iq4_xs": 4.35,
    "iq3_m": 3.7,
    "iq2_m": 2.8,
    "iq2_s": 2.6,
}

# Architectures trained in a narrow type: data/models.json, uncertainties and notes.
NATIVE = {"gpt-oss": "MXFP4", "deepseek4": "MXFP4"}


@dataclass(frozen=True)
class Row:
    """A usable result: what is quantized how far, and log(perplexity ÷ unquantized)."""

    model: str
    shape: Shape
    parts: tuple[Part, ...]
    log_loss: float
    source: str
    quant: str
    file_bits: float


# --- reading ------------------------------------------------------------------------------------------------


def read_shapes(data: Path) -> dict[str, Shape]:
    models = json.loads((data / "models.json").read_text())
    shapes = dict(SHAPES)
    for model in models:
        found = shape_of(model)
        if found and model["name"] not in shapes:
            shapes[model["name"]] = found
    for name, other in SAME_SHAPE.items():
        shapes[name] = shapes[other]
    return shapes


def shape_of(model: Mapping[str, Any]) -> Shape | None:
    """A model's shape from its parameters by class; None where they are not known."""
    by_class = model.get("params_by_class")
    if not by_class:
        return None
    total = sum(by_class.values()) / 1e9
    routed = by_class.get("routed_experts", 0) / 1e9
    unused = (by_class.get("token_embd", 0) if "output" in by_class else 0) + by_class.get("nextn", 0)
    share = model["n_experts_used"] / model["n_experts"] if routed else 0.0
    return Shape(total, total - routed - unused / 1e9, routed, routed * share)


def read_rows(path: Path, shapes: Mapping[str, Shape]) -> tuple[list[Row], Counter[str]]:
    """The rows whose loss is known, and how many were left out for which reason."""
    rows: list[Row] = []
    refused: Counter[str] = Counter()
    with path.open(newline="") as file:
        for record in csv.DictReader(file):
            reason = why_not(record, shapes)
            row = None if reason else make_row(record, shapes[record["model"]])
            if row is None:
                refused[reason] += 1
            else:
                rows.append(row)
    return rows, refused


def tells(row: Row) -> bool:
    """Whether the loss stands out of the noise, and can be fitted."""
    return row.log_loss >= SMALLEST_LOSS and row.file_bits <= WIDEST_BITS


def why_not(record: Mapping[str, str], shapes: Mapping[str, Shape]) -> str:
    """Why a row cannot be used; "" when it can."""
    checks = (
        (record["model"] == "GLM-4.7-Flash", "reference invalid: quants 13 % below it (GLM-4.7-Flash)"),
        ("over-fit" in record["imatrix"], "importance matrix made from the test set"),
        (record["model"] not in shapes, "parameters of the model unknown"),
        (not record["ppl_ratio_minus1_pct"] and not record["kld_mean"], "no unquantized result beside it"),
        (not record["bpw"] and record["quant"].split()[-1].lower() not in BITS, "bits per weight unknown"),
    )
    return next((reason for failed, reason in checks if failed), "")


def make_row(record: Mapping[str, str], shape: Shape) -> Row:
    bits = float(record["bpw"] or BITS[record["quant"].split()[-1].lower()])
    source = record["source"]
    wide = next((wide for name, wide in WIDE_BITS.items() if name in source + record["quant"]), None)
    return Row(
        model=record["model"],
        shape=shape,
        parts=parts_of(shape, bits, wide),
        log_loss=log_loss_of(record),
        source=source,
        quant=record["quant"],
        file_bits=bits,
    )


def log_loss_of(record: Mapping[str, str]) -> float:
    """log(perplexity ÷ unquantized); the KL divergence stands for it where only that is published (on
    Llama-3-8B, where both are, their ratio is 0.9 to 1.6 over all quants below 6 bits)."""
    if record["ppl_ratio_minus1_pct"]:
        return math.log1p(float(record["ppl_ratio_minus1_pct"]) / 100)
    return float(record["kld_mean"])


def parts_of(shape: Shape, file_bits: float, wide_bits: float | None) -> tuple[Part, ...]:
    """Precisions of the active weights: one for all, or the always-active ones wider than the experts."""
    if not shape.routed or wide_bits is None:
        return (Part(file_bits, 1e9 * (shape.always + shape.used)),)
    wide = max(wide_bits, file_bits)
    experts = (file_bits * shape.total - wide * (shape.total - shape.routed)) / shape.routed
    return (Part(wide, 1e9 * shape.always), Part(max(1.0, experts), 1e9 * shape.used))


# --- fitting ------------------------------------------------------------------------------------------------

Matrix = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Trial:
    """One choice of size terms, fitted: coefficients, residuals and those on left-out models (logs)."""

    names: tuple[str, ...]
    per_bit: float
    coefficients: Matrix
    held_out: Matrix
    error: float


def fit_all(rows: Sequence[Row], names: tuple[str, ...]) -> Trial:
    return min((fit_one(rows, names, step) for step in STEPS), key=lambda trial: trial.error)


def fit_one(rows: Sequence[Row], names: tuple[str, ...], per_bit: float) -> Trial:
    """Least squares in logs, each model weighing by the square root of its rows."""
    trial = Fit(1.0, per_bit, 0.0, 1.0, 1.0, {}, ())
    offset = np.array([-per_bit * (effective_bits(row.parts, trial) - 4.5) for row in rows])
    target = np.array([math.log(row.log_loss) for row in rows]) - offset
    columns = [np.ones(len(rows)), *(np.array([size(row, name) for row in rows]) for name in names)]
    design = np.stack(columns, 1)
    models = np.array([row.model for row in rows])
    counts = Counter(models.tolist())
    weights = np.array([counts[model] ** -0.5 for model in models])
    held_out = np.zeros(len(rows))
    for model in counts:
        keep = models != model
        held_out[~keep] = (target - design @ solve(design[keep], target[keep], weights[keep]))[~keep]
    error = float(np.mean([np.median(np.abs(held_out[models == model])) for model in counts]))
    return Trial(names, per_bit, solve(design, target, weights), held_out, error)


def size(row: Row, name: str) -> float:
    active = row.shape.always + row.shape.used
    return math.log(active if name == "active" else row.shape.total)


def solve(design: Matrix, target: Matrix, weights: Matrix) -> Matrix:
    solution: Matrix = np.linalg.lstsq(design * weights[:, None], target * weights, rcond=None)[0]
    return solution


def make_document(rows: Sequence[Row], trial: Trial) -> dict[str, Any]:
    spread = np.exp(np.quantile(trial.held_out, [0.1, 0.9]))
    fit = Fit(1.0, trial.per_bit, 0.0, 1.0, 1.0, {}, ())
    sources = sorted({short_source(row.source) for row in rows})
    results = [
        [
            round(effective_bits(row.parts, fit), 2),
            round(row.shape.always + row.shape.used, 2),
            float(f"{math.expm1(max(0.0, row.log_loss)):.3g}"),
            sources.index(short_source(row.source)),
        ]
        for row in rows
    ]
    return {
        "source": "scripts/fit_quality.py over published perplexities and KL divergences; see sources",
        "date": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(),
        "scale": round(float(np.exp(trial.coefficients[0])), 4),
        "per_bit": trial.per_bit,
        "per_size": round(-float(trial.coefficients[1]), 3),
        "spread_low": round(float(spread[0]), 3),
        "spread_high": round(float(spread[1]), 3),
        "native": NATIVE,
        "sources": sources,
        "results": sorted(results),
    }


def short_source(source: str) -> str:
    """A source without the file or line inside it."""
    for mark in (" ppl_graphs/", " (", ", "):
        source = source.split(mark)[0]
    return source.strip()


# --- printing -----------------------------------------------------------------------------------------------


def show(rows: Sequence[Row], refused: Mapping[str, int]) -> None:
    print(f"{len(rows)} rows of {len({row.model for row in rows})} models used")
    for reason, count in sorted(refused.items(), key=lambda item: -item[1]):
        print(f"  {count:4} left out: {reason}")


def show_trials(trials: Iterable[Trial]) -> None:
    print("\nsize terms       per bit  exponents        error on left-out models (mean of medians)")
    for trial in trials:
        exponents = " ".join(f"{value:+.2f}" for value in trial.coefficients[1:]) or "-"
        names = "+".join(trial.names) or "none"
        factor = math.exp(trial.error)
        print(f"{names:16} {trial.per_bit:7.2f}  {exponents:16} {trial.error:.3f} (a factor {factor:.2f})")


def show_models(rows: Sequence[Row], trial: Trial) -> None:
    print("\nmeasured ÷ expected on the model when it was left out: median, 10 and 90 %")
    models = dict.fromkeys(row.model for row in rows)
    for model in models:
        mine = np.array([i for i, row in enumerate(rows) if row.model == model])
        low, median, high = np.exp(np.quantile(trial.held_out[mine], [0.1, 0.5, 0.9]))
        active = rows[mine[0]].shape.always + rows[mine[0]].shape.used
        print(f"  {model:32} {active:6.1f} B active {len(mine):4} rows {median:6.2f} {low:6.2f} {high:6.2f}")
    print("\nthe ten largest")
    for i in np.argsort(-np.abs(trial.held_out))[:10]:
        row = rows[i]
        ratio = math.exp(trial.held_out[i])
        print(
            f"  {row.model:28} {row.quant:12} {row.file_bits:5.2f} bits"
            f" {100 * math.expm1(row.log_loss):8.2f} % measured, {ratio:5.2f} x expected"
        )


def show_sensitivity(rows: Sequence[Row]) -> None:
    """What the assumption about the mixtures' always-active tensors changes."""
    print("\nbits of the always-active tensors in the GGUF-Tool-Suite mixtures -> exponent, error")
    for wide in (0.0, 5.0, 6.6, 8.5):
        changed = [
            replace(row, parts=parts_of(row.shape, row.file_bits, wide or None))
            if "Thireus" in row.source
            else row
            for row in rows
        ]
        trial = fit_all(changed, ("active",))
        print(f"  {wide or 'as the file'!s:12} {-trial.coefficients[1]:.2f}  {trial.error:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", action="store_true", help=f"write {OUT.name}")
    arguments = parser.parse_args()
    known, refused = read_rows(arguments.data / "quality.csv", read_shapes(arguments.data))
    rows = [row for row in known if tells(row)]
    show(rows, refused)
    print(f"  {len(known) - len(rows):4} kept as evidence only: over {WIDEST_BITS} bits, or within the noise")
    trials = [fit_all(rows, names) for names in ((), ("active",), ("total",), ("active", "total"))]
    show_trials(trials)
    show_models(rows, trials[1])
    show_sensitivity(rows)
    document = make_document(known, trials[1])
    print("\n" + json.dumps({name: value for name, value in document.items() if name != "results"}, indent=1))
    if arguments.write:
        OUT.write_text(json.dumps(document, separators=(",", ":")).replace("],[", "],\n[") + "\n")


if __name__ == "__main__":
    main()
