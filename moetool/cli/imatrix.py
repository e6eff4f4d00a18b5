"""`moetool imatrix`: an importance matrix, collected while a model reads a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moetool.cli.options import ContextOpt, ModelArg, Output, OutputOpt, ThreadsOpt


def imatrix(
    model: ModelArg,
    text: Annotated[Path, typer.Option("--text", metavar="FILE", help="What the model reads.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file to write.")],
    ctx: ContextOpt = None,
    threads: ThreadsOpt = None,
    output: OutputOpt = Output.text,
) -> None:
    """Collect how large the inputs of each weight matrix are, for `moetool quantize --imatrix`.

    The file is llama.cpp's GGUF imatrix, with how often each expert was seen.

    moetool imatrix model-F16.gguf --text wiki.txt --out model.imatrix.gguf
    """
    from moetool.cli.collecting import collect
    from moetool.cli.new_file import new_file, require_new
    from moetool.cli.opening import open_model
    from moetool.cli.wishing import parse_context
    from moetool.lab.imatrix import write_imatrix

    require_new(out, "--out")
    found = collect(open_model(model), text, parse_context(ctx), threads)
    with new_file(out, "--out") as part:
        write_imatrix(part, found)
    if output is Output.json:
        from moetool.cli.boundary import print_result
        from moetool.report.lab import of_imatrix

        print_result("imatrix", of_imatrix(found, str(out)))
        return
    from moetool.render.quantize import show_imatrix

    show_imatrix(found, str(out))
