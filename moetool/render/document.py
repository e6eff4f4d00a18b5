"""JSON on stdout: one document, and nothing else."""

from __future__ import annotations

import json
import sys
from typing import Any

from moetool.render.plain import has_all_letters


def print_json(document: dict[str, Any]) -> None:
    """One line of JSON on stdout when piped, indented on a terminal."""
    indent = 2 if sys.stdout.isatty() else None
    # ASCII: a terminal is not sent escape sequences that a model put into its text.
    escaped = sys.stdout.isatty() or not has_all_letters(sys.stdout)
    sys.stdout.write(json.dumps(document, indent=indent, ensure_ascii=escaped) + "\n")
    sys.stdout.flush()
