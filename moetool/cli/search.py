"""`moetool search`: models on the Hub, by words."""

from __future__ import annotations

from typing import Annotated

import typer

from moetool.cli.options import Output, OutputOpt

_N_REPOS = 10


def search(
    words: Annotated[list[str], typer.Argument(metavar="WORDS", help="All of them are in the repo's name.")],
    output: OutputOpt = Output.text,
) -> None:
    """Find GGUF models on the Hub, the most downloaded first, with sizes and what fits here.

    What fits is told from file sizes alone; `moetool plan org/repo` reads the headers.

    moetool search qwen3 a3b
    """
    from moetool.cli.opening import read_this_machine
    from moetool.errors import NotFound
    from moetool.fitting import make_offered
    from moetool.hub import read_hub, search_repos
    from moetool.names import show_name

    found = search_repos(read_hub(), words, _N_REPOS)
    if not found:
        raise NotFound(f"No repo of GGUF files is named {show_name(' '.join(words))}.", "Try fewer words.")
    here = read_this_machine()
    offered = make_offered(found, here)
    if output is Output.json:
        from moetool.cli.boundary import print_result
        from moetool.report.models import of_offered

        print_result("search", of_offered(offered))
        return
    from moetool.render.models import show_offered

    show_offered(offered, here)
