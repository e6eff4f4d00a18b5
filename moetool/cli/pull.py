"""`moetool pull`: download a model from the Hub."""

from __future__ import annotations

from typing import Annotated

import typer

from moetool.cli.options import Output, OutputOpt


def pull(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="org/repo[:QUANT], org/repo/file.gguf or a URL.")
    ],
    revision: Annotated[str, typer.Option(help="A branch, tag or commit instead of main.")] = "",
    include: Annotated[
        list[str] | None, typer.Option(help="Also mmproj, mtp, draft or imatrix; may be repeated.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would come; download nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take the pick without being asked.")] = False,
    output: OutputOpt = Output.text,
) -> None:
    """Download a model from the Hub, every byte verified; goes on where it broke off.

    Without a quant, the best one for this machine is picked from the headers of all.

    moetool pull unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M

    moetool pull org/repo --dry-run
    """
    from moetool.cli.remote_plan import is_interactive

    ask = not (yes or dry_run or output is Output.json) and is_interactive()
    chosen = _full_name(model, revision, ask=ask)
    if chosen is None:
        typer.echo("Nothing was pulled. Name another quant: moetool pull org/repo:QUANT", err=True)
        return
    _pull(chosen, revision, include or [], dry_run=dry_run, output=output)


def _full_name(model: str, revision: str, *, ask: bool) -> str | None:
    """The name with a quant: the pick for this machine if it has none; None when the user refuses it."""
    from moetool.cli.remote_plan import choose_for_pull
    from moetool.names import parse_model_name

    name = parse_model_name(model)
    if name.kind != "repo" or name.quant or name.file:
        return model
    return choose_for_pull(name, revision, ask=ask)


def _pull(model: str, revision: str, include: list[str], *, dry_run: bool, output: Output) -> None:
    from moetool.pulling import pull_model
    from moetool.render.progress import download_progress

    with download_progress(model) as on_progress:
        result = pull_model(
            model, revision=revision, include=include, dry_run=dry_run, on_progress=on_progress
        )
    if output is Output.json:
        from moetool import report
        from moetool.cli.boundary import print_result

        print_result("pull", report.of_pull(result))
        return
    from moetool.render.plain import notice
    from moetool.render.tables import show_pull

    for text in result.notices:
        notice(text)
    show_pull(result)
