"""What bench measures and how it counts, over a runner that only takes notes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from moetool.bench.speed import SpeedSamples, SpeedTest, make_tests, measure_speed


class NotingRunner:
    n_vocab = 50

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.now = 0

    def decode(self, tokens: Sequence[int]) -> None:
        assert all(0 <= t < self.n_vocab for t in tokens)
        self.calls.append(len(tokens))
        self.now += 1000 * len(tokens)

    def synchronize(self) -> None:
        pass

    def rewind(self, n_past: int) -> int:
        self.calls.append("clear")
        return 0


def test_a_prompt_is_one_batch_into_an_empty_cache_and_the_first_run_does_not_count() -> None:
    runner = NotingRunner()
    samples = measure_speed(runner, SpeedTest(64, 0), 2, clock_ns=lambda: runner.now)
    assert runner.calls == ["clear", 64, "clear", 64, "clear", 64, "clear"]
    assert samples.samples_ns == (64_000, 64_000)
    assert samples.mean_tok_s == 1e6
    assert samples.sd_tok_s == 0


def test_decoding_is_one_token_at_a_time_and_depth_is_not_timed() -> None:
    runner = NotingRunner()
    samples = measure_speed(runner, SpeedTest(0, 3, 10), 1, clock_ns=lambda: runner.now)
    assert runner.calls == ["clear", 10, 1, "clear", 10, 1, 1, 1, "clear"]
    assert samples.samples_ns == (3_000,)


def test_tests_come_in_llama_bench_order_with_its_names() -> None:
    tests = make_tests([512], [0, 128], [0, 4096])
    assert [t.name for t in tests] == ["pp512", "tg128", "pp512 @ d4096", "tg128 @ d4096"]


def test_statistics() -> None:
    samples = SpeedSamples(SpeedTest(0, 10), (10**9, 2 * 10**9))
    assert samples.samples_tok_s == (10, 5)
    assert samples.mean_tok_s == samples.median_tok_s == 7.5
    assert samples.sd_tok_s == pytest.approx(3.5355, abs=1e-4)
