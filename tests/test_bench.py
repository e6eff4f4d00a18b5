"""What bench measures and how it counts, over a runner that only takes notes; its rows and their shapes."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from cli_fixture import Moetool
from documents import check_document

from moetool.bench.front import mark_front
from moetool.bench.matrix import make_points, parse_numbers, parse_pairs
from moetool.bench.report import (
    Benchmark,
    BenchRow,
    DeviceUse,
    Footprint,
    Host,
    LoadTime,
    Predicted,
    Subject,
    add_extra,
    row_fields,
)
from moetool.bench.speed import SpeedSamples, SpeedTest, Stopwatch, make_tests
from moetool.cli.sweeping import make_axes
from moetool.errors import UsageError
from moetool.machine.energy import EnergyMeters, Meter, read_meters
from moetool.machine.process import parse_disk_bytes, parse_peak_rss
from moetool.render import sheets
from moetool.settings import Settings, TensorOverride


class NotingRunner:
    """Takes a microsecond a token. With `can_go_back` False its memory keeps all of its tokens or none."""

    n_vocab = 50

    def __init__(self, *, can_go_back: bool = True) -> None:
        self.calls: list[object] = []
        self.now = 0
        self._n_past = 0
        self._can_go_back = can_go_back

    def decode(self, tokens: Sequence[int]) -> None:
        assert all(0 <= t < self.n_vocab for t in tokens)
        self.calls.append(len(tokens))
        self.now += 1000 * len(tokens)
        self._n_past += len(tokens)

    def decode_each(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self.decode([token])

    def synchronize(self) -> None:
        pass

    def rewind(self, n_past: int) -> int:
        self.calls.append(f"to {n_past}")
        self._n_past = min(n_past, self._n_past) if self._can_go_back else 0
        return self._n_past

    def keep_here(self) -> None:
        self.calls.append("keep")


def measure(runner: NotingRunner, test: SpeedTest, repetitions: int) -> SpeedSamples:
    return Stopwatch(repetitions, clock_ns=lambda: runner.now).measure(runner, test)


def test_a_prompt_is_one_batch_into_an_empty_cache_and_the_first_run_does_not_count() -> None:
    runner = NotingRunner()
    samples = measure(runner, SpeedTest(64, 0), 2)
    assert runner.calls == ["to 0", 64, "to 0", 64, "to 0", 64]
    assert samples.samples_ns == samples.first_ns == (64_000, 64_000)
    assert samples.mean_tok_s == 1e6
    assert samples.sd_tok_s == samples.variation == 0


def test_decoding_is_one_token_at_a_time_and_what_is_in_context_is_read_once_and_not_timed() -> None:
    runner = NotingRunner()
    samples = measure(runner, SpeedTest(0, 3, 10), 2)
    assert runner.calls == ["to 10", 10, "keep", 1, "to 10", 1, 1, 1, "to 10", 1, 1, 1]
    assert samples.samples_ns == (3_000, 3_000)
    assert samples.ttft_s is None


def test_a_memory_that_cannot_go_back_reads_what_is_in_context_anew() -> None:
    runner = NotingRunner(can_go_back=False)
    assert measure(runner, SpeedTest(0, 2, 10), 1).samples_ns == (2_000,)
    assert runner.calls == ["to 10", 10, "keep", 1, "to 10", 10, "keep", 1, 1]


def test_a_prompt_with_a_generation_after_it_is_timed_as_one_and_its_first_token_apart() -> None:
    runner = NotingRunner()
    samples = measure(runner, SpeedTest(6, 2), 1)
    assert runner.calls == ["to 0", 6, 1, "to 0", 6, 1, 1]
    assert (samples.samples_ns, samples.first_ns) == ((8_000,), (6_000,))
    assert samples.mean_tok_s == 1e6


def test_joules_are_those_of_the_timed_runs() -> None:
    runner = NotingRunner()
    counter = EnergyMeters([Meter("package-0", lambda: runner.now / 1000 % 50, wraps_at_j=50.0)])
    watch = Stopwatch(2, clock_ns=lambda: runner.now, energy_j=counter.read_j)
    assert watch.measure(runner, SpeedTest(30, 0)).energy_j_per_token == pytest.approx(1.0)


def test_tests_come_in_llama_bench_order_with_its_names() -> None:
    tests = make_tests([512], [0, 128], [0, 4096], [(512, 128)])
    expected = ["pp512", "tg128", "pp512+tg128", "pp512 @ d4096", "tg128 @ d4096", "pp512+tg128 @ d4096"]
    assert [t.name for t in tests] == expected


def test_statistics() -> None:
    samples = SpeedSamples(SpeedTest(0, 10), (10**9, 2 * 10**9))
    assert samples.samples_tok_s == (10, 5)
    assert samples.mean_tok_s == samples.median_tok_s == 7.5
    assert samples.sd_tok_s == pytest.approx(3.5355, abs=1e-4)
    assert samples.variation == pytest.approx(0.4714, abs=1e-4)


# --- which settings -----------------------------------------------------------------------------------------


def test_numbers_are_written_as_for_llama_bench() -> None:
    assert parse_numbers("512, 128", "-p") == (512, 128)
    assert parse_numbers("1-8*2,3", "-t") == (1, 2, 4, 8, 3)
    assert parse_numbers("2-8+3", "-t") == (2, 5, 8)
    assert parse_pairs(["512,128"]) == ((512, 128),)


@pytest.mark.parametrize("text", ["", "x", "1,x", "-1", "4-1", "0-8*2", "1-8+0", "12345678", "1-1000"])
def test_numbers_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="-t"):
        parse_numbers(text, "-t")


def test_types_of_the_cache_are_given_in_one_way() -> None:
    assert make_axes({"kv": ("f16/q8_0", "--kv")}, ()) == ({"kv": "f16/q8_0"}, {})
    for given, swept in (({"kv": ("q8_0", "--kv")}, ["kv=f16"]), ({}, ["kv=f16", "ctk=f16"])):
        with pytest.raises(UsageError, match="kv"):
            make_axes(given, swept)
    with pytest.raises(UsageError, match="both keys and values"):
        make_axes({"kv": ("q8_0", "--kv"), "ctk": ("f16", "-ctk")}, ())


def test_points_are_all_combinations_or_each_change_alone() -> None:
    axes = {"kv": ("f16", "q8_0"), "threads": ("1", "2")}
    assert [tuple(p.values()) for p in make_points(axes)] == [
        ("f16", "1"),
        ("f16", "2"),
        ("q8_0", "1"),
        ("q8_0", "2"),
    ]
    assert make_points(axes, "each") == (
        {},
        {"kv": "f16"},
        {"kv": "q8_0"},
        {"threads": "1"},
        {"threads": "2"},
    )
    assert make_points({}) == ({},)
    with pytest.raises(UsageError, match="400"):
        make_points({"batch": tuple(map(str, range(20))), "threads": tuple(map(str, range(20)))})


# --- rows ---------------------------------------------------------------------------------------------------

ROW = BenchRow(
    subject=Subject("it's.gguf", "Qwen3 0.6B Q8_0", 639_000_000, 596_000_000),
    host=Host("a CPU", "", "CPU", "0c1e57098", "0.3.36"),
    settings=Settings(n_threads=2, tensor_overrides=(TensorOverride("exps", "CPU"),)),
    n_cpu_moe=0,
    footprint=Footprint(
        (DeviceUse("CPU", 90, 100), DeviceUse("RPC0", 5, 5)), 300, (LoadTime(0.5, 0, is_cold=False),)
    ),
    samples=SpeedSamples(SpeedTest(0, 10), (10**9, 2 * 10**9)),
    test_time="2026-01-31T12:00:00Z",
    predicted=Predicted(15.0, 10.0, 20.0),
)

# test::get_fields of llama.cpp's llama-bench, in its order.
LLAMA_BENCH = (  # noqa: SIM905
    "build_commit build_number cpu_info gpu_info backends model_filename model_type model_size "
    "model_n_params n_batch n_ubatch n_threads cpu_mask cpu_strict poll type_k type_v n_gpu_layers "
    "n_cpu_moe split_mode main_gpu no_kv_offload flash_attn devices tensor_split tensor_buft_overrides "
    "load_mode lazy_mode embeddings no_op_offload no_host repack fit_target fit_min_ctx n_prompt n_gen "
    "n_depth test_time avg_ns stddev_ns avg_ts stddev_ts"
).split()


def test_llama_benchs_fields_come_first_in_its_order_and_units() -> None:
    fields = row_fields(replace(ROW, extra={"kld_mean": 0.01}))
    assert list(fields)[: len(LLAMA_BENCH) + 2] == [*LLAMA_BENCH, "samples_ns", "samples_ts"]
    assert (fields["avg_ns"], fields["stddev_ns"]) == (1_500_000_000, 707_106_781)
    assert (fields["avg_ts"], fields["samples_ts"]) == (7.5, [10.0, 5.0])
    assert fields["prediction_error"] == pytest.approx(1.0)
    assert (fields["memory_bytes"], fields["predicted_memory_bytes"]) == (105, 95)
    assert (fields["load_cold_s"], fields["load_warm_s"]) == (None, 0.5)
    assert list(fields)[-1] == "kld_mean"


def test_sql_makes_a_table_that_holds_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    sheets.print_sql(Benchmark((ROW, replace(ROW, extra={"kld mean": 0.25}))))
    script = capsys.readouterr().out
    with sqlite3.connect(":memory:") as database:
        database.executescript(script)
        rows = database.execute(
            'SELECT model_filename, avg_ts, experts, "kld mean" FROM llama_bench'
        ).fetchall()
        columns = [row[1] for row in database.execute("PRAGMA table_info(llama_bench)")]
    assert rows == [("it's.gguf", 7.5, None, None), ("it's.gguf", 7.5, None, 0.25)]
    assert columns[: len(LLAMA_BENCH)] == LLAMA_BENCH


def test_csv_and_json_lines_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    sheets.print_csv(Benchmark((ROW,)))
    (line,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    sheets.print_jsonl(Benchmark((ROW,)))
    fields = json.loads(capsys.readouterr().out)
    assert list(line)[: len(LLAMA_BENCH)] == LLAMA_BENCH
    assert (line["repack"], line["memory"], line["experts"]) == ("1", "CPU=100;RPC0=5", "")
    assert float(line["stddev_ts"]) == fields["stddev_ts"]


def test_the_front_is_what_nothing_else_beats() -> None:
    def row(point: str, rate: int, n_bytes: int) -> BenchRow:
        samples = SpeedSamples(SpeedTest(0, rate), (10**9,))
        footprint = replace(ROW.footprint, memory=(DeviceUse("CPU", 0, n_bytes),))
        return replace(ROW, point={"kv": point}, samples=samples, footprint=footprint)

    fast, small, worse = row("a", 10, 100), row("b", 10, 50), row("c", 10, 120)
    marks = [r.is_pareto for r in mark_front([fast, small, worse])]
    assert marks == [False, True, False]
    # What costs less divergence is beaten by nobody any more.
    rows = add_extra([fast, small, worse], {"kv": "a"}, {"kld_mean": 0.0})
    rows = add_extra(rows, {"kv": "b"}, {"kld_mean": 0.5})
    rows = add_extra(rows, {"kv": "c"}, {"kld_mean": 0.5})
    assert [r.is_pareto for r in mark_front(rows)] == [True, True, False]
    assert mark_front([fast])[0].is_pareto is None


# --- this process, this machine -----------------------------------------------------------------------------


def test_what_the_system_tells_of_a_process() -> None:
    assert parse_peak_rss("VmPeak:\t  12 kB\nVmHWM:\t    2288 kB\nVmRSS:\t 1 kB\n") == 2288 * 1024
    assert parse_peak_rss("") == 0
    assert parse_disk_bytes("rchar: 6976\nread_bytes: 4096\nwrite_bytes: 0\n") == 4096
    assert parse_disk_bytes("") is None


def test_meters_are_whole_packages_that_may_be_read(tmp_path: Path) -> None:
    assert read_meters(tmp_path).read_j() is None
    for folder, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:1", "psys")):
        here = tmp_path / "sys/class/powercap" / folder
        here.mkdir(parents=True)
        (here / "name").write_text(name + "\n")
        (here / "energy_uj").write_text("1500000\n")
        (here / "max_energy_range_uj").write_text("2000000\n")
    meters = read_meters(tmp_path)
    assert meters.names == ("package-0",)
    assert meters.read_j() == 0.0
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("250000\n")
    assert meters.read_j() == pytest.approx(0.75)
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("")
    assert meters.read_j() is None


# --- the command --------------------------------------------------------------------------------------------


def test_a_sweep_measures_what_can_be_and_says_what_cannot(moetool_here: Moetool) -> None:
    flags = ("-p", "8", "-n", "2", "-r", "1", "-t", "1", "-ub", "4,8", "--sweep", "experts=1,999")
    done = moetool_here("bench", "demo", *flags, "-o", "json")
    assert done.code == 0
    data = done.document["data"]
    told = [
        (row["experts"], row["n_ubatch"], row["n_prompt"], row["point"]["ubatch"]) for row in data["rows"]
    ]
    assert told == [(1, 4, 8, "4"), (1, 4, 0, "4"), (1, 8, 8, "8"), (1, 8, 0, "8")]
    assert sum("999" in note for note in data["notes"]) == 2
    row = data["rows"][0]
    assert row["memory"][0]["bytes"] > 8e6
    assert row["memory_bytes"] == pytest.approx(row["predicted_memory_bytes"], rel=0.1)
    assert row["load_s"] > 0


def test_json_under_schemas_is_measured_beside_free_text(moetool_here: Moetool) -> None:
    done = moetool_here("bench", "demo", "--constrained", "-r", "1", "-t", "1", "-o", "json")
    check_document(done.document["data"])
    rows = done.document["data"]["constrained"]
    assert {row["schema"] for row in rows} >= {"summary", "order"}
    assert all(row["gain"] > 0 and row["n_forced"] <= row["n_tokens"] for row in rows)
    assert all(isinstance(json.loads(row["document"]), dict) for row in rows)


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (("--constrained", "--html", "page.html"), "--html"),
        (("--compare", "a", "b", "--quality"), "--quality"),
        (("--compare", "a", "b", "--constrained"), "--constrained"),
        (("--constrained", "-p", "8"), "-p, -n, -pg or -d"),
    ],
)
def test_flags_that_a_mode_would_leave_aside_are_refused(
    moetool_here: Moetool, words: tuple[str, ...], flag: str
) -> None:
    done = moetool_here("bench", "demo", *words)
    assert done.code == 2
    assert f"{words[0]} does not go with {flag}" in done.err
