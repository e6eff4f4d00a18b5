"""What `--html FILE` does: the page is made from the document that `--output json` prints."""

from __future__ import annotations

from pathlib import Path

from moetool.bench.report import Benchmark
from moetool.cli.new_file import new_file
from moetool.render.page import make_page
from moetool.render.plain import notice
from moetool.report.benchmarks import of_bench


def write_bench_page(path: Path, benchmark: Benchmark, file_name: str) -> None:
    """Write the page of a bench; UsageError for a place where it cannot be written."""
    write_page(path, make_page(of_bench(benchmark, file_name)))


def write_page(path: Path, page: str) -> None:
    """Write a page; UsageError for a place where it cannot be written."""
    with new_file(path, "--html") as part:
        part.write_text(page, "utf-8")
    notice(f"Written: {path}")
