"""Progress bars on stderr: only on a terminal, and only when something takes long enough to wonder."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from moetool.render.plain import notice, safe_line
from moetool.render.units import show_bytes

PATIENCE_S = 0.5
LINE_EVERY_S = 5.0


@contextmanager
def load_progress(name: str) -> Iterator[Callable[[float], None] | None]:
    """A bar for loading a model; the block gets a callback for the fraction done (None off a terminal)."""
    if not sys.stderr.isatty():
        yield None
        return
    bar = _LateBar(f"Loading {name}")
    try:
        yield bar.update
    finally:
        bar.close()


@contextmanager
def work_progress(title: str, total: float) -> Iterator[Callable[[float], None]]:
    """A bar for `total` of some work, in seconds as well as they are known; the block gets a callback to be
    called with what more is done."""
    if not sys.stderr.isatty():
        yield lambda _amount: None
        return
    bar, done = _LateBar(title), 0.0

    def step(amount: float) -> None:
        nonlocal done
        done += amount
        bar.update(min(1.0, done / max(total, 1e-9)))

    try:
        yield step
    finally:
        bar.close()


@contextmanager
def step_progress(title: str, n_steps: int) -> Iterator[Callable[[], None]]:
    """A bar that counts `n_steps` steps of like length; the block gets a callback to be called after each."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    bar, done = _LateBar(title), 0

    def step() -> None:
        nonlocal done
        done += 1
        bar.update(done / n_steps, f"{title}: {done} of {n_steps}")

    try:
        yield step
    finally:
        bar.close()


@contextmanager
def download_progress(name: str) -> Iterator[Callable[[int, int, str], None]]:
    """Bytes, rate and time left on a terminal, a line every few seconds elsewhere; the block gets a callback
    for (bytes done, bytes in all, file at work)."""
    if not sys.stderr.isatty():
        yield _plain_lines()
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from moetool.render.tables import error_console

    title = TextColumn("{task.description}", markup=False)
    columns = (
        title,
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=error_console(), transient=True) as progress:
        task = progress.add_task(safe_line(name), total=None)

        def update(done_bytes: int, total_bytes: int, file: str) -> None:
            title = safe_line(file.rpartition("/")[2]) or safe_line(name)
            progress.update(task, completed=done_bytes, total=total_bytes, description=title)

        yield update


def _plain_lines() -> Callable[[int, int, str], None]:
    shown_at = time.monotonic()

    def update(done_bytes: int, total_bytes: int, file: str) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at >= LINE_EVERY_S:
            shown_at = time.monotonic()
            notice(f"{file}: {show_bytes(done_bytes)} of {show_bytes(total_bytes)}")

    return update


def close_bars() -> None:
    """Take the bars off the screen of a process that ends without unwinding: a bar redraws itself, and hides
    the cursor."""
    for bar in tuple(_shown):
        bar.close()


class _LateBar:
    """A rich bar that appears after PATIENCE_S, so that quick work shows (and imports) nothing."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._started = time.monotonic()
        self._progress: object | None = None

    def update(self, fraction: float, title: str = "") -> None:
        if self._progress is None and time.monotonic() - self._started < PATIENCE_S:
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        from moetool.render.tables import error_console

        if self._progress is None:
            columns = TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn()
            self._progress = Progress(*columns, console=error_console(), transient=True)
            self._progress.start()
            _shown.append(self)
            self._task = self._progress.add_task(self._title, total=1.0)
        assert isinstance(self._progress, Progress)
        self._progress.update(self._task, completed=fraction, description=title or self._title)

    def close(self) -> None:
        if self in _shown:
            _shown.remove(self)
            self._progress.stop()  # type: ignore[union-attr]


_shown: list[_LateBar] = []
