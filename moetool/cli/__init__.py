"""The commands: Typer signatures, one file each. They call in order and compute nothing.

Every module here is imported by `moetool --help`: nothing heavy at their top.
"""

from __future__ import annotations

import typer

from moetool import __version__


def make_app() -> typer.Typer:
    """The command line with all its commands."""
    from moetool.cli.bench import bench
    from moetool.cli.compare import compare
    from moetool.cli.doctor import doctor
    from moetool.cli.experts import experts
    from moetool.cli.imatrix import imatrix
    from moetool.cli.inspect import inspect
    from moetool.cli.list import list_command
    from moetool.cli.plan import plan
    from moetool.cli.pull import pull
    from moetool.cli.quantize import quantize
    from moetool.cli.rm import rm
    from moetool.cli.run import run
    from moetool.cli.search import search
    from moetool.cli.sparsity import sparsity
    from moetool.cli.tune import tune
    from moetool.cli.worker import worker

    app = typer.Typer(
        name="moetool",
        add_completion=True,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(root)
    finding = (run, plan, pull, search, list_command, rm, inspect, compare)
    measuring = (bench, experts, sparsity, tune, quantize, imatrix, doctor, worker)
    for command in (*finding, *measuring):
        app.command(name=command.__name__.removesuffix("_command"))(command)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"moetool {__version__}")
        raise typer.Exit


def root(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Pull, plan, run and measure GGUF mixtures of experts on your own machine, over llama.cpp.

    Start here, offline:  moetool run demo "What is a mixture of experts?"
    """
