"""Prompt and decode speed, measured as llama-bench measures it: random tokens, no sampling, an empty cache.

Rows carry llama-bench's field names, so that what reads its output reads ours.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


class Runner(Protocol):
    """What a speed test needs of an engine."""

    @property
    def n_vocab(self) -> int: ...
    def decode(self, tokens: Sequence[int]) -> None: ...
    def synchronize(self) -> None: ...
    def rewind(self, n_past: int) -> int: ...


@dataclass(frozen=True)
class SpeedTest:
    """One row: `n_prompt` tokens read at once, or `n_gen` decoded one by one, `n_depth` tokens being in
    context already."""

    n_prompt: int
    n_gen: int
    n_depth: int = 0

    @property
    def name(self) -> str:
        """llama-bench's short name: pp512, tg128, tg128 @ d4096."""
        kind = f"pp{self.n_prompt}" if self.n_prompt else f"tg{self.n_gen}"
        return f"{kind} @ d{self.n_depth}" if self.n_depth else kind


@dataclass(frozen=True)
class SpeedSamples:
    """The measured times of one test, in nanoseconds, one a repetition."""

    test: SpeedTest
    samples_ns: tuple[int, ...]

    @property
    def samples_tok_s(self) -> tuple[float, ...]:
        n_tokens = self.test.n_prompt + self.test.n_gen
        return tuple(n_tokens * 1e9 / ns for ns in self.samples_ns)

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


def make_tests(
    n_prompts: Sequence[int], n_gens: Sequence[int], depths: Sequence[int]
) -> tuple[SpeedTest, ...]:
    """llama-bench's order: for each depth the prompts, then the generations; zeros are left out."""
    tests = [
        test
        for depth in depths
        for test in (
            *(SpeedTest(n, 0, depth) for n in n_prompts if n),
            *(SpeedTest(0, n, depth) for n in n_gens if n),
        )
    ]
    return tuple(tests)


def measure_speed(
    runner: Runner,
    test: SpeedTest,
    repetitions: int,
    on_step: Callable[[], None] = lambda: None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> SpeedSamples:
    """Warm up once, then time `repetitions` runs. `on_step` is called after each of the 1 + n runs."""
    rng = random.Random(1)
    samples = []
    for repetition in range(repetitions + 1):
        runner.rewind(0)
        if test.n_depth:
            runner.decode(_random_tokens(rng, test.n_depth, runner.n_vocab))
            runner.synchronize()
        warming = repetition == 0
        steps = list(_steps(rng, test, runner.n_vocab, warming))
        started = clock_ns()
        for tokens in steps:
            runner.decode(tokens)
            runner.synchronize()
        if not warming:
            samples.append(clock_ns() - started)
        on_step()
    runner.rewind(0)
    return SpeedSamples(test, tuple(samples))


def _steps(rng: random.Random, test: SpeedTest, n_vocab: int, warming: bool) -> Iterator[list[int]]:
    """The batches of one run; a generation is warmed up by a single token, as llama-bench does."""
    if test.n_prompt:
        yield _random_tokens(rng, test.n_prompt, n_vocab)
    for _ in range(min(test.n_gen, 1) if warming else test.n_gen):
        yield _random_tokens(rng, 1, n_vocab)


def _random_tokens(rng: random.Random, count: int, n_vocab: int) -> list[int]:
    return [rng.randrange(n_vocab) for _ in range(count)]
