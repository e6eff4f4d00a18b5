"""Ctrl-C as a question that the engine asks, so that nothing is torn in the middle of a C call."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from moetool.errors import Interrupted
from moetool.render.plain import reset_terminal

# CPython's readline looks for signals only when its wait for a key is interrupted: one that came just before
# that wait began (a quick second Ctrl-C), or to another thread, would be seen at the next key.
_LOOK_AGAIN_S = 0.1
_LOOK_EVERY_S = 0.5


def set_ctrl_c(handler: Any) -> None:
    """Let Ctrl-C do this, unless it shall change nothing any more."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


class CtrlC:
    """While this is open, Ctrl-C is counted and nothing is raised, except inside `raising`.

    An exception from a signal could surface inside a callback of llama.cpp, where it is lost; so the first
    press asks (`pressed`), the second insists, and the third ends the process where it stands: whatever does
    not answer by then never will.
    """

    def __init__(self) -> None:
        self._n_pressed = 0
        self._raises = False

    def answer_is_out(self) -> None:
        """From now on, to the end of the process, it changes nothing: an answer that was printed whole does
        not end with 130."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def pressed(self) -> bool:
        """Has it been pressed since the last `take`?"""
        return self._n_pressed > 0

    def take(self) -> int:
        """How often it was pressed since the last time this was asked."""
        n_pressed, self._n_pressed = self._n_pressed, 0
        return n_pressed

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Inside, Ctrl-C raises KeyboardInterrupt, once, also if it was pressed before: for waiting at a
        prompt. `take` tells how often it was pressed."""
        self._raises = True
        signal.signal(signal.SIGALRM, lambda _number, _frame: None)
        signal.setitimer(signal.ITIMER_REAL, _LOOK_AGAIN_S, _LOOK_EVERY_S)
        try:
            self._raise_if_pressed()
            yield
        finally:
            self._raises = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _raise_if_pressed(self) -> None:
        if self._raises and self._n_pressed:
            self._raises = False
            raise KeyboardInterrupt

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        # Presses within one long C call are one call of this; the pipe has a byte for each.
        self._n_pressed += _drained(self._presses)
        self._raise_if_pressed()
        if self._n_pressed > 2:
            reset_terminal()
            os._exit(Interrupted.exit_code)

    def __enter__(self) -> CtrlC:
        self._presses, self._pressing = os.pipe()
        os.set_blocking(self._presses, False)
        os.set_blocking(self._pressing, False)
        self._wakeup_before = signal.set_wakeup_fd(self._pressing, warn_on_full_buffer=False)
        self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        set_ctrl_c(self._before)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._presses)
        os.close(self._pressing)


def _drained(presses: int) -> int:
    """How many Ctrl-C have come through a pipe that gets the number of every signal."""
    try:
        return os.read(presses, 4096).count(signal.SIGINT)
    except BlockingIOError:
        return 0
