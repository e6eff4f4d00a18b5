"""A measured row with everything it was measured under: llama-bench's field names first, ours after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moetool.bench.speed import SpeedSamples
from moetool.settings import Settings


@dataclass(frozen=True)
class BenchRow:
    """One test of one model under one setting. Predicted speeds are those of the plan, in tokens/s."""

    model_filename: str
    model_type: str
    model_size_bytes: int
    model_n_params: int
    cpu_name: str
    gpu_names: str
    backends: str
    build: str
    settings: Settings
    n_cpu_moe: int
    samples: SpeedSamples
    test_time: str
    predicted_tok_s: float | None
    predicted_low: float | None
    predicted_high: float | None


def row_fields(row: BenchRow) -> dict[str, Any]:
    """The row under llama-bench's names (tools/llama-bench/llama-bench.cpp, test::get_fields), then ours."""
    settings, samples = row.settings, row.samples
    return {
        "build_commit": row.build,
        "build_number": 0,
        "cpu_info": row.cpu_name,
        "gpu_info": row.gpu_names,
        "backends": row.backends,
        "model_filename": row.model_filename,
        "model_type": row.model_type,
        "model_size": row.model_size_bytes,
        "model_n_params": row.model_n_params,
        "n_batch": settings.n_batch,
        "n_ubatch": settings.n_ubatch,
        "n_threads": settings.n_threads,
        "type_k": settings.type_k,
        "type_v": settings.type_v,
        "n_gpu_layers": settings.n_gpu_layers,
        "n_cpu_moe": row.n_cpu_moe,
        "flash_attn": int(settings.flash_attn),
        "tensor_split": "/".join(f"{share:.2f}" for share in settings.tensor_split) or "0.00",
        "tensor_buft_overrides": ";".join(f"{o.pattern}={o.device}" for o in settings.tensor_overrides)
        or "none",
        "n_prompt": samples.test.n_prompt,
        "n_gen": samples.test.n_gen,
        "n_depth": samples.test.n_depth,
        "test_time": row.test_time,
        "avg_ns": round(sum(samples.samples_ns) / len(samples.samples_ns)),
        "avg_ts": samples.mean_tok_s,
        "stddev_ts": samples.sd_tok_s,
        "samples_ns": list(samples.samples_ns),
        "samples_ts": list(samples.samples_tok_s),
        "median_ts": samples.median_tok_s,
        "predicted_ts": row.predicted_tok_s,
        "predicted_low_ts": row.predicted_low,
        "predicted_high_ts": row.predicted_high,
    }
