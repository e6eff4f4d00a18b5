"""Whether this process had to wait for the disk: pages of mapped files that were not in memory."""

from __future__ import annotations

import importlib


def read_page_faults() -> int:
    """Pages that this process has read from disk so far; 0 where the system does not count them."""
    try:
        resource = importlib.import_module("resource")
    except ImportError:
        return 0  # Windows
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_majflt)
