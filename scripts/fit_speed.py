"""Fit moetool/data/speed.json to published llama.cpp results: fit_speed.py DATA_DIR [--write].

DATA_DIR holds measurements.csv and models.json (see published.py). Seconds per token are linear in what a
device does (bytes ÷ bandwidth, layers, …), so the constants are coefficients: one set for each family of
kernels, drawn towards a common one where a family has few results. Every figure of error is from hardware
that was left out of the fit. Prints what was refused, errors by family and hardware, and the worst rows.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from published import Row, read_rows

from moetool.speed import Cache, Constants, DeviceWork, Lane, parse_constants
from moetool.speed.constants import quant_group
from moetool.speed.predict import decode_s, touched_bytes

SOURCE = (
    "scripts/fit_speed.py over published llama.cpp results;"
    " CPU kernels: scripts/fit_cpu_speed.py over tests/data/cpu_speed.jsonl, cores with AVX-512"
)
OUT = Path(__file__).parent.parent / "moetool" / "data" / "speed.json"

Array = np.ndarray[Any, np.dtype[np.float64]]

KINDS = ("cuda", "cuda_hbm", "rocm", "vulkan", "metal", "cpu")
GROUPS = ("simple", "k", "iq")


@dataclass(frozen=True)
class Constant:
    """A constant to fit: what is expected before any data (from the kernels' nature), and how firmly (the
    standard deviation of its logarithm, of the common value and of a family's distance from it)."""

    name: str
    prior: float
    sigma: float
    apart: float


DECODE = (
    Constant("read_share", 0.80, 0.15, 0.12),
    Constant("routed_share", 0.80, 0.15, 0.12),
    Constant("cache_share", 0.50, 0.50, 0.30),
    Constant("attention_bytes", 0.03, 0.80, 0.60),
    Constant("unpack_simple", 0.02, 0.50, 0.30),
    Constant("unpack_k", 0.06, 0.50, 0.40),
    Constant("unpack_iq", 0.12, 0.50, 0.40),
    Constant("layer_s", 30e-6, 0.70, 0.50),
    Constant("moe_layer_s", 50e-6, 0.70, 0.50),
    Constant("recurrent_layer_s", 20e-6, 0.70, 0.50),
    Constant("token_s", 300e-6, 0.70, 0.50),
    Constant("hop_s", 25e-6, 0.50, 0.30),
    Constant("border_s", 150e-6, 0.70, 0.40),
)
PROMPT = (
    Constant("flops_per_byte", 60.0, 0.50, 0.60),
    Constant("routed_flops_share", 0.50, 0.40, 0.30),
    Constant("attention_flops_share", 0.50, 0.50, 0.30),
)
# A CPU reads weights as the memory gives them, less barriers; what a published run tells of it is only how
# much of the *theoretical* bandwidth is left. Its other constants are measured (see CPU).
CPU_PRIORS = {"read_share": 0.90, "routed_share": 0.90}
CPU_SHEET_SHARE = 0.82  # what a read test reaches of the theoretical bandwidth of RAM

# A prediction's logarithm is off by this much for reasons that no constant knows: builds, drivers, clocks.
NOISE = 0.15
HUBER = 1.5  # residuals beyond this many NOISE count linearly


# --- features: seconds are features @ coefficients ----------------------------------------------------------

COLUMNS = ("read", "routed", "cache", *(f"{part}_{g}" for part in ("read", "routed") for g in GROUPS),
           "attention", "layer", "moe", "recurrent", "token", "hop", "border")  # fmt: skip
PROMPT_COLUMNS = ("dense", "routed", "attention")


def bandwidth_of(lane: Lane) -> float:
    assert lane.bandwidth_bytes_s is not None
    return lane.bandwidth_bytes_s * (CPU_SHEET_SHARE if lane.kind == "cpu" and not lane.measured else 1.0)


def decode_features(row: Row) -> Array:
    """What a token does, by kind and column."""
    found = np.zeros((len(KINDS), len(COLUMNS)))
    lanes = {lane.device: lane for lane in row.lanes}
    for share in row.work.devices:
        lane = lanes[share.device]
        for name, value in device_features(share, lane, row.load.depth):
            found[KINDS.index(lane.kind), COLUMNS.index(name)] += value
    first = KINDS.index(row.kind)
    found[first, COLUMNS.index("token")] = 1
    found[first, COLUMNS.index("hop")] = row.work.n_hops
    found[first, COLUMNS.index("border")] = row.work.n_borders
    return found.ravel()


def device_features(share: DeviceWork, lane: Lane, depth: float) -> list[tuple[str, float]]:
    bandwidth = bandwidth_of(lane)
    found = []
    for read in share.reads:
        part = "routed" if read.routed else "read"
        found.append((part, read.n_bytes / bandwidth))
        group = quant_group(read.quant)
        if group in GROUPS and lane.kind != "cpu":
            found.append((f"{part}_{group}", read.n_weights / bandwidth))
    cached = sum(cache.cell_bytes * cache.cells(depth) for cache in share.caches)
    found.append(("cache", (cached + 2 * share.state_bytes) / bandwidth))
    found.append(("attention", attention_flops(share.caches, depth) / bandwidth))
    layers = {"layer": share.n_layers, "moe": share.n_moe, "recurrent": share.n_recurrent}
    return [*found, *((name, float(count)) for name, count in layers.items())]


def attention_flops(caches: Sequence[Cache], depth: float) -> float:
    return sum(cache.cell_flops * cache.cells(depth) for cache in caches)


def decode_coefficients(logs: Array) -> Array:
    """Constants (logarithms, kind by constant) as coefficients of the columns."""
    value = {constant.name: np.exp(logs[:, i]) for i, constant in enumerate(DECODE)}
    read, routed = 1 / value["read_share"], 1 / value["routed_share"]
    unpack = [value[f"unpack_{group}"] for group in GROUPS]
    columns = [read, routed, 1 / value["cache_share"]]
    columns += [u * read for u in unpack] + [u * routed for u in unpack]
    columns.append(value["attention_bytes"] / value["cache_share"])
    seconds = ("layer_s", "moe_layer_s", "recurrent_layer_s", "token_s", "hop_s", "border_s")
    columns += [value[name] for name in seconds]
    return np.stack(columns, 1).ravel()


def prompt_features(row: Row) -> Array:
    """Operations ÷ bandwidth of the whole prompt, by kind and column; one device only."""
    found = np.zeros((len(KINDS), len(PROMPT_COLUMNS)))
    (share,), lane = row.work.devices, row.lanes[0]
    per_byte = row.load.n_prompt / bandwidth_of(lane)
    line = found[KINDS.index(lane.kind)]
    for read in share.reads:
        if read.last_only:
            continue
        line[1 if read.routed else 0] += 2 * read.n_weights * per_byte
    line[2] = attention_flops(share.caches, row.load.depth + row.load.n_prompt / 2) * per_byte
    return found.ravel()


def prompt_offset(row: Row, constants: Constants) -> float:
    """Seconds of a prompt that do not depend on the throughput: weights and layers, once a batch."""
    (share,), lane = row.work.devices, row.lanes[0]
    kernels = constants.of(lane.kind)
    n_tokens = min(row.load.n_prompt, row.load.n_ubatch)
    touched = (touched_bytes(read, n_tokens) for read in share.reads if not read.last_only)
    batch_s = sum(touched) / bandwidth_of(lane)
    batch_s += share.n_layers * kernels.layer_s + share.n_moe * kernels.moe_layer_s
    batch_s += share.n_recurrent * kernels.recurrent_layer_s
    last_s = sum(read.n_bytes for read in share.reads if read.last_only) / bandwidth_of(lane)
    return batch_s * row.load.n_prompt / n_tokens + last_s


def prompt_coefficients(logs: Array) -> Array:
    flops, routed, attention = np.exp(logs).T
    return np.stack([1 / flops, 1 / (flops * routed), 1 / (flops * attention)], 1).ravel()


# --- fitting ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """The constants of a kind of speed, and how they become coefficients."""

    constants: tuple[Constant, ...]
    coefficients: Callable[[Array], Array]

    @property
    def priors(self) -> Array:
        """Logarithms, kind by constant."""
        rows = [
            [CPU_PRIORS.get(c.name, c.prior) if kind == "cpu" else c.prior for c in self.constants]
            for kind in KINDS
        ]
        return np.log(np.array(rows))

    @property
    def sigmas(self) -> Array:
        """First of the common values, then of each kind's distance from them."""
        return np.array(
            [[c.sigma for c in self.constants], *([[c.apart for c in self.constants]] * len(KINDS))]
        )


@dataclass(frozen=True)
class Problem:
    """Rows as arrays: seconds = `offset` + `features` @ coefficients, `targets` are measured logarithms.
    `weights` include that rows of one machine say much the same."""

    model: Model
    features: Array
    offset: Array
    targets: Array
    weights: Array
    hardware: tuple[str, ...]

    def log_seconds(self, unknown: Array, keep: Array) -> Array:
        logs = self.model.priors + unknown[0] + unknown[1:]
        seconds: Array = np.log(self.offset[keep] + self.features[keep] @ self.model.coefficients(logs))
        return seconds


def make_weights(rows: Sequence[Row]) -> Array:
    counts = Counter(row.hardware for row in rows)
    return np.array([row.weight / math.sqrt(counts[row.hardware]) for row in rows])


def decode_problem(rows: Sequence[Row]) -> Problem:
    return Problem(
        model=Model(DECODE, decode_coefficients),
        features=np.stack([decode_features(row) for row in rows]),
        offset=np.zeros(len(rows)),
        targets=np.array([-math.log(row.decode_tok_s or 1.0) for row in rows]),
        weights=make_weights(rows),
        hardware=tuple(row.hardware for row in rows),
    )


def prompt_problem(rows: Sequence[Row], constants: Constants) -> Problem:
    return Problem(
        model=Model(PROMPT, prompt_coefficients),
        features=np.stack([prompt_features(row) for row in rows]),
        offset=np.array([prompt_offset(row, constants) for row in rows]),
        targets=np.array([math.log(row.load.n_prompt / (row.prompt_tok_s or 1.0)) for row in rows]),
        weights=make_weights(rows),
        hardware=tuple(row.hardware for row in rows),
    )


def fit(problem: Problem, keep: Array, start: Array | None = None) -> Array:
    """Common values and each kind's distance from them, in logarithms beside the priors: robust least
    squares (Gauss-Newton)."""
    unknown = np.zeros_like(problem.model.sigmas) if start is None else start.copy()
    for _ in range(12 if start is None else 4):
        unknown = _step(problem, keep, unknown)
    return unknown


def _step(problem: Problem, keep: Array, unknown: Array) -> Array:
    base = problem.log_seconds(unknown, keep) - problem.targets[keep]
    jacobian = np.zeros((len(base), unknown.size))
    for i in range(unknown.size):
        moved = unknown.ravel().copy()
        moved[i] += 1e-4
        shifted = problem.log_seconds(moved.reshape(unknown.shape), keep) - problem.targets[keep]
        jacobian[:, i] = (shifted - base) / 1e-4
    robust = np.minimum(1.0, HUBER * NOISE / np.maximum(np.abs(base), 1e-9))
    weight = np.sqrt(problem.weights[keep] * robust) / NOISE
    sigma = problem.model.sigmas.ravel()
    left = np.concatenate([jacobian * weight[:, None], np.diag(1 / sigma)])
    right = np.concatenate([-base * weight, -unknown.ravel() / sigma])
    change = np.linalg.lstsq(left, right, rcond=None)[0]
    moved_by: Array = np.clip(change, -0.7, 0.7).reshape(unknown.shape)
    return unknown + moved_by


def leave_one_out(problem: Problem, full: Array) -> Array:
    """log(measured ÷ predicted) tokens per second of each row, its hardware left out of the fit."""
    errors = np.zeros(len(problem.targets))
    hardware = np.array(problem.hardware)
    for name in dict.fromkeys(problem.hardware):
        out = hardware == name
        unknown = fit(problem, ~out, full)
        errors[out] = problem.log_seconds(unknown, out) - problem.targets[out]
    return errors


# --- the document -------------------------------------------------------------------------------------------

# What published runs do not tell of the CPU is measured (fit_cpu_speed.py) and stays as it is in the file.
CPU_MEASURED = ("read_share", "routed_share", "weight_s", "thread_flops_s", "layer_s", "moe_layer_s",
                "recurrent_layer_s", "token_s", "flops_per_byte", "routed_flops_share",
                "attention_flops_share", "unpack_bytes")  # fmt: skip
# A PCIe 3.0 x16 link (15.75 GB/s) carried experts at 10.6 GB/s (Quadro RTX 5000, n-cpu-moe 16 to 40).
LINK_SHARE = 0.67


def make_kernels(decode: Array, prompt: Array) -> dict[str, dict[str, Any]]:
    """All families' constants; "other" takes the common ones."""
    decode_logs = Model(DECODE, decode_coefficients).priors
    prompt_logs = Model(PROMPT, prompt_coefficients).priors
    found = {}
    for i, kind in enumerate(KINDS):
        found[kind] = make_row(
            decode_logs[i] + decode[0] + decode[1 + i], prompt_logs[i] + prompt[0] + prompt[1 + i]
        )
    common = make_row(decode_logs[0] + decode[0], prompt_logs[0] + prompt[0])
    cpu = json.loads(OUT.read_text())["kernels"]["cpu"]
    found["cpu"] |= {name: cpu[name] for name in CPU_MEASURED} | {"sheet_share": CPU_SHEET_SHARE}
    return {**found, "other": common}


def make_row(decode: Array, prompt: Array) -> dict[str, Any]:
    value = {c.name: rounded(v) for c, v in zip(DECODE, np.exp(decode), strict=True)}
    value |= {c.name: rounded(v) for c, v in zip(PROMPT, np.exp(prompt), strict=True)}
    unpack = {group: value.pop(f"unpack_{group}") for group in GROUPS}
    return {**value, "unpack_bytes": {"float": 0.0, **unpack}}


def rounded(value: float) -> float:
    return float(f"{value:.3g}")


def make_document(kernels: Mapping[str, Any], decode_errors: Array, prompt_errors: Array) -> dict[str, Any]:
    low, high = np.exp(np.quantile(decode_errors, [0.1, 0.9]))
    prompt_low, prompt_high = np.exp(np.quantile(prompt_errors, [0.1, 0.9]))
    return {
        "source": SOURCE,
        "date": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(),
        "link_share": LINK_SHARE,
        "decode_low": rounded(low),
        "decode_high": rounded(high),
        "prompt_low": rounded(prompt_low),
        "prompt_high": rounded(prompt_high),
        "kernels": kernels,
    }


# --- printing -----------------------------------------------------------------------------------------------


def misses(errors: Array) -> Array:
    """|predicted - measured| ÷ measured."""
    return np.abs(np.exp(-errors) - 1)


def show_constants(kernels: Mapping[str, Any]) -> None:
    print(f"\n{'constant':22}" + "".join(f"{kind:>10}" for kind in (*KINDS, "other")))
    for name in ("read_share", "routed_share", "cache_share", "attention_bytes", "layer_s", "moe_layer_s",
                 "recurrent_layer_s", "token_s", "hop_s", "border_s", "flops_per_byte", "routed_flops_share",
                 "attention_flops_share"):  # fmt: skip
        scale, unit = (1e6, " [us]") if name.endswith("_s") else (1, "")
        values = [f"{scale * kernels[kind][name]:10.3g}" for kind in (*KINDS, "other")]
        print(f"{name + unit:22}" + "".join(values))
    for group in GROUPS:
        values = [f"{kernels[kind]['unpack_bytes'][group]:10.3g}" for kind in (*KINDS, "other")]
        print(f"{'unpack ' + group:22}" + "".join(values))


def show_errors(title: str, rows: Sequence[Row], errors: Array) -> None:
    miss = misses(errors)
    print(f"\n{title}, hardware left out: median error {100 * np.median(miss):.1f} % over {len(rows)} rows")
    by_hardware = {
        row.hardware: [i for i, r in enumerate(rows) if r.hardware == row.hardware] for row in rows
    }
    medians = {name: float(np.median(miss[found])) for name, found in by_hardware.items()}
    print(f"  median of the {len(medians)} machines' medians {100 * np.median(list(medians.values())):.1f} %")
    for name, group in (("high confidence", lambda row: row.weight >= 1), *((k, _is_kind(k)) for k in KINDS)):
        found = [i for i, row in enumerate(rows) if group(row)]
        if found:
            print(f"  {name:16} {len(found):4} rows {100 * np.median(miss[found]):6.1f} %")
    for name, found in sorted(by_hardware.items(), key=lambda item: -medians[item[0]]):
        ratio = math.exp(float(np.median(errors[found])))
        print(
            f"    {name:32} {rows[found[0]].kind:9} {len(found):4} rows"
            f" {100 * medians[name]:6.1f} %  x {ratio:.2f}"
        )


def _is_kind(kind: str) -> Callable[[Row], bool]:
    return lambda row: row.kind == kind


def show_worst(rows: Sequence[Row], errors: Array, measured: Sequence[float], count: int) -> None:
    print(f"\nthe {count} worst rows (measured ÷ predicted)")
    for i in np.argsort(-np.abs(errors))[:count]:
        row, ratio = rows[i], math.exp(errors[i])
        print(
            f"  {row.id:>5} {row.hardware[:18]:18} {row.kind:8} {row.model[:18]:18} {row.quant[:10]:10}"
            f" depth {row.load.depth:6} {row.split[:22]:22} {measured[i]:8.1f} tok/s x {ratio:4.2f}"
            f"  {reason(row)}"
        )


# What the missed rows have in common: a likely reason, not one that was verified.
REASONS: tuple[tuple[str, Callable[[Row], bool]], ...] = (
    ("new architecture: hyper-connections, compressed caches", lambda r: r.model.startswith("DeepSeek-V4")),
    ("BF16 on Vulkan: slow in nearly every such row", lambda r: r.kind == "vulkan" and r.quant == "BF16"),
    ("2024 build", lambda r: r.date.startswith("2024")),
    ("user submission, flags not known", lambda r: r.weight <= 0.4),
    ("MLA at depth", lambda r: r.model.startswith("GLM-4.7-Flash") and r.load.depth > 4000),
    ("caches at depth: differs between back ends", lambda r: r.load.depth > 30000),
    ("bandwidth of the RAM theoretical", lambda r: "RAM" in r.split),
)


def reason(row: Row) -> str:
    return next((text for text, holds in REASONS if holds(row)), "")


def check_against_model(rows: Sequence[Row], problem: Problem, unknown: Array, constants: Constants) -> None:
    """The arrays here and the package must be the same model."""
    keep = np.ones(len(rows), bool)
    here = np.exp(problem.log_seconds(unknown, keep))
    for row, seconds in zip(rows, here, strict=True):
        if all(lane.kind != "cpu" for lane in row.lanes):
            lanes = {lane.device: lane for lane in row.lanes}
            there = decode_s(row.work, lanes, row.load.depth, constants)
            assert abs(there / seconds - 1) < 0.03, (row.id, there, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", action="store_true", help=f"write {OUT.name}")
    parser.add_argument("--worst", type=int, default=30)
    arguments = parser.parse_args()
    rows, refused = read_rows(arguments.data)
    print(f"{len(rows)} rows used")
    for why, count in refused.most_common():
        print(f"  {count:4} refused: {why}")

    decode_rows = [row for row in rows if row.decode_tok_s]
    problem = decode_problem(decode_rows)
    decode = fit(problem, np.ones(len(decode_rows), bool))
    # The prompt's offset needs the layers' seconds, so the decode constants come first.
    first = parse_constants(
        make_document(make_kernels(decode, np.zeros((1 + len(KINDS), len(PROMPT)))), np.zeros(1), np.zeros(1))
    )
    check_against_model(decode_rows, problem, decode, first)
    prompt_rows = [row for row in rows if row.prompt_tok_s and len(row.lanes) == 1]
    prompts = prompt_problem(prompt_rows, first)
    prompt = fit(prompts, np.ones(len(prompt_rows), bool))

    kernels = make_kernels(decode, prompt)
    show_constants(kernels)
    decode_errors = leave_one_out(problem, decode)
    show_errors("decode", decode_rows, decode_errors)
    show_worst(decode_rows, decode_errors, [row.decode_tok_s or 0.0 for row in decode_rows], arguments.worst)
    prompt_errors = leave_one_out(prompts, prompt)
    show_errors("prompt", prompt_rows, prompt_errors)
    show_worst(prompt_rows, prompt_errors, [row.prompt_tok_s or 0.0 for row in prompt_rows], arguments.worst)
    document = make_document(kernels, decode_errors, prompt_errors)
    print("\n" + json.dumps({name: value for name, value in document.items() if name != "kernels"}, indent=1))
    if arguments.write:
        OUT.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
