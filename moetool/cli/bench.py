"""`moetool bench`: prompt and decode speed, measured beside what was predicted."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moetool.cli.options import (
    ContextOpt,
    DeviceOpt,
    KvOpt,
    ModelArg,
    OverrideOpt,
    RamOpt,
    ReserveOpt,
    RpcOpt,
    SplitOpt,
    VramOpt,
)
from moetool.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moetool.bench.report import Benchmark
    from moetool.bench.speed import SpeedTest
    from moetool.cli.measuring import Matrix


class Format(str, Enum):
    """How bench answers: for people, or as llama-bench's users' scripts read it."""

    text = "text"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"
    md = "md"
    sql = "sql"


class SweepMode(str, Enum):
    """How the values of several sweeps meet."""

    product = "product"
    each = "each"


_LIST = "One or several: 1,2,4 or 1-8*2."


def bench(
    model: ModelArg = "demo",
    n_prompt: Annotated[
        str | None, typer.Option("--n-prompt", "-p", help="Prompt tokens, several with commas; else 512.")
    ] = None,
    n_gen: Annotated[
        str | None, typer.Option("--n-gen", "-n", help="Tokens to decode, several with commas; else 128.")
    ] = None,
    n_pg: Annotated[
        list[str] | None,
        typer.Option("-pg", metavar="P,N", help="A prompt and tokens after it in one; may be repeated."),
    ] = None,
    n_depth: Annotated[str, typer.Option("--n-depth", "-d", help="Tokens in context already.")] = "0",
    repetitions: Annotated[
        int | None, typer.Option("--repetitions", "-r", min=1, help="Timed runs of each test; else 5.")
    ] = None,
    header_only: Annotated[
        bool, typer.Option("--header-only", help="Make the weights up in memory: nothing is downloaded.")
    ] = False,
    constrained: Annotated[
        bool, typer.Option("--constrained", help="Measure JSON under schemas beside free text instead.")
    ] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", metavar="A.json B.json", help="Measure nothing: do two results differ?"),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            metavar="NAME=V,V",
            help="Measure under each: threads=1,2, kv=f16,q8_0; may be repeated.",
        ),
    ] = None,
    sweep_mode: Annotated[
        SweepMode,
        typer.Option(help="Every combination of swept values, or each of them alone against the plan."),
    ] = SweepMode.product,
    ctx: ContextOpt = None,
    kv: KvOpt = None,
    type_k: Annotated[
        str | None, typer.Option("--cache-type-k", "-ctk", metavar="TYPE,…", help="Types of cached keys.")
    ] = None,
    type_v: Annotated[
        str | None, typer.Option("--cache-type-v", "-ctv", metavar="TYPE,…", help="… and of values.")
    ] = None,
    threads: Annotated[
        str | None, typer.Option("--threads", "-t", metavar="N,…", help=f"CPU threads. {_LIST}")
    ] = None,
    gpu_layers: Annotated[
        str | None,
        typer.Option(
            "--gpu-layers", "--n-gpu-layers", "-ngl", metavar="N,…", help=f"Layers on the GPU. {_LIST}"
        ),
    ] = None,
    n_cpu_moe: Annotated[
        str | None,
        typer.Option("--n-cpu-moe", "-ncmoe", metavar="N,…", help="Layers whose experts stay in RAM."),
    ] = None,
    override_tensor: OverrideOpt = None,
    tensor_split: SplitOpt = None,
    device: DeviceOpt = None,
    batch_size: Annotated[
        str | None, typer.Option("--batch-size", "-b", metavar="N,…", help="Tokens of a prompt at a time.")
    ] = None,
    ubatch_size: Annotated[
        str | None, typer.Option("--ubatch-size", "-ub", metavar="N,…", help="… computed at once.")
    ] = None,
    experts: Annotated[
        str | None, typer.Option("--experts", metavar="N,…", help="Experts used per token.")
    ] = None,
    rpc: RpcOpt = None,
    vram: VramOpt = None,
    ram: RamOpt = None,
    reserve: ReserveOpt = None,
    quality: Annotated[
        bool, typer.Option("--quality", help="Also read a text: perplexity, and divergence from --ref.")
    ] = False,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The text to read instead of ours; with --quality.")
    ] = None,
    ref: Annotated[
        str | None,
        typer.Option(metavar="MODEL|FILE", help="Hold it against a model, or what --save-ref kept of one."),
    ] = None,
    save_ref: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep what this model expects, for later --ref.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with tables and charts as well.")
    ] = None,
    output: Annotated[
        Format, typer.Option("--output", "-o", help="text, json, jsonl, csv, md or sql.")
    ] = Format.text,
) -> None:
    """Measure speed as llama-bench does, and show the prediction beside it.

    moetool bench demo

    moetool bench ./model.gguf -p 512 -n 128 -d 0,4096 -o csv

    moetool bench ./model.gguf -t 1-8*2 --sweep kv=f16,q8_0

    moetool bench org/repo:Q4_K_M --quality --ref org/repo:Q8_0 --html page.html

    moetool bench org/repo:Q4_K_M --header-only
    """
    names_tests = not (n_prompt is n_gen is None and n_depth == "0") or bool(n_pg)
    _refuse_beside(
        "--compare" if compare else "--constrained" if constrained else "",
        {
            "--header-only": header_only,
            "--sweep": bool(sweep),
            "--quality": quality,
            "--text": text is not None,
            "--ref": ref is not None,
            "--save-ref": save_ref is not None,
            "--html": html is not None,
            "-p, -n, -pg or -d": names_tests,
            "--constrained": constrained and compare is not None,
        },
    )
    if compare is not None:
        from moetool.cli.comparing import compare_files

        compare_files(*compare, output.value)
        return
    from moetool.bench.matrix import make_points
    from moetool.cli.measuring import Matrix
    from moetool.cli.sweeping import at_point, make_axes
    from moetool.cli.wishing import Flags, make_wishes

    is_judged = quality or text is not None or ref is not None or save_ref is not None
    if header_only and is_judged:
        raise UsageError("Weights that are made up have no quality", "leave --header-only or --quality out")
    _check_page(html, (model, text, ref), save_ref)
    # By header alone, tests are chosen that take some seconds.
    is_free = header_only and not names_tests
    tests = () if is_free else _make_tests(n_prompt, n_gen, n_depth, n_pg or ())
    if not tests and not is_free and not (is_judged and output in {Format.text, Format.json}):
        raise UsageError("There is nothing to measure", "give -p 512 or -n 128")
    fixed, axes = make_axes(
        {
            "gpu-layers": (gpu_layers, "-ngl"),
            "n-cpu-moe": (n_cpu_moe, "--n-cpu-moe"),
            "experts": (experts, "--experts"),
            "batch": (batch_size, "-b"),
            "ubatch": (ubatch_size, "-ub"),
            # Here a comma parts keys from values; on an axis it parts settings.
            "kv": (kv and kv.replace(",", "/"), "--kv"),
            "ctk": (type_k, "-ctk"),
            "ctv": (type_v, "-ctv"),
            "threads": (threads, "-t"),
        },
        sweep or (),
    )
    flags = Flags(
        ctx=ctx,
        override_tensor=override_tensor,
        tensor_split=tensor_split,
        device=device,
        vram=vram,
        ram=ram,
        reserve=reserve,
    )
    wishes = at_point(make_wishes(flags), fixed)
    points = make_points(axes, sweep_mode.value)
    if constrained:
        from moetool.cli.constrained import measure_writing

        measure_writing(model, wishes, points, repetitions or 3, rpc, output.value)
        return
    matrix = Matrix(wishes, points, tests, repetitions or (2 if header_only else 5))
    asked = (text, ref, save_ref) if is_judged else None
    benchmark, path = _by_header(model, matrix, rpc) if header_only else _whole(model, matrix, rpc, asked)
    _write_page(html, benchmark, path)
    print_benchmark(benchmark, output, path)


def _refuse_beside(mode: str, given: Mapping[str, bool]) -> None:
    """UsageError for flags that mean nothing in a mode ("": the usual one, where all do): to leave them aside
    in silence would mislead."""
    for flag, is_given in given.items():
        if mode and is_given:
            raise UsageError(f"{mode} does not go with {flag}", f"leave {flag} out, or {mode}")


def _check_page(html: Path | None, read: Sequence[str | Path | None], save_ref: Path | None) -> None:
    """UsageError for a page that would take the place of what is read or written, or has none to lie in."""
    from moetool.cli.new_file import require_other, require_places

    require_places(page := {"--html": html})
    require_other(page, [Path(name) for name in read if name is not None])
    if html is not None and save_ref is not None and html.resolve() == save_ref.resolve():
        raise UsageError("--html and --save-ref name the same file", "give one of them another name")


def _write_page(html: Path | None, benchmark: Benchmark, path: str) -> None:
    if html is not None:
        from moetool.cli.paging import write_bench_page

        write_bench_page(html, benchmark, path)


def _make_tests(
    n_prompt: str | None, n_gen: str | None, n_depth: str, pairs: Sequence[str]
) -> tuple[SpeedTest, ...]:
    from moetool.bench.matrix import parse_numbers, parse_pairs
    from moetool.bench.speed import make_tests

    return make_tests(
        parse_numbers("512" if n_prompt is None else n_prompt, "-p"),
        parse_numbers("128" if n_gen is None else n_gen, "-n"),
        parse_numbers(n_depth, "-d"),
        parse_pairs(pairs),
    )


def _by_header(model: str, matrix: Matrix, rpc: str | None) -> tuple[Benchmark, str]:
    """What was measured without the weights, and of what."""
    from moetool.cli.header_only import measure_header

    return measure_header(model, matrix, rpc), model


def _whole(
    model: str, matrix: Matrix, rpc: str | None, asked: tuple[Path | None, str | None, Path | None] | None
) -> tuple[Benchmark, str]:
    """What was measured of a model on this disk, speed and (if `asked`) quality, and its file."""
    from moetool.bench.report import Benchmark
    from moetool.cli.measuring import measure_all
    from moetool.cli.opening import open_model

    opened = open_model(model)
    path = str(opened.model.paths[0])
    if asked is None:
        return measure_all(opened, matrix, rpc), path
    from moetool.cli.judging import Asked, check_asked, judge_benchmark

    judged = Asked(*asked)
    check_asked(judged, matrix.points)
    benchmark = measure_all(opened, matrix, rpc) if matrix.tests else Benchmark(())
    return judge_benchmark(opened, matrix.wishes, matrix.points, benchmark, judged, rpc), path


def print_benchmark(benchmark: Benchmark, output: Format, file_name: str = "") -> None:
    """On stdout, in the form that was asked for."""
    if output is Format.json:
        from moetool.cli.boundary import print_result
        from moetool.report.benchmarks import of_bench

        print_result("bench", of_bench(benchmark, file_name))
        return
    from moetool.render import sheets
    from moetool.render.results import show_results

    {
        Format.csv: sheets.print_csv,
        Format.jsonl: sheets.print_jsonl,
        Format.md: sheets.print_markdown,
        Format.sql: sheets.print_sql,
        Format.text: show_results,
    }[output](benchmark)
