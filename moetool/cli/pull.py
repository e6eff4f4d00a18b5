"""`moetool pull`: download a model from the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moetool.cli.options import Output, OutputOpt

if TYPE_CHECKING:
    from moetool.pulling import PullResult
    from moetool.store import OnProgress


class Beside(str, Enum):
    """Files that a repo can hold beside a model."""

    mmproj = "mmproj"
    mtp = "mtp"
    draft = "draft"
    imatrix = "imatrix"


def pull(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="org/repo[:QUANT], org/repo/file.gguf or a URL.")
    ] = None,
    revision: Annotated[str, typer.Option(help="A branch, tag or commit instead of main.")] = "",
    include: Annotated[
        list[Beside] | None, typer.Option(help="Also a file that goes beside the model; may be repeated.")
    ] = None,
    locked: Annotated[
        Path | None,
        typer.Option("--locked", metavar="FILE", help="Exactly the bytes of a lock file, instead of MODEL."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would come; download nothing."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take the pick without being asked.")] = False,
    output: OutputOpt = Output.text,
) -> None:
    """Download a model from the Hub, every byte verified; goes on where it broke off.

    Without a quant, the best one for this machine is picked from the headers of all. A lock file beside the
    model says which bytes it is, for --locked elsewhere.

    moetool pull unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M

    moetool pull org/repo --dry-run
    """
    from moetool.cli.remote_plan import is_interactive

    kinds = [kind.value for kind in include or []]
    if locked is not None:
        _check_alone(model, revision, kinds)
        _finish(_pull_locked(locked, dry_run=dry_run), output)
        return
    ask = not (yes or dry_run or output is Output.json) and is_interactive()
    chosen = _full_name(_required(model), revision, kinds, ask=ask)
    if chosen is None:
        typer.echo("Nothing was pulled. Name another quant: moetool pull org/repo:QUANT", err=True)
        return
    _finish(_pull(chosen, revision, kinds, dry_run=dry_run), output)


def _required(model: str | None) -> str:
    from moetool.errors import UsageError

    if not model:
        raise UsageError("Which model?", "moetool pull org/repo; moetool search WORDS finds some")
    return model


def _check_alone(model: str | None, revision: str, kinds: list[str]) -> None:
    from moetool.errors import UsageError

    if model or revision or kinds:
        raise UsageError("A lock file says which files it means.", "Use --locked without MODEL.")


def _full_name(model: str, revision: str, kinds: list[str], *, ask: bool) -> str | None:
    """The name with a quant: the pick for this machine if it has none; None when the user refuses it."""
    from moetool.cli.remote_plan import choose_for_pull
    from moetool.names import parse_model_name

    name = parse_model_name(model)
    if name.kind != "repo" or name.quant or name.file:
        return model
    return choose_for_pull(name, revision, kinds, ask=ask)


def _pull(model: str, revision: str, kinds: list[str], *, dry_run: bool) -> PullResult:
    from moetool.pulling import pull_model

    with _download(model) as on_progress:
        return pull_model(model, revision=revision, include=kinds, dry_run=dry_run, on_progress=on_progress)


def _pull_locked(locked: Path, *, dry_run: bool) -> PullResult:
    from moetool.pulling import pull_locked

    with _download(locked.name) as on_progress:
        return pull_locked(locked, dry_run=dry_run, on_progress=on_progress)


@contextmanager
def _download(name: str) -> Iterator[OnProgress]:
    """The progress of a download, and what Ctrl-C means for it."""
    from moetool.errors import Interrupted
    from moetool.render.progress import download_progress

    try:
        with download_progress(name) as on_progress:
            yield on_progress
    except KeyboardInterrupt:
        message = "Stopped; what has arrived is kept."
        raise Interrupted(message, "The same command continues where it was.") from None


def _finish(result: PullResult, output: Output) -> None:
    """What is only known once all is here, and the answer."""
    from moetool.arrived import check_arrived
    from moetool.kept_headers import read_kept_folder

    if not result.dry_run:
        check_arrived(result, read_kept_folder())
    if output is Output.json:
        from moetool.cli.boundary import print_result
        from moetool.report.models import of_pull

        print_result("pull", of_pull(result))
        return
    from moetool.render.models import show_pull
    from moetool.render.plain import notice

    for text in result.notices:
        notice(text)
    show_pull(result)
