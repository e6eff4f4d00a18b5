"""A measured row with everything it was measured under: llama-bench's field names first, ours after."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from moetool.bench.speed import SpeedSamples
from moetool.eval import Quality
from moetool.finite import finite
from moetool.plan import Plan
from moetool.settings import Settings


@dataclass(frozen=True)
class Subject:
    """What was measured: the file, its kind ("Qwen3 0.6B Q8_0"), the bytes and parameters of its weights."""

    filename: str
    kind: str
    size_bytes: int
    n_params: int


@dataclass(frozen=True)
class Host:
    """On what: processor, cards, llama.cpp's back ends, its commit, and the package that brought it."""

    cpu_name: str
    gpu_names: str
    backends: str
    commit: str
    package: str


@dataclass(frozen=True)
class DeviceUse:
    """Bytes on one device: what was predicted, and the buffers that llama.cpp made there, by what they hold
    (weights, kv, state, compute, output)."""

    device: str
    predicted_bytes: int
    measured_bytes: int
    parts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadTime:
    """How long loading took. `read_bytes` came from the disk meanwhile, so that it was cold or warm; None
    where nobody counts them. Settings that share a load share this."""

    seconds: float
    read_bytes: int | None
    is_cold: bool | None


@dataclass(frozen=True)
class Footprint:
    """What one setting took: memory by device, the process's largest resident size (mapped pages of the file
    are in it; 0: unknown), and the loads, the first one first."""

    memory: tuple[DeviceUse, ...]
    peak_rss_bytes: int
    loads: tuple[LoadTime, ...]

    @property
    def measured_bytes(self) -> int:
        return sum(use.measured_bytes for use in self.memory)

    @property
    def predicted_bytes(self) -> int:
        return sum(use.predicted_bytes for use in self.memory)

    def load_s(self, *, is_cold: bool) -> float | None:
        """Seconds of a load from the disk, or from memory; None when there was none."""
        return next((load.seconds for load in self.loads if load.is_cold is is_cold), None)


@dataclass(frozen=True)
class Predicted:
    """Predicted speed in tokens/s, with its interval; None where it is unknown."""

    tok_s: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class BenchRow:
    """One test of one model under one setting.

    `point` says what the setting changes of the base, axis -> value; rows of one setting have the same.
    `extra` are further figures about the setting, by the name of their column ("kld_mean": 0.012).
    """

    subject: Subject
    host: Host
    settings: Settings
    n_cpu_moe: int
    footprint: Footprint
    samples: SpeedSamples
    test_time: str
    predicted: Predicted
    point: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, float | int | str | None] = field(default_factory=dict)
    is_pareto: bool | None = None

    @property
    def prediction_error(self) -> float | None:
        """By what part the prediction was above what was measured."""
        if self.predicted.tok_s is None:
            return None
        return self.predicted.tok_s / self.samples.median_tok_s - 1


def add_extra(
    rows: Sequence[BenchRow], point: Mapping[str, str], extra: Mapping[str, float | int | str | None]
) -> tuple[BenchRow, ...]:
    """The rows, with further figures in those of one setting."""
    return tuple(replace(r, extra={**r.extra, **extra}) if r.point == point else r for r in rows)


def row_fields(row: BenchRow) -> dict[str, Any]:
    """The row under llama-bench's names in its order (tools/llama-bench/llama-bench.cpp: test::get_fields,
    and the samples of its JSON), then ours; None for numbers that are not finite."""
    fields: dict[str, Any] = finite(_llama_bench_fields(row) | _our_fields(row) | dict(row.extra))
    return fields


# What llama-bench can set and moetool leaves as it is, with the values that llama-bench prints then.
_UNTOUCHED_THREADS: dict[str, Any] = {"cpu_mask": "0x0", "cpu_strict": False, "poll": 50}
_UNTOUCHED: dict[str, Any] = {
    "lazy_mode": "auto",
    "embeddings": False,
    "no_op_offload": 0,
    "no_host": False,
}


