"""`moetool sparsity`: what fewer or more experts a token give and cost."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moetool.cli.options import (
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

if TYPE_CHECKING:
    from moetool.lab.layer_map import LayerMap


def sparsity(
    model: ModelArg = "demo",
    text: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A text to read instead of ours; repeat it for several domains."),
    ] = None,
    experts: Annotated[
        str | None,
        typer.Option(metavar="N,…", help="Numbers to measure, instead of those up to twice the model's own."),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Instead: which layers tolerate fewer (half, or --experts N).")
    ] = False,
    min_tok_s: Annotated[
        float | None, typer.Option(min=0, help="Recommend what costs least at this decode speed.")
    ] = None,
    budget: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="About how long to measure, loads apart.")
    ] = 300.0,
    kv: KvOpt = None,
    threads: ThreadsOpt = None,
    device: DeviceOpt = None,
    rpc: RpcOpt = None,
    vram: VramOpt = None,
    ram: RamOpt = None,
    reserve: ReserveOpt = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with tables and charts as well.")
    ] = None,
    output: OutputOpt = Output.text,
) -> None:
    """Measure speed and fidelity under other numbers of experts a token; plan and run quote it.

    moetool sparsity demo

    moetool sparsity ./model.gguf --text code.txt --text prose.txt --min-tok-s 20

    moetool sparsity ./model.gguf --experts 4-8 --budget 600

    moetool sparsity demo --layers
    """
    from moetool.bench.matrix import parse_numbers
    from moetool.cli.layer_map import map_layers
    from moetool.cli.new_file import require_other, require_places
    from moetool.cli.opening import open_model
    from moetool.cli.thinning import Asked, measure_sparsity
    from moetool.cli.wishing import Flags, make_wishes

    for flag, value in (("--min-tok-s", min_tok_s), ("--budget", budget)):
        if value is not None and not math.isfinite(value):
            raise UsageError(f"{flag} cannot be {value}", f"give {flag} a number")
    require_places(outputs := {"--html": html})
    asked = Asked(
        parse_numbers(experts, "--experts") if experts else (), tuple(text or ()), budget, min_tok_s
    )
    flags = Flags(kv=kv, threads=threads, device=device, vram=vram, ram=ram, reserve=reserve)
    opened = open_model(model)
    require_other(outputs, (*opened.model.paths, *asked.texts))
    wishes, as_json = make_wishes(flags), output is Output.json
    if layers:
        if html is not None or min_tok_s is not None:
            raise UsageError("--layers goes with neither --html nor --min-tok-s", "leave them out")
        _show_layers(map_layers(opened, wishes, asked, rpc), as_json=as_json)
        return
    found = measure_sparsity(opened, wishes, asked, rpc)
    file_name = str(opened.model.paths[0])
    if html is not None:
        from moetool.cli.paging import write_bench_page

        write_bench_page(html, found.benchmark, file_name)
    if as_json:
        from moetool.cli.boundary import print_result
        from moetool.report.lab import of_sparsity

        print_result("sparsity", of_sparsity(found, file_name))
        return
    from moetool.render.sparsity import show_sparsity

    show_sparsity(found, model)


def _show_layers(found: LayerMap, *, as_json: bool) -> None:
    if as_json:
        from moetool.cli.boundary import print_result
        from moetool.report.lab import of_layer_map

        print_result("sparsity", of_layer_map(found))
        return
    from moetool.render.layer_map import show_layer_map

    show_layer_map(found)
