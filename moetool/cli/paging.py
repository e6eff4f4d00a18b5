"""What `--html FILE` does: the page is made from the document that `--output json` prints."""

from __future__ import annotations

from pathlib import Path

from moetool import report
from moetool.bench.report import Benchmark
from moetool.errors import UsageError
from moetool.render.page import make_page
from moetool.render.plain import notice


def write_bench_page(path: Path, benchmark: Benchmark, file_name: str) -> None:
    """Write the page of a bench; UsageError for a place where it cannot be written."""
    write_page(path, make_page(report.of_bench(benchmark, file_name)))


def write_page(path: Path, page: str) -> None:
    """Write a page; UsageError for a place where it cannot be written."""
    try:
        path.write_text(page, "utf-8")
    except OSError as error:
        raise UsageError(f"Cannot write {path}: {error.strerror}", "give --html another place") from error
    notice(f"Written: {path}")
