"""`moetool list`: what is on this disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from moetool.cli.options import Output, OutputOpt

if TYPE_CHECKING:
    from moetool.anatomy import Anatomy
    from moetool.fitting import Listed
    from moetool.store import LocalModel


def list_models() -> tuple[LocalModel, ...]:
    """Every whole model in the Hub's cache folder, wherever it came from."""
    from moetool.store import list_local, read_cache_dir

    return list_local(read_cache_dir())


def list_command(
    verify: Annotated[bool, typer.Option("--verify", help="Hash every file again; takes a while.")] = False,
    sessions: Annotated[
        bool, typer.Option("--sessions", help="List what `run --session` has kept instead.")
    ] = False,
    output: OutputOpt = Output.text,
) -> None:
    """List the models on this disk, whichever tool pulled them.

    moetool list --verify

    moetool list --sessions
    """
    from moetool.report.models import of_models

    if sessions:
        _list_sessions(output, verify=verify)
        return
    models = verified_models() if verify else list_models()
    listed = _listed(models)
    if output is Output.json:
        from moetool.cli.boundary import print_result

        print_result("list", of_models(listed))
        return
    from moetool.render.models import show_models

    show_models(listed)


def _list_sessions(output: Output, *, verify: bool) -> None:
    from moetool.errors import UsageError
    from moetool.kept_sessions import list_sessions
    from moetool.report.runs import of_sessions

    if verify:
        raise UsageError("--verify is for models", "a session is checked whenever it is used")
    kept = list_sessions()
    if output is Output.json:
        from moetool.cli.boundary import print_result

        print_result("list", of_sessions(kept))
        return
    from moetool.render.models import show_sessions

    show_sessions(kept)


def _listed(models: tuple[LocalModel, ...]) -> tuple[Listed, ...]:
    """The models with what their headers say, and whether this machine has room for them."""
    from moetool.cli.opening import read_this_machine
    from moetool.fitting import make_listed

    if not models:
        return ()
    here = read_this_machine()
    return tuple(make_listed(model, _anatomy(model), here) for model in models)


def verified_models() -> tuple[LocalModel, ...]:
    """The same, after every byte whose right hash is known was hashed again."""
    from moetool.render.progress import download_progress
    from moetool.store import read_cache_dir, verify_local

    cache_dir = read_cache_dir()
    with download_progress("Verifying") as on_progress:
        return tuple(verify_local(model, cache_dir, on_progress) for model in list_models())


def _anatomy(model: LocalModel) -> Anatomy | None:
    """What the header says; None for a header that cannot be read, which is listed all the same."""
    from moetool.cli.opening import read_anatomy
    from moetool.errors import MoetoolError

    try:
        return read_anatomy(model)
    except MoetoolError:
        return None
