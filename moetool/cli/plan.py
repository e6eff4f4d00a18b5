"""`moetool plan`: where everything would go, and how fast it should be."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from moetool.cli.options import (
    ContextOpt,
    CpuMoeOpt,
    ExpertsOpt,
    GpuLayersOpt,
    KvOpt,
    MachineOpt,
    ModelArg,
    Output,
    OutputOpt,
    RpcOpt,
    ThreadsOpt,
)
from moetool.errors import DoesNotFit


def plan(
    model: ModelArg = "demo",
    quant: Annotated[str, typer.Option("--quant", help="Plan for this quant of a repo only.")] = "",
    min_tok_s: Annotated[
        float | None, typer.Option("--min-tok-s", min=0, help="Choose among quants that decode this fast.")
    ] = None,
    ctx: ContextOpt = None,
    kv: KvOpt = "f16",
    threads: ThreadsOpt = None,
    gpu_layers: GpuLayersOpt = None,
    n_cpu_moe: CpuMoeOpt = None,
    experts: ExpertsOpt = None,
    rpc: RpcOpt = None,
    machine: MachineOpt = None,
    output: OutputOpt = Output.text,
) -> None:
    """Show where a model would go on this machine, with memory per device and expected speed.

    moetool plan demo

    moetool plan org/repo --min-tok-s 20

    moetool plan ./model.gguf --ctx 32k --kv q8_0

    moetool doctor -o json > desk.json; moetool plan ./model.gguf --machine desk.json
    """
    from moetool import report
    from moetool.cli.opening import check_by_dry_run, make_wishes, open_model, plan_for, read_this_machine
    from moetool.cli.remote_plan import plan_remote, remote_name

    wishes = make_wishes(ctx, kv, threads, gpu_layers, n_cpu_moe, experts)
    remote = remote_name(model, quant, is_choice=min_tok_s is not None)
    if remote:
        here = partial(read_this_machine, machine, rpc=rpc, measure=True)
        plan_remote(remote, here, wishes, min_tok_s, as_json=output is Output.json)
        return
    opened = open_model(f"{model}:{quant}" if quant else model)
    chosen = plan_for(opened, read_this_machine(machine, rpc=rpc, measure=True), wishes)
    if machine is None and chosen.fits:
        chosen = check_by_dry_run(chosen, opened, wishes)
    if output is Output.json:
        from moetool.cli.boundary import print_result

        problem = None if chosen.fits else DoesNotFit(f"{opened.model.name} does not fit")
        print_result("plan", report.of_plan(chosen, opened.model.paths[0].name), problem)
        return
    from moetool.render.tables import show_plan

    show_plan(chosen, f"moetool run {opened.model.name}" + (f" --rpc {rpc}" if rpc else ""))
    if not chosen.fits:
        raise DoesNotFit(
            f"{opened.model.name} does not fit", "ask for less: --ctx 2048, --kv q8_0, a smaller quant"
        )
