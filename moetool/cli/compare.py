"""`moetool compare`: several models side by side on one machine."""

from __future__ import annotations

from typing import Annotated

import typer

from moetool.cli.options import MODEL_HELP, ContextOpt, KvOpt, MachineOpt, Output, OutputOpt, RamOpt, VramOpt
from moetool.errors import UsageError


def compare(
    models: Annotated[list[str], typer.Argument(metavar="MODEL MODEL …", help=f"Each: {MODEL_HELP}")],
    ctx: ContextOpt = None,
    kv: KvOpt = None,
    vram: VramOpt = None,
    ram: RamOpt = None,
    machine: MachineOpt = None,
    output: OutputOpt = Output.text,
) -> None:
    """Show models side by side: anatomy, memory, speed, loss; and which one to take.

    Models on the Hub are read by their headers alone; nothing is downloaded.

    moetool compare org/repo-35B-A3B-GGUF:Q4_K_M org/repo-27B-GGUF:Q4_K_M --ctx 32k --vram 24GiB

    moetool compare model-Q4_K_M.gguf model-small.gguf
    """
    from moetool.cli.contesting import make_contest, refusal
    from moetool.cli.wishing import Flags, make_wishes

    if len(models) < 2:
        raise UsageError(
            "There is only one model to compare", "moetool plan shows one model, or a repo's quants"
        )
    found = make_contest(models, machine, make_wishes(Flags(ctx=ctx, kv=kv, vram=vram, ram=ram)))
    if output is Output.json:
        from moetool.cli.boundary import print_result
        from moetool.report.plans import of_contest

        print_result("compare", of_contest(found), refusal(found))
        return
    from moetool.render.contest import show_contest

    show_contest(found)
    if problem := refusal(found):
        raise problem
