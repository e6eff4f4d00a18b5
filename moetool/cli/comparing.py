"""`moetool bench --compare`: two files of results, and whether they differ."""

from __future__ import annotations

from pathlib import Path

from moetool.bench.compare import compare, parse_rows
from moetool.errors import NotFound, UsageError


def compare_files(before: Path, after: Path, output: str) -> None:
    """Print what the results in two files differ by. NotFound, or UsageError for files that hold no results
    or nothing in common."""
    found = compare(_read(before), _read(after))
    if not found.pairs:
        raise UsageError(
            f"{before.name} and {after.name} have no test in common", "measure both with the same flags"
        )
    if output == "json":
        from moetool.cli.boundary import print_result
        from moetool.report.benchmarks import of_comparison

        print_result("bench", of_comparison(found))
    elif output == "text":
        from moetool.render.comparison import show_comparison

        show_comparison(found, str(before), str(after))
    else:
        raise UsageError(f"A comparison is not written as {output}", "use --output text or json")


def _read(path: Path) -> tuple[dict[str, object], ...]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        message, hint = f"Cannot read {path}: {error.strerror}", f"moetool bench … --output json > {path}"
        raise NotFound(message, hint) from error
    return tuple(dict(row) for row in parse_rows(text, path.name))
