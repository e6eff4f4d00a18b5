"""`moetool bench`: prompt and decode speed, measured beside what was predicted."""

from __future__ import annotations

import time
from enum import Enum
from typing import Annotated

import typer

from moetool.cli.options import (
    BatchSizeOpt,
    ContextOpt,
    CpuMoeOpt,
    DeviceOpt,
    ExpertsOpt,
    GpuLayersOpt,
    KvOpt,
    ModelArg,
    OverrideOpt,
    RamOpt,
    ReserveOpt,
    RpcOpt,
    SplitOpt,
    ThreadsOpt,
    UbatchSizeOpt,
    VramOpt,
)
from moetool.errors import UsageError


class Format(str, Enum):
    """How bench answers: for people, or as llama-bench's users' scripts read it."""

    text = "text"
    json = "json"
    csv = "csv"
    md = "md"


def bench(
    model: ModelArg = "demo",
    n_prompt: Annotated[
        str, typer.Option("--n-prompt", "-p", help="Prompt tokens, several with commas.")
    ] = "512",
    n_gen: Annotated[
        str, typer.Option("--n-gen", "-n", help="Tokens to decode, several with commas.")
    ] = "128",
    n_depth: Annotated[str, typer.Option("--n-depth", "-d", help="Tokens in context already.")] = "0",
    repetitions: Annotated[
        int, typer.Option("--repetitions", "-r", min=1, help="Timed runs of each test.")
    ] = 5,
    ctx: ContextOpt = None,
    kv: KvOpt = None,
    threads: ThreadsOpt = None,
    gpu_layers: GpuLayersOpt = None,
    n_cpu_moe: CpuMoeOpt = None,
    override_tensor: OverrideOpt = None,
    tensor_split: SplitOpt = None,
    device: DeviceOpt = None,
    batch_size: BatchSizeOpt = None,
    ubatch_size: UbatchSizeOpt = None,
    experts: ExpertsOpt = None,
    rpc: RpcOpt = None,
    vram: VramOpt = None,
    ram: RamOpt = None,
    reserve: ReserveOpt = None,
    output: Annotated[Format, typer.Option("--output", "-o", help="text, json, csv or md.")] = Format.text,
) -> None:
    """Measure speed as llama-bench does, and show the prediction beside it.

    moetool bench demo

    moetool bench ./model.gguf -p 512 -n 128 -d 0,4096 -o csv
    """
    from moetool.bench.speed import make_tests
    from moetool.cli.measuring import measure_all
    from moetool.cli.opening import open_model
    from moetool.cli.wishing import Flags, make_wishes

    tests = make_tests(_numbers(n_prompt, "-p"), _numbers(n_gen, "-n"), _numbers(n_depth, "-d"))
    if not tests:
        raise UsageError("There is nothing to measure", "give -p 512 or -n 128")
    opened = open_model(model)
    flags = Flags(
        ctx=ctx,
        kv=kv,
        threads=threads,
        gpu_layers=gpu_layers,
        n_cpu_moe=n_cpu_moe,
        override_tensor=override_tensor,
        tensor_split=tensor_split,
        device=device,
        batch_size=batch_size,
        ubatch_size=ubatch_size,
        experts=experts,
        vram=vram,
        ram=ram,
        reserve=reserve,
    )
    wishes = make_wishes(flags)
    test_time = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    rows = measure_all(opened, wishes, tests, repetitions, test_time, rpc)
    if output is Format.json:
        from moetool import report
        from moetool.cli.boundary import print_result

        print_result("bench", report.of_bench(rows))
        return
    from moetool.render import sheets, tables

    {Format.csv: sheets.print_csv, Format.md: sheets.print_markdown, Format.text: tables.show_bench}[output](
        rows
    )


def _numbers(text: str, flag: str) -> list[int]:
    """Whole numbers with commas between, or a UsageError that names the flag."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and len(part) < 8 for part in parts):
        raise UsageError(f"{flag} {text} is not a list of numbers", f"write {flag} 512 or {flag} 128,512")
    return [int(part) for part in parts]
