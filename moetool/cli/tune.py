"""`moetool tune`: settings that are faster here than the plan's, found by trying."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from moetool.cli.options import (
    ContextOpt,
    DeviceOpt,
    KvOpt,
    ModelArg,
    Output,
    OutputOpt,
    RamOpt,
    ReserveOpt,
    RpcOpt,
    ThreadsOpt,
    VramOpt,
)
from moetool.errors import UsageError


def tune(
    model: ModelArg = "demo",
    budget: Annotated[
        float, typer.Option("--budget", min=1, metavar="SECONDS", help="About how long to search.")
    ] = 60.0,
    ctx: ContextOpt = None,
    kv: KvOpt = None,
    threads: ThreadsOpt = None,
    device: DeviceOpt = None,
    rpc: RpcOpt = None,
    vram: VramOpt = None,
    ram: RamOpt = None,
    reserve: ReserveOpt = None,
    output: OutputOpt = Output.text,
) -> None:
    """Try threads, batches, layouts and placements around the plan; `run` uses what is faster.

    moetool tune demo

    moetool tune ./model.gguf --budget 300
    """
    from moetool.cli.opening import open_model
    from moetool.cli.tuning import tune_model
    from moetool.cli.wishing import Flags, make_wishes

    if not math.isfinite(budget):
        raise UsageError(f"--budget cannot be {budget}", "give --budget a number")
    flags = Flags(ctx=ctx, kv=kv, threads=threads, device=device, vram=vram, ram=ram, reserve=reserve)
    opened = open_model(model)
    plan, tuned = tune_model(opened, make_wishes(flags), budget, rpc)
    if output is Output.json:
        from moetool.cli.boundary import print_result
        from moetool.report.benchmarks import of_tuned

        print_result("tune", of_tuned(plan, tuned))
        return
    from moetool.render.tuned import show_tuned

    show_tuned(tuned, model)
