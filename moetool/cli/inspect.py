"""`moetool inspect`: what a model is made of, from its header alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from moetool.cli.options import ModelArg, Output, OutputOpt

if TYPE_CHECKING:
    from moetool.anatomy import Anatomy
    from moetool.names import ModelName


def inspect(
    model: ModelArg = "demo",
    layers: Annotated[bool, typer.Option("--layers", help="Also the table of all layers.")] = False,
    output: OutputOpt = Output.text,
) -> None:
    """Show layers, experts, parameters, and where the bytes are; reads the header only.

    moetool inspect demo --layers

    moetool inspect org/repo:Q4_K_M
    """
    from moetool.cli.opening import open_model
    from moetool.cli.remote_plan import remote_name
    from moetool.report.models import of_anatomy

    remote = remote_name(model)
    anatomy = read_remote_anatomy(remote) if remote else open_model(model).anatomy
    if output is Output.json:
        from moetool.cli.boundary import print_result

        print_result("inspect", of_anatomy(anatomy))
        return
    from moetool.render.anatomy import show_anatomy, show_layers

    show_anatomy(anatomy)
    if layers:
        show_layers(anatomy.layers)


def read_remote_anatomy(name: ModelName) -> Anatomy:
    """The anatomy of a quant on the Hub (the usual one, if none is named), from its header.

    Raises NotFound, GatedRepo, HubError, and HeaderError for a damaged file.
    """
    from moetool.anatomy import make_anatomy
    from moetool.errors import HeaderError
    from moetool.hub import read_hub, select_quant
    from moetool.kept_headers import read_kept_folder
    from moetool.remote import read_listing, read_remote_headers
    from moetool.render.plain import notice
    from moetool.render.units import show_bytes

    hub, folder = read_hub(), read_kept_folder()
    listing, problem = read_listing(hub, name.repo, name.revision or "main", folder)
    quant = select_quant(listing, name)
    (found,) = read_remote_headers(hub, listing, [quant], folder).headers
    if found.header is None:
        raise HeaderError(f"{quant.label} of {name.repo}: {found.problem}", 0, "Try another quant.")
    fetched = f"{show_bytes(found.fetched_bytes)} of its header read" if found.n_requests else "header kept"
    notice(" ".join(filter(None, (f"{name.repo}:{quant.label} on the Hub, {fetched}.", problem))))
    return make_anatomy(found.header, quant.size_bytes)
