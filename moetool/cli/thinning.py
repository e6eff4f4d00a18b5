"""What `sparsity` does once its flags are read: measure speed and fidelity under each number of experts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moetool.bench.front import mark_front
from moetool.bench.report import ITSELF, Benchmark, Judged, add_extra, quality_fields
from moetool.cli.answer import load_engine
from moetool.cli.interrupt import CtrlC
from moetool.cli.lab_texts import WHOLE, lab_texts, read_texts, reading_plan
from moetool.cli.opening import Opened, read_this_machine
from moetool.cli.pacing import Paced, measure_speed
from moetool.cli.priced import place_of
from moetool.errors import UsageError
from moetool.eval import Quality
from moetool.frontier import Frontier, TextScore, cheapest, counts_that_matter
from moetool.identity import read_model_digest
from moetool.kept_frontiers import KeptFrontier, keep_frontier, read_frontiers_path
from moetool.lab.sparsity import AXIS, Sparsity, choose_chunks, make_frontier, score_text
from moetool.machine import Machine
from moetool.plan import Wishes, check_experts
from moetool.render.progress import step_progress


@dataclass(frozen=True)
class Asked:
    """What the flags say: numbers of experts (none: those that matter), texts to read (none: ours), about how
    many seconds to measure, and the decode speed that is wished for."""

    counts: tuple[int, ...] = ()
    texts: tuple[Path, ...] = ()
    budget_s: float = 300.0
    min_tok_s: float | None = None


def measure_sparsity(opened: Opened, wishes: Wishes, asked: Asked, rpc: str | None = None) -> Sparsity:
    """Measure the frontier of a model, and keep it for run and plan."""
    texts = read_texts(asked.texts)
    counts = _counts(opened, asked)
    machine = read_this_machine(rpc=rpc, measure="unknown")
    # Texts first: that one is too short should not be said after minutes.
    qualities = _measure_quality(opened, machine, wishes, counts, texts, asked.budget_s / 2)
    paced = measure_speed(opened, machine, wishes, counts, asked.budget_s / 2)
    frontier = make_frontier(opened.anatomy, paced.rows, _scores(qualities))
    _keep(opened, machine, frontier)
    return Sparsity(
        frontier=frontier,
        benchmark=_benchmark(paced, qualities),
        n_texts=len(texts),
        min_tok_s=asked.min_tok_s,
        pick=cheapest(frontier, asked.min_tok_s) if asked.min_tok_s is not None else None,
    )


def _counts(opened: Opened, asked: Asked) -> tuple[int, ...]:
    """The numbers to measure, the model's own among them; UsageError for a model that has no choice."""
    anatomy = opened.anatomy
    own, routing = anatomy.n_expert_used, anatomy.routing
    if not anatomy.is_moe:
        raise UsageError(f"{opened.model.name} has no experts", "sparsity is about mixtures of experts")
    counts = asked.counts or counts_that_matter(own, routing.most)
    for count in counts:
        check_experts(anatomy, count)
    return tuple(sorted({*counts, own}))


# --- fidelity -----------------------------------------------------------------------------------------------


def _measure_quality(
    opened: Opened,
    machine: Machine,
    wishes: Wishes,
    counts: Sequence[int],
    texts: Mapping[str, str],
    budget_s: float,
) -> dict[int, dict[str, Quality]]:
    """Number -> text -> quality, WHOLE first. The model's own number reads first: what it expects is kept for
    the others."""
    own = opened.anatomy.n_expert_used
    plans = {count: reading_plan(opened, machine, replace(wishes, experts=count)) for count in counts}
    n_reads, speed = len(counts) * len(texts), plans[own].speed.prompt_tok_s or 100.0
    n_chunks = choose_chunks(speed, plans[own].settings.n_ctx_seq, n_reads, budget_s)
    found: dict[int, dict[str, Quality]] = {}
    with (
        CtrlC() as ctrl_c,
        step_progress("Reading", n_reads) as on_text,
        lab_texts(opened, texts, n_chunks, ctrl_c.pressed, on_text) as lab,
    ):
        with load_engine(opened, plans[own], ctrl_c.pressed) as engine:
            found[own] = lab.read_first(engine)
        for count in counts:
            if count != own:
                with load_engine(opened, plans[count], ctrl_c.pressed) as engine:
                    found[count] = lab.read(engine)
    return found


# --- results ------------------------------------------------------------------------------------------------


def _scores(qualities: Mapping[int, Mapping[str, Quality]]) -> dict[int, list[TextScore]]:
    """What the frontier keeps; each text by itself only where there are several."""
    found = {}
    for count, by_text in qualities.items():
        n_texts = len(by_text) - 1
        found[count] = [score_text(name, q) for name, q in by_text.items() if name == WHOLE or n_texts > 1]
    return found


def _benchmark(paced: Paced, qualities: Mapping[int, Mapping[str, Quality]]) -> Benchmark:
    own, rows = paced.plan.anatomy.n_expert_used, paced.rows
    judged = []
    for count, by_text in sorted(qualities.items()):
        is_own = count == own
        name = ITSELF if is_own else f"experts {own}"
        judged.append(Judged({AXIS: str(count)}, by_text[WHOLE], name, is_estimated=not is_own))
    for one in judged:
        rows = add_extra(rows, one.point, quality_fields(one))
    return Benchmark(mark_front(rows), paced.notes, tuple(judged), paced.plan)


def _keep(opened: Opened, machine: Machine, frontier: Frontier) -> None:
    fingerprint, devices = place_of(machine)
    kept = KeptFrontier(
        digest=read_model_digest(opened.model.paths),
        weights_bytes=opened.anatomy.weights_bytes,
        fingerprint=fingerprint,
        devices=devices,
        when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        frontier=frontier,
    )
    keep_frontier(read_frontiers_path(), kept)
