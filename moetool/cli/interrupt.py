"""Ctrl-C as a question that the engine asks, so that nothing is torn in the middle of a C call."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from moetool.errors import Interrupted
from moetool.render.plain import reset_terminal


class CtrlC:
    """While this is open, Ctrl-C is counted and nothing is raised, except inside `raising`.

    An exception from a signal could surface inside a callback of llama.cpp, where it is lost; so the first
    press asks (`pressed`), the second insists, and the third ends the process where it stands: whatever does
    not answer by then never will.
    """

    def __init__(self) -> None:
        self._n_pressed = 0
        self._raises = False

    def pressed(self) -> bool:
        """Has it been pressed since the last `forget`?"""
        return self._n_pressed > 0

    def insisted(self) -> bool:
        """Has it been pressed twice since?"""
        return self._n_pressed > 1

    def forget(self) -> None:
        """Start afresh (the next answer of a chat)."""
        self._n_pressed = 0

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Inside, Ctrl-C raises KeyboardInterrupt, once: for waiting at a prompt."""
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._raises:
            self._raises = False
            raise KeyboardInterrupt
        self._n_pressed += 1
        if self._n_pressed > 2:
            reset_terminal()
            os._exit(Interrupted.exit_code)

    def __enter__(self) -> CtrlC:
        self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)
