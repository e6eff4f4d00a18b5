"""A file that is written under another name, and gets its own when it is whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from moetool.errors import UsageError


def require_new(path: Path, flag: str) -> None:
    """UsageError where something lies already, or nothing can be put; said before any work is done."""
    if path.exists():
        raise UsageError(f"{path} is there already", f"give {flag} another name, or remove it first")
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent}", f"give {flag} another place")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"Nothing may be written into {path.parent}", f"give {flag} another place")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to: it becomes `path` when the block has ended well, else it goes."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.chmod(0o666 & ~_umask())  # mkstemp's is the owner's alone
        part.replace(path)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def _umask() -> int:
    """The mask that new files get: there is no way to read it but to set it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
