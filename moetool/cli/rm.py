"""`moetool rm`: remove a model from this disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from moetool.cli.options import Output, OutputOpt
from moetool.errors import UsageError

if TYPE_CHECKING:
    from moetool.store import Removal


def rm(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="org/repo[:QUANT], or its short name.")
    ] = None,
    session: Annotated[
        str | None, typer.Option("--session", metavar="NAME", help="Remove a session of `run` instead.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove it without being asked.")] = False,
    output: OutputOpt = Output.text,
) -> None:
    """Remove a model from this disk, and what an unfinished pull has left of it.

    Bytes that another revision uses stay. It says first what would go, and how much that frees.

    moetool rm org/repo:Q4_K_M

    moetool rm --session NAME
    """
    if session is not None:
        _forget_session(model, session, output, unasked=yes)
        return
    if model is None:
        raise UsageError("Nothing is named", "moetool list, or list --sessions, shows what there is")
    from moetool.render.models import removal_phrase

    removal = _find(model, unasked=yes)
    if not (yes or _agrees(removal_phrase(removal), output)):
        typer.echo("Nothing was removed.", err=True)
        return
    _remove(model, removal, unasked=yes)
    if output is Output.json:
        from moetool.cli.boundary import print_result
        from moetool.report.models import of_removal

        print_result("rm", of_removal(removal))
        return
    from moetool.render.models import show_removed

    show_removed(removal)


def _find(text: str, *, unasked: bool) -> Removal:
    """What is to go. NotFound, or UsageError for what is not in the Hub's cache.

    Nobody knows of which quant the leftovers of a repo are: they go for one's name only after asking.
    """
    from moetool.errors import NotFound
    from moetool.names import parse_model_name, show_name
    from moetool.render.units import show_bytes
    from moetool.store import find_local, plan_leftovers, plan_removal, read_cache_dir

    name, cache_dir = parse_model_name(text), read_cache_dir()
    if name.kind not in {"repo", "short"}:
        raise UsageError(f"{show_name(text)} is not something that was pulled.", "moetool list shows what is")
    model = find_local(name, cache_dir)
    if model is not None:
        return plan_removal(model, cache_dir)
    leftovers = plan_leftovers(name.repo, cache_dir) if name.kind == "repo" else None
    if leftovers is None:
        raise NotFound(f"{show_name(text)} is not on this disk.", "moetool list shows what is.")
    if unasked and (name.quant or name.file):
        raise NotFound(
            f"{show_name(text)} is not on this disk; unfinished pulls of {show_name(name.repo)} have left"
            f" {show_bytes(leftovers.freed_bytes)}.",
            "that may be of other quants: without --yes, you are asked about it",
        )
    return leftovers


def _remove(text: str, removal: Removal, *, unasked: bool) -> None:
    """Do what was agreed to, unless a pull is at work on it, or has been since."""
    from moetool.errors import MoetoolError
    from moetool.hub import hold_blobs
    from moetool.store import read_cache_dir, remove

    cache_dir = read_cache_dir()
    with hold_blobs(cache_dir, removal.repo, removal.digests):
        if _find(text, unasked=unasked) != removal:
            raise MoetoolError(
                f"What there is of {removal.name} has just changed; nothing was removed.", "Try again."
            )
        remove(removal, cache_dir)


def _forget_session(model: str | None, name: str, output: Output, *, unasked: bool) -> None:
    from moetool.errors import NotFound
    from moetool.kept_sessions import find_session, list_sessions, remove_session
    from moetool.render.units import show_bytes
    from moetool.report.runs import of_sessions

    if model is not None:
        raise UsageError("Either a model or a --session can be removed", "drop one of them")
    files = find_session(name)
    kept = next((item for item in list_sessions() if item.name == name), None)
    if kept is None:
        raise NotFound(f"There is no session {name}.", "moetool list --sessions shows what there is")
    if not (unasked or _agrees(f"session {name}, {show_bytes(kept.n_bytes)}", output)):
        typer.echo("Nothing was removed.", err=True)
        return
    remove_session(files)
    if output is Output.json:
        from moetool.cli.boundary import print_result

        print_result("rm", of_sessions([kept]))
        return
    typer.echo(f"Removed session {name}.")


def _agrees(what: str, output: Output) -> bool:
    from moetool.cli.remote_plan import is_interactive

    if output is Output.json or not is_interactive():
        raise UsageError("There is nobody to ask whether it should really go.", "--yes removes it unasked.")
    return typer.confirm(f"Remove {what}?", default=False, err=True)
