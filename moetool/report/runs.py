"""Documents of runs: an answer, a batch of them, the sessions that were kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from moetool.report.plans import of_plan

if TYPE_CHECKING:
    from moetool.batch.results import BatchDone
    from moetool.engine.measured import BufferSize
    from moetool.generate import Stats
    from moetool.kept_sessions import KeptSession
    from moetool.plan import Plan
    from moetool.speed import Speed


@dataclass(frozen=True)
class Loaded:
    """What loading a model took: its (first) file, seconds, and the buffers llama.cpp made."""

    file_name: str
    load_s: float
    buffers: tuple[BufferSize, ...]


def of_run(
    text: str, stats: Stats, loaded: Loaded, plan: Plan, predicted: Speed, seed: int
) -> dict[str, Any]:
    """The run document: the answer, what it took, and the promise beside the measurement. `predicted` is the
    speed for this prompt at this depth; the plan's own is for llama-bench's tests. `closed`: the answer was
    cut off, and `closing`, the end of `text`, makes it whole in the model's place. `prompt_tokens_reused` of
    the `prompt_tokens` were not read: a session or an earlier attempt had left them in the cache.
    `shifted_tokens` were forgotten in a full context, so that the answer could go on."""
    return {
        "text": text,
        "finish_reason": stats.finish_reason,
        "closed": bool(stats.closing),
        "closing": stats.closing,
        "prompt_tokens": stats.prompt_tokens + stats.reused_tokens,
        "prompt_tokens_reused": stats.reused_tokens,
        "shifted_tokens": stats.shifted_tokens,
        "generated_tokens": stats.generated_tokens,
        "forced_tokens": stats.forced_tokens,
        "seed": seed,
        "load_s": loaded.load_s,
        "ttft_s": stats.ttft_s,
        "prompt_tok_s": stats.prompt_tok_s,
        "decode_tok_s": stats.decode_tok_s,
        "plan": of_plan(plan, loaded.file_name),
        "predicted": {
            "decode_tok_s": predicted.decode_tok_s,
            "decode_low": predicted.decode_low,
            "decode_high": predicted.decode_high,
            "prompt_tok_s": predicted.prompt_tok_s,
            "total_bytes": sum(row.total_bytes for row in plan.memory),
        },
        "measured": {
            "decode_tok_s": stats.decode_tok_s,
            "prompt_tok_s": stats.prompt_tok_s,
            "total_bytes": sum(buffer.n_bytes for buffer in loaded.buffers),
            "buffers": [asdict(buffer) for buffer in loaded.buffers],
        },
    }


def of_batch(done: BatchDone) -> dict[str, Any]:
    """What a batch has come to; the answers are in the file `out`."""
    return {
        "out": str(done.out),
        "prompts": done.n_prompts,
        "kept": done.n_kept,
        "failed": done.n_failed,
        "parallel": done.n_parallel,
        "prompt_tokens": done.prompt_tokens,
        "generated_tokens": done.generated_tokens,
        "seconds": done.seconds,
        "generated_tok_s": done.generated_tok_s,
    }


def of_sessions(kept: Sequence[KeptSession]) -> dict[str, Any]:
    """What `run --session` has kept; model and tokens are null without a state that can be read."""
    return {"sessions": [asdict(item) for item in kept]}
