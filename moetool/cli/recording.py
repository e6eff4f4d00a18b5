"""What bench and run measured is kept beside what was predicted for it: later predictions learn from it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moetool.generate import Stats
    from moetool.plan import Plan
    from moetool.speed import Load


@dataclass(frozen=True)
class Measured:
    """What was measured under `load`, in tokens per second; None where it was not."""

    load: Load
    prompt_tok_s: float | None = None
    decode_tok_s: float | None = None


def keep_measured(plan: Plan, measured: Measured, command: str) -> None:
    """Keep a measurement for later predictions of this machine."""
    from moetool.kept_runs import keep_run, read_runs_path
    from moetool.speed import Calibration, make_target

    # What is kept is the error of the model itself: a prediction that learnt from runs would hide it.
    untaught = replace(plan, calibration=()).predict(measured.load)
    run = Calibration(
        target=make_target(plan.anatomy, plan.settings, plan.machine),
        predicted_decode_tok_s=untaught.decode_tok_s if measured.decode_tok_s else None,
        measured_decode_tok_s=measured.decode_tok_s if untaught.decode_tok_s else None,
        predicted_prompt_tok_s=untaught.prompt_tok_s if measured.prompt_tok_s else None,
        measured_prompt_tok_s=measured.prompt_tok_s if untaught.prompt_tok_s else None,
    )
    if run.measured_decode_tok_s or run.measured_prompt_tok_s:
        keep_run(read_runs_path(), run, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), command)


def load_of(plan: Plan, stats: Stats) -> Load:
    """What an answer asked of the model: its prompt, and decoding at its middle."""
    from moetool.speed import Load

    depth = stats.reused_tokens + stats.prompt_tokens + stats.generated_tokens // 2
    return Load(max(1, stats.prompt_tokens), plan.settings.n_ubatch, depth)


def keep_answer(plan: Plan, stats: Stats, n_faults: int) -> None:
    """Keep the decode speed of an answer that tells something of it: long enough, drawn token by token
    (forced ones come in batches), its weights in memory (`n_faults` pages came from disk meanwhile)."""
    from moetool.kept_runs import MIN_TOKENS

    is_cold = n_faults > stats.generated_tokens
    if stats.decode_tok_s is None or stats.generated_tokens < MIN_TOKENS or stats.forced_tokens or is_cold:
        return
    keep_measured(plan, Measured(load_of(plan, stats), decode_tok_s=stats.decode_tok_s), "run")
