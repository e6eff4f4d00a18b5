"""Where moetool keeps what it found out: measurements, headers, runs. All of it may be deleted."""

from __future__ import annotations

import os
from pathlib import Path


def read_home() -> Path:
    """$MOETOOL_HOME, else moetool's folder in the user's cache ($XDG_CACHE_HOME or ~/.cache)."""
    home = os.environ.get("MOETOOL_HOME")
    if home:
        return Path(home)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moetool"
