"""Prompt and decode speed, measured as llama-bench measures it: random tokens, no sampling, an empty cache.

Rows carry llama-bench's field names, so that what reads its output reads ours.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

# Repetitions that differ by more were disturbed: a machine left alone stays below a third of it.
NOISY = 0.05


class Runner(Protocol):
    """What a speed test needs of an engine."""

    @property
    def n_vocab(self) -> int: ...
    def decode(self, tokens: Sequence[int]) -> None: ...
    def decode_each(self, tokens: Sequence[int]) -> None: ...
    def synchronize(self) -> None: ...
    def rewind(self, n_past: int) -> int: ...
    def keep_here(self) -> None: ...


@dataclass(frozen=True)
class SpeedTest:
    """One row: `n_prompt` tokens read at once, then `n_gen` decoded one by one (either may be 0), `n_depth`
    tokens being in context already."""

    n_prompt: int
    n_gen: int
    n_depth: int = 0

    @property
    def name(self) -> str:
        """llama-bench's short name: pp512, tg128, pp512+tg128, tg128 @ d4096."""
        parts = [f"pp{self.n_prompt}"] if self.n_prompt else []
        parts += [f"tg{self.n_gen}"] if self.n_gen else []
        kind = "+".join(parts)
        return f"{kind} @ d{self.n_depth}" if self.n_depth else kind

    @property
    def n_tokens(self) -> int:
        """Tokens that are timed."""
        return self.n_prompt + self.n_gen


@dataclass(frozen=True)
class SpeedSamples:
    """The measured times of one test, in nanoseconds, one a repetition; `first_ns` until the prompt was read,
    and a first token could be drawn (none without a prompt). `energy_j` is what all repetitions together took
    by the meters that this machine has (None: it has none)."""

    test: SpeedTest
    samples_ns: tuple[int, ...]
    first_ns: tuple[int, ...] = ()
    energy_j: float | None = None

    @property
    def samples_tok_s(self) -> tuple[float, ...]:
        return tuple(self.test.n_tokens * 1e9 / ns for ns in self.samples_ns)

    @property
    def mean_tok_s(self) -> float:
        return statistics.fmean(self.samples_tok_s)

    @property
    def sd_tok_s(self) -> float:
        """Sample standard deviation; 0 of a single repetition."""
        return statistics.stdev(self.samples_tok_s) if len(self.samples_ns) > 1 else 0.0

    @property
    def median_tok_s(self) -> float:
        return statistics.median(self.samples_tok_s)

    @property
    def variation(self) -> float:
        """The coefficient of variation: standard deviation by mean."""
        return self.sd_tok_s / self.mean_tok_s

    @property
    def ttft_s(self) -> float | None:
        """Seconds from a prompt to its first token, in the middle; None without a prompt."""
        return statistics.median(self.first_ns) / 1e9 if self.first_ns else None

    @property
    def energy_j_per_token(self) -> float | None:
        """Joules a token; None where nothing meters them."""
        n_tokens = self.test.n_tokens * len(self.samples_ns)
        return None if self.energy_j is None else self.energy_j / n_tokens


def make_tests(
    n_prompts: Sequence[int],
    n_gens: Sequence[int],
    depths: Sequence[int],
    pairs: Sequence[tuple[int, int]] = (),
) -> tuple[SpeedTest, ...]:
    """llama-bench's order: for each depth the prompts, the generations, and prompts with generations after
    them (`pairs`); zeros are left out."""
    tests = [
        test
        for depth in depths
        for test in (
            *(SpeedTest(n, 0, depth) for n in n_prompts if n),
            *(SpeedTest(0, n, depth) for n in n_gens if n),
            *(SpeedTest(prompt, gen, depth) for prompt, gen in pairs if prompt or gen),
        )
    ]
    return tuple(dict.fromkeys(tests))


def no_meter() -> float | None:
    """Where nothing counts joules."""
    return None


@dataclass(frozen=True)
class Stopwatch:
    """How tests are measured: how often, what is told after each of the 1 + n runs of a test, what counts
    time and joules. A prompt is warmed up by `warm_tokens` of it (None: all, as llama-bench does)."""

    repetitions: int
    on_run: Callable[[SpeedTest], None] = lambda _: None
    clock_ns: Callable[[], int] = time.perf_counter_ns
    energy_j: Callable[[], float | None] = no_meter
    warm_tokens: int | None = None

    def measure(self, runner: Runner, test: SpeedTest) -> SpeedSamples:
        """Warm up once, then time the repetitions."""
        rng = random.Random(1)
        n_warm = test.n_prompt if self.warm_tokens is None else min(self.warm_tokens, test.n_prompt)
        # A generation is warmed up by a single token, as llama-bench does.
        self._run(runner, SpeedTest(n_warm, min(test.n_gen, 1), test.n_depth), rng)
        runs = [self._run(runner, test, rng) for _ in range(self.repetitions)]
        joules = [run.energy_j for run in runs if run.energy_j is not None]
        return SpeedSamples(
            test,
            tuple(run.all_ns for run in runs),
            tuple(run.first_ns for run in runs) if test.n_prompt else (),
            sum(joules) if len(joules) == len(runs) else None,
        )

    def _run(self, runner: Runner, test: SpeedTest, rng: random.Random) -> _Run:
        _go_to(runner, test.n_depth, rng)
        prompt = _random_tokens(rng, test.n_prompt, runner.n_vocab)
        generated = _random_tokens(rng, test.n_gen, runner.n_vocab)
        joules = self.energy_j()
        started = self.clock_ns()
        if prompt:
            runner.decode(prompt)
            runner.synchronize()
        first = self.clock_ns()
        if generated:
            runner.decode_each(generated)
        ended = self.clock_ns()
        after = self.energy_j()
        self.on_run(test)
        taken = None if joules is None or after is None else after - joules
        return _Run(ended - started, first - started, taken)


@dataclass(frozen=True)
class _Run:
    all_ns: int
    first_ns: int
    energy_j: float | None


def _go_to(runner: Runner, n_depth: int, rng: random.Random) -> None:
    """Have `n_depth` tokens in context: those of the last repetition where its memory can go back to them."""
    n_left = runner.rewind(n_depth)
    if n_left < n_depth:
        runner.decode(_random_tokens(rng, n_depth - n_left, runner.n_vocab))
        runner.synchronize()
        runner.keep_here()


def _random_tokens(rng: random.Random, count: int, n_vocab: int) -> list[int]:
    return [rng.randrange(n_vocab) for _ in range(count)]
