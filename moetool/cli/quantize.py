"""`moetool quantize`: a smaller file of a model, its bits spent where they save most."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moetool.cli.options import MODEL_HELP, Output, OutputOpt, ThreadsOpt
from moetool.errors import UsageError

if TYPE_CHECKING:
    from moetool.lab.target import Target


def quantize(
    source: Annotated[str, typer.Argument(metavar="SRC", help=f"F16, BF16 or F32. {MODEL_HELP}")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The file to write.")],
    recipe: Annotated[
        str, typer.Option("--recipe", help="moe-aware, or a mix of llama.cpp's: Q4_K_M, IQ4_XS …")
    ] = "moe-aware",
    size: Annotated[
        str | None, typer.Option("--size", metavar="SIZE", help="moe-aware: at most so large a file: 12GiB.")
    ] = None,
    bpw: Annotated[
        float | None, typer.Option("--bpw", min=0.5, max=32, help="moe-aware: at most so many bits a weight.")
    ] = None,
    kld: Annotated[
        float | None,
        typer.Option(
            "--kld", min=1e-6, max=10, help="moe-aware: the least bytes that should diverge so little."
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option("--text", metavar="FILE", help="Measure on it which tensors matter how much; kept."),
    ] = None,
    imatrix: Annotated[
        Path | None, typer.Option("--imatrix", metavar="FILE", help="What `moetool imatrix` collected.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it would become.")] = False,
    requantize: Annotated[
        bool, typer.Option("--requantize", help="Also from a source that is quantized already.")
    ] = False,
    threads: ThreadsOpt = None,
    output: OutputOpt = Output.text,
) -> None:
    """Quantize a model with llama.cpp's quantizer; shows sizes first, writes whole files only.

    moetool quantize model-F16.gguf model-small.gguf --size 12GiB --dry-run

    moetool quantize model-F16.gguf model-small.gguf --bpw 4.5 --text wiki.txt

    moetool quantize model-F16.gguf model-Q4_K_M.gguf --recipe Q4_K_M --imatrix model.imatrix.gguf
    """
    from moetool.cli.new_file import require_new
    from moetool.cli.opening import open_model
    from moetool.cli.quantizing import Asked, make_quant_plan, require_plain, require_source, write_quant
    from moetool.lab.imatrix import read_imatrix

    name, wanted = _recipe_and_target(recipe, size, bpw, kld, text)
    if not dry_run:
        require_new(target, "DST")
    asked = Asked(
        recipe=name,
        target=wanted,
        text=text,
        imatrix=read_imatrix(imatrix) if imatrix else None,
        imatrix_name=imatrix.name if imatrix else "",
        requantize=requantize,
        n_threads=threads or 0,
    )
    opened = open_model(source)
    if text is not None and not dry_run:
        require_plain(opened, asked)
    plan = make_quant_plan(opened, asked)
    written = None if dry_run else str(target)
    if written:
        require_source(opened, plan, asked)
    if output is Output.text:
        from moetool.render.quantize import show_quant_plan

        show_quant_plan(plan, asked.imatrix)
    if written:
        write_quant(opened, plan, asked, target)
    if output is Output.json:
        from moetool.cli.boundary import print_result
        from moetool.report.lab import of_quant_plan

        print_result("quantize", of_quant_plan(plan, asked.imatrix, written))
    elif written:
        from moetool.render.quantize import show_next

        show_next(source, written)


def _recipe_and_target(
    recipe: str, size: str | None, bpw: float | None, kld: float | None, text: Path | None
) -> tuple[str, Target]:
    """What to do and how far, from the flags; UsageError for what does not go together."""
    from moetool.cli.wishing import parse_size
    from moetool.lab.recipes import MOE_AWARE, parse_recipe
    from moetool.lab.target import Target

    for flag, value in (("--bpw", bpw), ("--kld", kld)):
        if value is not None and not math.isfinite(value):
            raise UsageError(f"{flag} cannot be {value}", f"give {flag} a number")
    name = parse_recipe(recipe)
    wanted = Target(parse_size(size, "--size") if size else None, bpw, kld)
    if wanted.n_given != (1 if name == MOE_AWARE else 0):
        what = "one of --size, --bpw and --kld" if name == MOE_AWARE else "none of --size, --bpw and --kld"
        raise UsageError(f"--recipe {name} takes {what}", "moetool quantize --help has examples")
    if text is not None and name != MOE_AWARE:
        raise UsageError(f"--text is for --recipe {MOE_AWARE}: {name} follows llama.cpp's own rules")
    return name, wanted
