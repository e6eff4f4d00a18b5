"""Ctrl-C at random times: real processes on real (pseudo) terminals and in pipes, one answer and chats.

    python scripts/check_interrupts.py [--times 100] [--seed 1] [--rows chat,piped] [--large MODEL.gguf]

What must hold each time: no traceback; the terminal's modes as they were; nothing left on the disk but whole
lines in moetool's own files. One answer ends with 130, or with 0 when it was done before; under a schema it
prints nothing in the one case, and all in the other. A chat lives on (it answers, and Ctrl-D leaves with 0)
or has left with 130: after two presses it must have left. Told apart: ended by the signal itself (-2, which a
shell calls 130), which is while moetool is imported or after its last line, and Python's own traceback before
moetool's first line.
--large: a model that takes its time to load, pressed while it does.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import random
import select
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENDLESS = '{"type": "array", "items": {"type": "integer"}, "minItems": 90000}'
ONE_SHOT = ["run", "demo", "Count", "--schema", ENDLESS, "--ctx", "20000"]
SHORT = ["run", "demo", "Extract name, age and city as JSON: Ada Lovelace, 36, London.", "--schema"]
SHORT += ['{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}']
PIPED = ["run", "demo", "--raw", "--temp", "1.5", "--max-tokens", "5000", "--ctx", "8192"]
CHAT = ["run", "demo", "--schema", ENDLESS, "--ctx", "100000"]
PATIENCE_S = 30.0
MOETOOL = [sys.executable, "-m", "moetool"]
BY_SIGNAL = "ended by the signal itself"


class Command:
    """moetool on a pseudo-terminal of its own."""

    def __init__(self, arguments: Sequence[str], home: Path) -> None:
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        self.pid = os.fork()
        if self.pid == 0:
            os.login_tty(self.slave)
            os.chdir(home / "work")
            os.execve(sys.executable, [*MOETOOL, *arguments], environment(home))

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def read_for(self, seconds: float, until: bytes = b"", start: int | None = None) -> bool:
        """Read for so long, or until something is shown behind the first `start` bytes (None: from now on);
        was it?"""
        start = len(self.seen) if start is None else start
        deadline = time.monotonic() + seconds
        while not (until and until in self.seen[start:]):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if select.select([self.master], [], [], min(left, 0.05))[0]:
                self.seen += os.read(self.master, 1 << 16)
        return True

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

    def verdict(self, codes: set[int], code: int | None) -> str:
        if code is None:
            return "STILL RUNNING"
        if termios.tcgetattr(self.slave) != self.before:
            return "TERMINAL CHANGED"
        return verdict(self.seen, codes, code)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)
        os.close(self.slave)


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "MOETOOL_HOME": str(home / "home"), "NO_COLOR": "1"}


def verdict(seen: bytes, codes: set[int], code: int | None) -> str:
    """What an end counts as; capitals are a failure of the promise."""
    if code == -signal.SIGINT:
        return BY_SIGNAL
    _, _, trace = seen.partition(b"Traceback")
    if trace and b"moetool/" not in trace and b"Exception ignored" not in seen:
        return "before moetool's first line"
    if trace or b"Exception ignored" in seen:
        print(seen[-1500:].decode("utf-8", "replace"))
        return "TRACEBACK"
    return f"exit {code}" if code in codes else f"EXIT {code}"


def disk_faults(home: Path) -> str:
    """What is on the disk that should not be: a file left behind, half a line."""
    if left := [path.name for path in (home / "work").iterdir()]:
        return f"LEFT BEHIND {left}"
    for path in (home / "home").rglob("*"):
        if path.suffix == ".jsonl":
            try:
                [json.loads(line) for line in path.read_text().splitlines()]
            except ValueError:
                return f"HALF A LINE in {path.name}"
        elif path.is_file() and path.suffix != ".json":
            return f"LEFT BEHIND {path.name}"
    return ""


def interrupt_answer(home: Path, random_: random.Random, arguments: Sequence[str] = ONE_SHOT) -> str:
    """One press at a random time of an answer on a terminal."""
    command = Command(arguments, home)
    command.read_for(random_.uniform(0, 2.5))
    command.press("\x03")
    told = command.verdict({130, 0}, command.exit_code())
    command.close()
    return told


def interrupt_piped(home: Path, random_: random.Random) -> str:
    """Text through pipes, as in a shell's pipeline: what came is text, up to where it was stopped."""
    code, out, err = _piped(PIPED, home, random_.uniform(0, 2.0), b"Once")
    try:
        out.decode()
    except UnicodeDecodeError:
        return "HALF A CHARACTER"
    return verdict(err, {130, 0}, code) + (", some text" if out and code == 130 else "")


