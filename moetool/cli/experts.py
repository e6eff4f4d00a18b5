"""`moetool experts`: which experts fire, while a model reads and writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moetool.cli.options import (
    CpuMoeOpt,
    DeviceOpt,
    ExpertsOpt,
    GpuLayersOpt,
    ModelArg,
    Output,
    OutputOpt,
    RpcOpt,
    ThreadsOpt,
)


def experts(
    model: ModelArg = "demo",
    text: Annotated[
        list[Path] | None,
        typer.Option(
            "--text", metavar="FILE", help="Read this; several are told apart. Else a text of ours."
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Also watch while this is read and answered.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", "-n", min=1, help="Of the answer to --prompt.")
    ] = 128,
    ctx: Annotated[
        int | None, typer.Option("--ctx", min=2, metavar="TOKENS", help="Read texts so many at a time [512].")
    ] = None,
    used: ExpertsOpt = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write it all as a page.")
    ] = None,
    npz: Annotated[
        Path | None, typer.Option("--npz", metavar="FILE", help="Also write all counts for numpy.load.")
    ] = None,
    threads: ThreadsOpt = None,
    gpu_layers: GpuLayersOpt = None,
    n_cpu_moe: CpuMoeOpt = None,
    device: DeviceOpt = None,
    rpc: RpcOpt = None,
    output: OutputOpt = Output.text,
) -> None:
    """Show how a mixture of experts routes: use, balance, confidence, repetition, and what is wrong.

    moetool experts demo

    moetool experts ./model.gguf --text code.py --text prose.txt --html experts.html
    """
    from moetool.cli.new_file import require_places
    from moetool.cli.profiling import Asked, profile_model, write_arrays
    from moetool.cli.wishing import Flags, make_wishes

    flags = Flags(threads=threads, gpu_layers=gpu_layers, n_cpu_moe=n_cpu_moe, device=device, experts=used)
    asked = Asked(tuple(text or ()), prompt, max_tokens, ctx)
    outputs = {"--html": html, "--npz": npz}
    require_places(outputs)
    found = profile_model(model, make_wishes(flags), asked, rpc, outputs)
    if npz is not None:
        write_arrays(npz, found.profile)
    if html is not None:
        from moetool.cli.paging import write_page
        from moetool.render.experts_page import make_experts_page

        write_page(html, make_experts_page(found))
    if output is Output.json:
        from moetool.cli.boundary import print_result
        from moetool.report.lab import of_examined

        print_result("experts", of_examined(found))
        return
    from moetool.render.experts import show_experts

    show_experts(found)
