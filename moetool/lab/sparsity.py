"""Rows and readings of several numbers of experts become a frontier; how much to measure in some time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from moetool.anatomy import Anatomy
from moetool.anatomy.sizes import params_active_with
from moetool.bench.report import Benchmark, BenchRow
from moetool.bench.speed import SpeedSamples, SpeedTest
from moetool.eval import Quality
from moetool.eval.figures import Figure
from moetool.frontier import Frontier, FrontierPoint, Interval, TextScore

# The name of a point's only axis, as `bench --sweep` has it.
AXIS = "experts"
# From the longest to the shortest test that is worth making: prompt tokens, decoded tokens.
_TESTS = ((512, 128), (512, 64), (256, 64), (256, 32), (128, 32), (128, 16))
LONGEST_TEST = 512


@dataclass(frozen=True)
class Sparsity:
    """What `moetool sparsity` found: the frontier, and all that it was made of. `min_tok_s` is what was
    wished for, `pick` the number of experts that gives it at least cost (None: no wish, or none gives it)."""

    frontier: Frontier
    benchmark: Benchmark
    n_texts: int
    min_tok_s: float | None = None
    pick: FrontierPoint | None = None


def choose_tests(prompt_tok_s: float, decode_tok_s: float, n_runs: int, budget_s: float) -> tuple[int, int]:
    """The longest prompt and generation of which `n_runs` fit into so many seconds; the shortest where none
    do."""
    for n_prompt, n_gen in _TESTS:
        if n_runs * (n_prompt / prompt_tok_s + n_gen / decode_tok_s) <= budget_s:
            return n_prompt, n_gen
    return _TESTS[-1]


def choose_chunks(prompt_tok_s: float, n_ctx: int, n_reads: int, budget_s: float) -> int:
    """How many chunks of a text may be read, each `n_reads` times; two at least, for one has no interval."""
    return max(2, int(budget_s * prompt_tok_s / (n_ctx * max(1, n_reads))))


def join_passes(rows: Sequence[BenchRow]) -> tuple[BenchRow, ...]:
    """One row for each test of each setting: the samples of later rows join those of the first, which keeps
    its prediction."""
    joined: dict[tuple[str, SpeedTest], BenchRow] = {}
    for row in rows:
        key = (row.point[AXIS], row.samples.test)
        first = joined.get(key)
        if first is None:
            joined[key] = row
            continue
        old, new = first.samples, row.samples
        energy = None if old.energy_j is None or new.energy_j is None else old.energy_j + new.energy_j
        samples = replace(
            old,
            samples_ns=old.samples_ns + new.samples_ns,
            first_ns=old.first_ns + new.first_ns,
            energy_j=energy,
        )
        joined[key] = replace(first, samples=samples)
    return tuple(joined.values())


def pace(all_own: SpeedSamples, own: SpeedSamples, other: SpeedSamples) -> SpeedSamples:
    """What another number took, turn by turn beside the model's own (`own`), as if the machine had been as
    fast all the while as in the middle of all turns of the model's own (`all_own`)."""
    middle_ns = statistics.median(all_own.samples_ns)
    factors = [middle_ns / ns for ns in own.samples_ns]
    return replace(
        other,
        samples_ns=tuple(round(ns * f) for ns, f in zip(other.samples_ns, factors, strict=True)),
        first_ns=tuple(round(ns * f) for ns, f in zip(other.first_ns, factors, strict=False)),
    )


@dataclass(frozen=True)
class Anchor:
    """A speed that was predicted and measured with the model's `own` number, in tokens/s."""

    own: int
    predicted_tok_s: float
    measured_tok_s: float


def correct(anchor: Anchor, experts: int, predicted_tok_s: float) -> float:
    """What is predicted for another number, once the model's own was measured.

    A token takes A + E × experts seconds, by the prediction. What it takes more or less than that with the
    model's own number is shared out between A and E × own by the squares of their sizes: where both may be
    wrong by the same part, this is likeliest. Of a tiny model it is nearly all A's, of a large one a part of
    the bandwidth, which both feel.
    """
    own_s, other_s = 1 / anchor.predicted_tok_s, 1 / predicted_tok_s
    if experts == anchor.own:
        return anchor.measured_tok_s
    of_experts = (other_s - own_s) / (experts - anchor.own) * anchor.own
    rest = own_s - of_experts
    share = of_experts**2 / (of_experts**2 + rest**2)
    off = 1 / anchor.measured_tok_s - own_s
    seconds = other_s + off * (1 - share + share * experts / anchor.own)
    if seconds <= 0:  # what is predicted was too far off to be told from parts
        return predicted_tok_s * anchor.measured_tok_s / anchor.predicted_tok_s
    return 1 / seconds


def make_frontier(
    anatomy: Anatomy, rows: Sequence[BenchRow], scores: Mapping[int, Sequence[TextScore]]
) -> Frontier:
    """The frontier of measured rows (two of each number: a prompt and a generation), and of what was read
    under each number: all texts together first, then each of them where there are several."""
    by_number: dict[int, list[BenchRow]] = {}
    for row in rows:
        by_number.setdefault(int(row.point[AXIS]), []).append(row)
    points = []
    for experts, of_number in sorted(by_number.items()):
        prompt = next(row for row in of_number if row.samples.test.n_prompt)
        decode = next(row for row in of_number if row.samples.test.n_gen)
        whole, *texts = scores.get(experts, ()) or (None,)
        point = FrontierPoint(
            experts=experts,
            n_params_active=params_active_with(anatomy, experts),
            decode_tok_s=decode.samples.median_tok_s,
            prompt_tok_s=prompt.samples.median_tok_s,
            predicted_decode_tok_s=decode.predicted.tok_s,
            predicted_prompt_tok_s=prompt.predicted.tok_s,
            whole=whole,
            texts=tuple(score for score in texts if score is not None),
        )
        points.append(point)
    return Frontier(anatomy.n_expert_used, tuple(points))


def score_text(name: str, quality: Quality) -> TextScore:
    """What the frontier keeps of a reading."""
    kld = quality.kld
    return TextScore(
        text=name,
        n_tokens=quality.n_tokens,
        ppl=to_interval(quality.ppl),
        kld=to_interval(kld.mean) if kld else None,
        same_top=kld.same_top.value if kld else None,
    )


def to_interval(figure: Figure) -> Interval:
    """A figure of a reading as the lab keeps it."""
    return Interval(figure.value, figure.low, figure.high)
