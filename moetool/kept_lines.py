"""What was typed into chats, kept on this disk for the arrow keys: one JSON string a line, the owner's alone.

A line that is damaged is as good as none; a file that cannot be written is no error.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from moetool.home import read_home

N_KEPT = 500
# A pasted book is not worth keeping.
MAX_CHARS = 16 << 10
# The file is cut back to N_KEPT when it is read and longer than this.
_N_TOO_MANY = 2 * N_KEPT


def read_lines_path() -> Path:
    """Where typed lines are kept."""
    return read_home() / "chat_lines.jsonl"


def read_lines(path: Path) -> list[str]:
    """The latest messages, oldest first; cuts the file back when it has grown far beyond them."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            raw = list(deque(file, _N_TOO_MANY + 1))
    except OSError:
        return []
    lines = [line for line in map(_parse_line, raw[-N_KEPT:]) if line]
    if len(raw) > _N_TOO_MANY:
        _rewrite(path, lines)
    return lines


def keep_line(path: Path, line: str) -> None:
    """Append one message; one that is very long is left out."""
    if len(line) > MAX_CHARS:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(handle, "a", encoding="utf-8") as file:  # noqa: PTH123 (a descriptor, not a path)
            os.fchmod(handle, 0o600)
            file.write(json.dumps(line) + "\n")  # one short write: two chats do not mix their lines
    except OSError:
        return


def _rewrite(path: Path, lines: Iterable[str]) -> None:
    new = path.with_suffix(f".{os.getpid()}")
    try:
        new.touch(mode=0o600)
        new.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        new.replace(path)
    except OSError:
        return


def _parse_line(raw: str) -> str | None:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, str) and len(line) <= MAX_CHARS else None
