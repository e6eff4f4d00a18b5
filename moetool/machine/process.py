"""What this process itself takes: its largest resident size, and what it has read from the disk."""

from __future__ import annotations

import importlib
import re
from contextlib import suppress
from pathlib import Path

from moetool.machine.procfs import read_text

_SELF = Path("/proc/self")


def reset_peak_rss() -> None:
    """Let the largest resident size be counted anew from now on, where the system can (Linux)."""
    with suppress(OSError):
        (_SELF / "clear_refs").write_text("5")


def read_peak_rss() -> int:
    """The largest resident size in bytes, since the start or the last reset; mapped pages of files are in it.
    0 where the system does not say."""
    found = parse_peak_rss(read_text(_SELF / "status"))
    if found:
        return found
    try:
        resource = importlib.import_module("resource")
    except ImportError:
        return 0  # Windows
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # in bytes on macOS


def parse_peak_rss(status_text: str) -> int:
    """VmHWM of /proc/self/status in bytes; 0 without one."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status_text, re.M)
    return int(found[1]) * 1024 if found else 0


def read_disk_bytes() -> int | None:
    """Bytes that this process has made a disk deliver; None where nobody counts them."""
    return parse_disk_bytes(read_text(_SELF / "io"))


def parse_disk_bytes(io_text: str) -> int | None:
    """read_bytes of /proc/self/io; None without one."""
    found = re.search(r"^read_bytes: (\d+)$", io_text, re.M)
    return int(found[1]) if found else None
