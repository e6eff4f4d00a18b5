"""A command on a pseudo-terminal: typed to, waited for, and its last words and exit code read."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cli_fixture import clean_environment

PATIENCE_S = 20
CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """One running command and the terminal it believes to have."""

    def __init__(self, pid: int, master: int, slave: int) -> None:
        self.pid = pid
        self._master = master
        self._slave = slave
        self._seen = b""
        self._read_to = 0
        self.before = self.settings()

    def settings(self) -> list[Any]:
        """The terminal's modes, to be compared; they outlive the command."""
        return termios.tcgetattr(self._slave)

    def type(self, text: str) -> None:
        """Press keys; Ctrl-C after a moment, as a person would: CPython's readline looks for signals only
        while it waits for a key, and one that comes while it echoes the last key waits for the next."""
        if text == CTRL_C:
            time.sleep(0.25)
        os.write(self._master, text.encode())

    def suspend(self) -> None:
        """Ctrl-Z and `fg`, as a shell does them: the terminal is as it was before the command."""
        os.kill(self.pid, signal.SIGSTOP)
        termios.tcsetattr(self._slave, termios.TCSADRAIN, self.before)
        os.kill(self.pid, signal.SIGCONT)

    def wait_for(self, text: str) -> str:
        """Everything shown up to the next `text`, which must come."""
        deadline = time.monotonic() + PATIENCE_S
        while (at := self._seen.find(text.encode(), self._read_to)) < 0:
            assert self._read(deadline), f"no {text!r} in {self._seen[self._read_to :]!r}"
        start, self._read_to = self._read_to, at + len(text.encode())
        return self._seen[start : self._read_to].decode("utf-8", "replace")

    def ask(self, line: str) -> str:
        """Type a line, and wait for the prompt after what it causes."""
        self.type(line + "\n")
        self.wait_for("\n")
        return self.wait_for("\n> ")

    def end(self) -> tuple[int, str]:
        """The exit code, and everything that was shown, when the command has ended."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            assert time.monotonic() < deadline, f"still running: {self._seen[-300:]!r}"
            self._read(time.monotonic() + 0.02)
        self.pid = 0
        while self._read(time.monotonic() + 0.02):
            pass
        return os.waitstatus_to_exitcode(status), self._seen.decode("utf-8", "replace")

    def _read(self, deadline: float) -> bool:
        """Read what there is; False when nothing came in time or nothing can come."""
        if not select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        try:
            chunk = os.read(self._master, 65536)
        except OSError:
            return False
        self._seen += chunk
        return bool(chunk)


@contextmanager
def on_a_terminal(folder: Path, *arguments: str, term: str = "dumb") -> Iterator[Terminal]:
    """Run moetool with a terminal of its own; it is killed at the end if it still runs."""
    master, slave = pty.openpty()
    environment = clean_environment(folder) | {"TERM": term}
    pid = os.fork()
    if pid == 0:
        os.close(master)
        os.login_tty(slave) if hasattr(os, "login_tty") else _become_owner(slave)
        os.chdir(folder)
        os.execve(sys.executable, [sys.executable, "-m", "moetool", *arguments], environment)
    terminal = Terminal(pid, master, slave)
    try:
        yield terminal
    finally:
        if terminal.pid:
            os.kill(terminal.pid, 9)
            os.waitpid(terminal.pid, 0)
        os.close(master)
        os.close(slave)


def _become_owner(slave: int) -> None:
    """What os.login_tty (Python 3.11) does."""
    import fcntl

    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for stream in (0, 1, 2):
        os.dup2(slave, stream)
