"""Values as JSON can hold them: it has no word for infinite and undefined numbers, which become null."""

from __future__ import annotations

import math
from typing import Any


def finite(value: Any) -> Any:
    """The same value, None for each float in it that is no finite number (a divergence from a model that
    holds a token impossible is infinite), tuples as lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
