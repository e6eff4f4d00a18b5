"""Arguments and options that several commands share, each with one wording."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Output(str, Enum):
    """How a command answers."""

    text = "text"
    json = "json"


MODEL_HELP = "A file, org/repo[:QUANT], the short name of something pulled, or `demo`."

ModelArg = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
OutputOpt = Annotated[Output, typer.Option("--output", "-o", help="`json` prints exactly one document.")]
MachineOpt = Annotated[
    Path | None,
    typer.Option("--machine", metavar="FILE.json", help="Plan for the machine that `doctor -o json` wrote."),
]
ContextOpt = Annotated[
    str | None, typer.Option("--ctx", metavar="TOKENS", help="Context length: 8192, 32k, or max.")
]
KvOpt = Annotated[
    str | None,
    typer.Option("--kv", metavar="TYPE[,TYPE]", help="KV cache type: f16, q8_0, q4_0 …; else chosen."),
]
ThreadsOpt = Annotated[
    int | None, typer.Option("--threads", "-t", min=1, max=512, help="CPU threads to compute with.")
]
GpuLayersOpt = Annotated[
    int | None,
    typer.Option(
        "--gpu-layers", "--n-gpu-layers", "-ngl", min=0, help="Layers on the GPU, as llama.cpp counts them."
    ),
]
CpuMoeOpt = Annotated[
    int | None, typer.Option("--n-cpu-moe", min=0, help="Keep the experts of the first N layers in RAM.")
]
ExpertsOpt = Annotated[
    str | None,
    typer.Option("--experts", metavar="N", help="Experts used per token instead of the model's own number."),
]
RpcOpt = Annotated[
    str | None,
    typer.Option("--rpc", metavar="HOST:PORT[,…]", help="Use the devices that `moetool worker` lends there."),
]
OverrideOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--override-tensor", "-ot", metavar="PATTERN=DEVICE", help="Put tensors there; may be repeated."
    ),
]
SplitOpt = Annotated[
    str | None, typer.Option("--tensor-split", "-ts", metavar="N,N,…", help="Shares of the devices: 3,1.")
]
DeviceOpt = Annotated[
    str | None, typer.Option("--device", "-dev", metavar="NAME,…", help="Offload to these, or to none.")
]
ParallelOpt = Annotated[
    int | None,
    typer.Option("--parallel", "-np", min=1, max=256, help="Sequences at once, each with its own context."),
]
BatchSizeOpt = Annotated[
    int | None, typer.Option("--batch-size", "-b", min=1, help="Tokens of a prompt at a time.")
]
UbatchSizeOpt = Annotated[
    int | None, typer.Option("--ubatch-size", "-ub", min=1, help="… of which so many are computed at once.")
]
VramOpt = Annotated[
    str | None,
    typer.Option("--vram", metavar="[NAME=]SIZE,…", help="At most so much of each offload device: 10GiB."),
]
RamOpt = Annotated[str | None, typer.Option("--ram", metavar="SIZE", help="At most so much RAM.")]
ReserveOpt = Annotated[
    str | None, typer.Option("--reserve", metavar="SIZE", help="Leave so much free on each device: 1GiB.")
]
