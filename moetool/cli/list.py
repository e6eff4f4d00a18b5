"""`moetool list`: what is on this disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moetool.store import LocalModel


def list_models() -> tuple[LocalModel, ...]:
    """Every whole model in the Hub's cache folder, wherever it came from."""
    from moetool.store import list_local, read_cache_dir

    return list_local(read_cache_dir())
