"""Files of records, one JSON line each, that commands append to and users may read, edit and delete."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moetool.finite import finite


def latest_lines(path: Path, most: int) -> list[str]:
    """The last `most` lines, the latest first; none of a file that cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return list(deque(file, most))[::-1]
    except OSError:
        return []


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Add one record, null for numbers that are not finite; a file that cannot be written is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(record)) + "\n")  # one short write: lines of two commands do not mix
    except OSError:
        return
