"""Ctrl-C as a question that the engine asks, so that nothing is torn in the middle of a C call."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class CtrlC:
    """While this is open, the first Ctrl-C sets `pressed`; a second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self._pressed = False

    def pressed(self) -> bool:
        """Has it been pressed since the last `forget`?"""
        return self._pressed

    def forget(self) -> None:
        """Start afresh (the next answer of a chat)."""
        self._pressed = False

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._pressed:
            raise KeyboardInterrupt
        self._pressed = True

    def __enter__(self) -> CtrlC:
        self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)
