"""The commands: Typer signatures, one file each. They call in order and compute nothing.

Every module here is imported by `moetool --help`: nothing heavy at their top.
"""

from __future__ import annotations

from importlib import import_module

import typer

from moetool import __version__

# In the order of the help text: those that find a model, those that measure or make one. Each is a module
# with a function of its name.
COMMANDS = (
    *("run", "plan", "pull", "search", "list", "rm", "inspect", "compare"),
    *("bench", "experts", "sparsity", "tune", "quantize", "imatrix", "doctor", "worker"),
)
# Where that is a word of Python's own.
_RENAMED = {"list": "list_command"}


def make_app(command: str = "") -> typer.Typer:
    """The command line with all its commands, or with the one that is asked for: reading the flags of all
    takes 30 ms."""
    app = typer.Typer(
        name="moetool",
        add_completion=True,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(root)
    for name in [command] if command in COMMANDS else COMMANDS:
        module = import_module(f"moetool.cli.{name}")
        app.command(name=name)(getattr(module, _RENAMED.get(name, name)))
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
