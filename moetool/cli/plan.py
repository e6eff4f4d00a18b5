"""`moetool plan`: where everything would go, and how fast it should be."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from functools import partial
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
    MachineOpt,
    ModelArg,
    Output,
    OutputOpt,
    OverrideOpt,
    ParallelOpt,
    RamOpt,
    ReserveOpt,
    RpcOpt,
    SplitOpt,
    ThreadsOpt,
    UbatchSizeOpt,
    VramOpt,
)
from moetool.errors import UsageError


class Target(str, Enum):
    """Programs that a plan can be printed for."""

    llama_server = "llama-server"
    llama_cli = "llama-cli"
    ollama = "ollama"
    json = "json"


def plan(
    model: ModelArg = "demo",
    quant: Annotated[str, typer.Option("--quant", help="Plan for this quant of a repo only.")] = "",
    min_tok_s: Annotated[
        float | None, typer.Option("--min-tok-s", min=0, help="Choose among quants that decode this fast.")
    ] = None,
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
    parallel: ParallelOpt = None,
    draft: Annotated[
        str, typer.Option("--draft", metavar="MODEL", help="Keep room for this draft model, on this disk.")
    ] = "",
    machine: MachineOpt = None,
    emit: Annotated[
        Target | None, typer.Option("--emit", help="Print the plan for another program to use.")
    ] = None,
    output: OutputOpt = Output.text,
) -> None:
    """Show where a model would go on this machine, with memory per device and expected speed.

    moetool plan demo

    moetool plan org/repo --min-tok-s 20

    moetool plan ./model.gguf --ctx 32k --kv q8_0

    moetool plan ./model.gguf --vram 10GiB --emit llama-server

    moetool doctor -o json > desk.json; moetool plan ./model.gguf --machine desk.json
    """
    from moetool.cli.local_plan import Asked, plan_local
    from moetool.cli.opening import open_model, read_this_machine
    from moetool.cli.remote_plan import plan_remote, remote_name
    from moetool.cli.wishing import Flags, make_wishes

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
    wishes = make_wishes(flags, parallel or 1)
    if draft:
        wishes = replace(wishes, draft=open_model(draft).anatomy)
    asked = Asked(
        wishes=wishes,
        min_tok_s=min_tok_s,
        emit=emit.value if emit else "",
        draft=draft,
        rpc=rpc or "",
        machine=str(machine or ""),
        as_json=output is Output.json,
    )
    here = partial(read_this_machine, machine, rpc=rpc, measure="unknown")
    remote = remote_name(model, quant, is_choice=min_tok_s is not None)
    if not remote and min_tok_s is not None:
        raise UsageError("--min-tok-s chooses among the quants of a repo", f"leave it out for {model}")
    if remote:
        plan_remote(remote, here, asked, is_here=machine is None)
    else:
        plan_local(f"{model}:{quant}" if quant else model, here, asked, is_here=machine is None)