def _llama_bench_fields(row: BenchRow) -> dict[str, Any]:
    settings, samples = row.settings, row.samples
    times = samples.samples_ns
    return {
        "build_commit": row.host.commit,
        "build_number": 0,
        "cpu_info": row.host.cpu_name,
        "gpu_info": row.host.gpu_names,
        "backends": row.host.backends,
        "model_filename": row.subject.filename,
        "model_type": row.subject.kind,
        "model_size": row.subject.size_bytes,
        "model_n_params": row.subject.n_params,
        "n_batch": settings.n_batch,
        "n_ubatch": settings.n_ubatch,
        "n_threads": settings.n_threads,
        **_UNTOUCHED_THREADS,
        "type_k": settings.type_k,
        "type_v": settings.type_v,
        "n_gpu_layers": settings.n_gpu_layers,
        "n_cpu_moe": row.n_cpu_moe,
        "split_mode": "layer",
        "main_gpu": 0,
        "no_kv_offload": False,
        "flash_attn": int(settings.flash_attn),
        "devices": "/".join(settings.devices) or "none",
        "tensor_split": "/".join(f"{share:.2f}" for share in settings.tensor_split) or "0.00",
        "tensor_buft_overrides": ";".join(f"{o.pattern}={o.device}" for o in settings.tensor_overrides)
        or "none",
        "load_mode": "auto" if settings.use_mmap else "none",
        **_UNTOUCHED,
        "repack": settings.repack,
        "fit_target": 0,
        "fit_min_ctx": 0,
        "n_prompt": samples.test.n_prompt,
        "n_gen": samples.test.n_gen,
        "n_depth": samples.test.n_depth,
        "test_time": row.test_time,
        "avg_ns": round(statistics.fmean(times)),
        "stddev_ns": round(statistics.stdev(times)) if len(times) > 1 else 0,
        "avg_ts": samples.mean_tok_s,
        "stddev_ts": samples.sd_tok_s,
        "samples_ns": list(times),
        "samples_ts": list(samples.samples_tok_s),
    }


def _our_fields(row: BenchRow) -> dict[str, Any]:
    samples, footprint = row.samples, row.footprint
    return {
        "llama_cpp_python": row.host.package,
        "experts": row.settings.experts,
        "median_ts": samples.median_tok_s,
        "variation": samples.variation,
        "predicted_ts": row.predicted.tok_s,
        "predicted_low_ts": row.predicted.low,
        "predicted_high_ts": row.predicted.high,
        "prediction_error": row.prediction_error,
        "ttft_s": samples.ttft_s,
        "energy_j_per_token": samples.energy_j_per_token,
        "memory_bytes": footprint.measured_bytes,
        "predicted_memory_bytes": footprint.predicted_bytes,
        "memory": [
            {
                "device": u.device,
                "bytes": u.measured_bytes,
                "predicted_bytes": u.predicted_bytes,
                "parts": dict(u.parts),
            }
            for u in footprint.memory
        ],
        "peak_rss_bytes": footprint.peak_rss_bytes or None,
        "load_s": footprint.loads[0].seconds if footprint.loads else None,
        "load_cold_s": footprint.load_s(is_cold=True),
        "load_warm_s": footprint.load_s(is_cold=False),
        "pareto": row.is_pareto,
    }


@dataclass(frozen=True)
class Benchmark:
    """All rows, sentences on what to know of them (what was not measured, what is noisy), the quality of each
    setting where it was asked for, and the plan of the first setting."""

    rows: tuple[BenchRow, ...]
    notes: tuple[str, ...] = ()
    judged: tuple[Judged, ...] = ()
    plan: Plan | None = None


@dataclass(frozen=True)
class Judged:
    """One setting's quality; `reference` names what it was held against, None where nothing was. Against kept
    expectations divergence is estimated."""

    point: Mapping[str, str]
    quality: Quality
    reference: str | None
    is_estimated: bool = False


def quality_fields(judged: Judged) -> dict[str, float | None]:
    """A setting's quality in columns of its rows. What a reference is held against itself is 0, not
    measured."""
    ppl, kld = judged.quality.ppl, judged.quality.kld
    found: dict[str, float | None] = {"ppl": ppl.value, "ppl_low": ppl.low, "ppl_high": ppl.high}
    names = ("mean", "median", "p90", "p99", "p99_9")
    if kld is None:
        nothing = 0.0 if judged.reference == ITSELF else None
        same = None if nothing is None else 1.0
        return found | {f"kld_{name}": nothing for name in (*names, "max")} | {"same_top": same}
    found |= {f"kld_{name}": getattr(kld, name).value for name in names}
    return found | {"kld_max": kld.max, "same_top": kld.same_top.value}


# Of the first of several settings, which the others are held against.
ITSELF = "itself"
QUALITY_FIELDS = frozenset({"ppl", "ppl_low", "ppl_high", "same_top"}) | {
    f"kld_{name}" for name in ("mean", "median", "p90", "p99", "p99_9", "max")
}
