"""`moetool inspect`: what a model is made of, from its header alone."""

from __future__ import annotations

from typing import Annotated

import typer

from moetool.cli.options import ModelArg, Output, OutputOpt


def inspect(
    model: ModelArg = "demo",
    layers: Annotated[bool, typer.Option("--layers", help="Also the table of all layers.")] = False,
    output: OutputOpt = Output.text,
) -> None:
    """Show layers, experts, parameters, and where the bytes are; reads the header only.

    moetool inspect demo --layers
    """
    from moetool import report
    from moetool.cli.opening import open_model

    opened = open_model(model)
    if output is Output.json:
        from moetool.cli.boundary import print_result

        print_result("inspect", report.of_anatomy(opened.anatomy))
        return
    from moetool.render.tables import show_anatomy, show_layers

    show_anatomy(opened.anatomy)
    if layers:
        show_layers(opened.anatomy.layers)
