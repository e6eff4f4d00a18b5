"""Ctrl-C at random times: real processes on real (pseudo) terminals, one answer and chats.

    python scripts/check_interrupts.py [--times 100] [--seed 1]

What must hold each time: no traceback; the terminal's modes as they were; one answer ends with 130, or with 0
when it was done before; a chat lives on (asked, it answers, and Ctrl-D leaves with 0) or has left with 130.
Signals that arrive before Python has read the first line of moetool are counted apart: they are Python's.
"""

from __future__ import annotations

import argparse
import os
import pty
import random
import select
import signal
import sys
import tempfile
import termios
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENDLESS = '{"type": "array", "items": {"type": "integer"}, "minItems": 90000}'
ONE_SHOT = ["run", "demo", "Count", "--schema", ENDLESS, "--ctx", "20000"]
CHAT = ["run", "demo", "--schema", ENDLESS, "--ctx", "100000"]
PATIENCE_S = 30.0


class Command:
    """moetool on a pseudo-terminal of its own."""

    def __init__(self, arguments: Sequence[str], home: str) -> None:
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        self.pid = os.fork()
        if self.pid == 0:
            os.login_tty(self.slave)
            environment = os.environ | {"PYTHONPATH": str(ROOT), "MOETOOL_HOME": home, "NO_COLOR": "1"}
            os.execve(sys.executable, [sys.executable, "-m", "moetool", *arguments], environment)

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def read_for(self, seconds: float, until: bytes = b"") -> bool:
        """Read for so long, or until something is shown; was it?"""
        start, deadline = len(self.seen), time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self.master], [], [], min(left, 0.05))[0]:
                self.seen += os.read(self.master, 1 << 16)
            if until and until in self.seen[start:]:
                return True
        return False

    def exit_code(self, patience_s: float = PATIENCE_S) -> int | None:
        """The exit code once the command has ended, None if it does not."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                self.read_for(0.02)
                return os.waitstatus_to_exitcode(status)
            self.read_for(0.02)
        return None

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)
        os.close(self.slave)


def verdict(command: Command, codes: set[int], code: int | None) -> str:
    if termios.tcgetattr(command.slave) != command.before:
        return "TERMINAL CHANGED"
    if b"Traceback" in command.seen or b"Exception ignored" in command.seen:
        if b"moetool" not in command.seen.partition(b"Traceback")[2] or code == -signal.SIGINT:
            return "before moetool's first line"
        return "TRACEBACK"
    if code == -signal.SIGINT:
        return "before moetool's first line"
    return f"exit {code}" if code in codes else f"EXIT {code}"


def interrupt_answer(home: str, random_: random.Random) -> str:
    """One press at a random time of a one-shot answer."""
    command = Command(ONE_SHOT, home)
    command.read_for(random_.uniform(0, 2.5))
    command.press("\x03")
    code = command.exit_code()
    told = verdict(command, {130, 0}, code)
    if told.isupper() or told.startswith(("EXIT", "TRACE")):
        print(command.seen[-1500:].decode("utf-8", "replace"))
    command.close()
    return told


def interrupt_chat(home: str, random_: random.Random) -> str:
    """Presses at random times of a chat's answer, then it must still answer, or have left."""
    command = Command(CHAT, home)
    if not command.read_for(PATIENCE_S, b"> "):
        return "NO PROMPT"
    command.press("Count\n")
    command.read_for(random_.uniform(0, 1.0))
    # Presses within one step of llama.cpp are one signal to Python: several may count as one.
    for _ in range(random_.choice([1, 1, 2, 3])):
        command.press("\x03")
        command.read_for(random_.choice([0, 0.001, 0.05]))
    code = command.exit_code(1.0) if not command.read_for(PATIENCE_S, b"> ") else None
    if code is None:
        code = _living(command)
    told = verdict(command, {0, 130}, code)
    command.close()
    return {"exit 0": "lives on", "exit 130": "left with 130"}.get(told, told)


def _living(command: Command) -> int | None:
    """The exit code of a chat that answers once more and is left with Ctrl-D, or that was leaving already."""
    with suppress(OSError):
        command.press("/stats\n")
        if command.read_for(PATIENCE_S, b"memory "):
            command.read_for(0.2)
            command.press("\x04")
    return command.exit_code()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    random_ = random.Random(options.seed)
    failed = 0
    with tempfile.TemporaryDirectory() as home:
        for name, once in (("one answer", interrupt_answer), ("chat", interrupt_chat)):
            counts = Counter(once(home, random_) for _ in range(options.times))
            print(f"{name:<11}", ", ".join(f"{n} x {told}" for told, n in counts.most_common()), flush=True)
            failed += sum(n for told, n in counts.items() if told[:2].isupper())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