def interrupt_schema(home: Path, random_: random.Random) -> str:
    """A document through a pipe: all of it or nothing."""
    code, out, err = _piped(SHORT, home, random_.uniform(0, 1.2), b"")
    told = verdict(err, {130, 0}, code)
    if not out:
        return told if code else "NOTHING PRINTED"
    try:
        json.loads(out)
    except ValueError:
        print(out)
        return "PRINTED ALTHOUGH BROKEN OFF"
    return told if code == 0 else f"PRINTED, AND {told}"


def _piped(arguments: Sequence[str], home: Path, after_s: float, stdin: bytes) -> tuple[int, bytes, bytes]:
    process = subprocess.Popen(
        [*MOETOOL, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=home / "work",
        env=environment(home),
    )
    with suppress(subprocess.TimeoutExpired):
        out, err = process.communicate(stdin, timeout=after_s)
        return process.returncode, out, err
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def interrupt_chat(home: Path, random_: random.Random) -> str:
    """Presses at random times of a chat's answer: after one it must still answer, after two have left."""
    command = Command(CHAT, home)
    if not command.read_for(PATIENCE_S, b"> "):
        return "NO PROMPT"
    command.press("Count\n")
    command.read_for(random_.uniform(0, 1.0))
    n_presses, pressed_at = random_.choice([1, 1, 2, 3]), len(command.seen)
    for _ in range(n_presses):
        command.press("\x03")
        # As fast as a held key repeats. Of two within a millisecond the kernel may deliver one.
        command.read_for(random_.choice([0.03, 0.05, 0.1, 0.3]))
    if n_presses == 1:
        command.read_for(PATIENCE_S, b"> ", pressed_at)
        told = command.verdict({0}, _living(command))
    else:
        told = command.verdict({130}, command.exit_code())
    command.close()
    return f"pressed {'once' if n_presses == 1 else 'more'}: {told}"


def _living(command: Command) -> int | None:
    """The exit code of a chat that obeys once more and is left with Ctrl-D."""
    with suppress(OSError):
        command.press("/stats\n")
        if command.read_for(PATIENCE_S, b"memory "):
            command.read_for(0.2)
            command.press("\x04")
    return command.exit_code()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", help="only these, with commas between")
    parser.add_argument("--large", type=Path, help="a model that takes a second or more to load")
    options = parser.parse_args()
    rows: dict[str, Callable[[Path, random.Random], str]] = {
        "answer": interrupt_answer,
        "piped": interrupt_piped,
        "schema": interrupt_schema,
        "chat": interrupt_chat,
    }
    if options.large:
        loading = ["run", str(options.large.resolve()), "Hello", "--ctx", "512"]
        rows["load"] = lambda home, random_: interrupt_answer(home, random_, loading)
    # In the background of a shell it is ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    failed = 0
    for name in options.rows.split(",") if options.rows else rows:
        random_ = random.Random(f"{options.seed} {name}")
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            (home / "work").mkdir()
            (home / "home").mkdir()
            counts = Counter(
                rows[name](home, random_) + (" " + disk_faults(home)).rstrip() for _ in range(options.times)
            )
        print(f"{name:<7}", ", ".join(f"{n} x {told}" for told, n in counts.most_common()), flush=True)
        failed += sum(n for told, n in counts.items() if told != told.lower())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
