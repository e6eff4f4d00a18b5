"""What a user types: edited lines, messages of several lines, pasted text, Ctrl-C and Ctrl-D."""

from __future__ import annotations

import os
import readline
import select
import signal
import sys
import termios
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import Any

from moetool.cli.interrupt import CtrlC
from moetool.kept_lines import keep_line, read_lines, read_lines_path
from moetool.render.plain import notice

QUOTES = '"""'
# libedit, which some Pythons have for readline, hands pasted lines over one by one.
_IS_LIBEDIT = "libedit" in (readline.__doc__ or "")
_SAME_PASTE_S = 0.02


class Left(Exception):  # noqa: N818
    """Ctrl-C was pressed twice with nothing typed in between."""


class Lines:
    """Reads messages with line editing; earlier ones come back with the arrow keys, also in the next chat."""

    def __init__(self, ctrl_c: CtrlC, commands: Sequence[str]) -> None:
        self._ctrl_c = ctrl_c
        self._path = read_lines_path()
        self._n_pressed = 0
        if isinstance(sys.stdin, TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")
        readline.set_auto_history(False)
        # Python turns it off; with it, pasted lines are one message.
        if os.environ.get("TERM") != "dumb":
            readline.parse_and_bind("set enable-bracketed-paste on")
        _complete_commands(commands)
        self._suspension = _Suspension()
        for line in read_lines(self._path):
            readline.add_history(line)

    def answer_was_stopped(self) -> None:
        """The next Ctrl-C is the second one."""
        self._n_pressed = 1

    def read(self) -> str | None:
        """One message; None at Ctrl-D, "" after Ctrl-C. Raises Left after the second Ctrl-C."""
        try:
            with self._ctrl_c.raising():
                message = read_message(self._suspension.read_line)
        except EOFError:
            notice("")
            return None
        except KeyboardInterrupt:
            notice("")
            self._on_ctrl_c(self._ctrl_c.take())
            return ""
        if message:
            self._n_pressed = 0
            self._remember(message)
        return message

    def _on_ctrl_c(self, n_pressed: int) -> None:
        # The first one took back what was typed.
        if readline.get_line_buffer():
            self._n_pressed, n_pressed = 0, n_pressed - 1
        self._n_pressed += n_pressed
        if self._n_pressed > 1:
            raise Left
        if n_pressed:
            notice("(Ctrl-C again, or Ctrl-D, leaves)")

    def _remember(self, message: str) -> None:
        n_kept = readline.get_current_history_length()
        if n_kept and readline.get_history_item(n_kept) == message:
            return
        readline.add_history(message)
        keep_line(self._path, message)


def read_message(read_line: Callable[[str], str]) -> str:
    r"""One message from as many lines as it takes: a \ at a line's end and an opened triple quote go on."""
    line = read_line("> ")
    if line.lstrip().startswith(QUOTES):
        return _read_quoted(line.lstrip().removeprefix(QUOTES), read_line)
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(read_line(". "))
    return "\n".join(lines).strip()


def _read_quoted(first: str, read_line: Callable[[str], str]) -> str:
    lines = [first]
    while not lines[-1].rstrip().endswith(QUOTES):
        lines.append(read_line(". "))
    lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
    return "\n".join(lines).strip()


def _read_edited(prompt: str) -> str:
    line = input(prompt)
    while _IS_LIBEDIT and select.select([sys.stdin], [], [], _SAME_PASTE_S)[0]:
        line += "\n" + input(". ")
    return line


class _Suspension:
    """Ctrl-Z and `fg` while a line is edited: readline does not know of them, and the shell has set the
    terminal as it likes it itself. Letters would be shown twice, and pasted lines would be messages each."""

    def __init__(self) -> None:
        self._prompt = ""
        self._modes: list[Any] | None = None
        readline.set_pre_input_hook(self._keep_modes)
        signal.signal(signal.SIGCONT, self._on_continued)

    def read_line(self, prompt: str) -> str:
        """As `input`."""
        self._prompt = prompt
        try:
            return _read_edited(prompt)
        finally:
            self._modes = None

    def _keep_modes(self) -> None:
        with suppress(termios.error):
            self._modes = termios.tcgetattr(sys.stdin)

    def _on_continued(self, _number: int, _frame: object) -> None:
        if self._modes is None:
            return
        with suppress(termios.error):
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._modes)
        paste_on = "" if os.environ.get("TERM") == "dumb" else "\x1b[?2004h"
        sys.stdout.write(f"{paste_on}\r{self._prompt}{readline.get_line_buffer()}")
        sys.stdout.flush()


def _complete_commands(commands: Sequence[str]) -> None:
    def complete(text: str, state: int) -> str | None:
        found = [name for name in commands if name.startswith(text)] if text.startswith("/") else []
        return found[state] if state < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" ")
    readline.parse_and_bind("bind ^I rl_complete" if _IS_LIBEDIT else "tab: complete")
