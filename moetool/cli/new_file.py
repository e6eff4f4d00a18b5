"""A file that is written under another name, and gets its own when it is whole."""

from __future__ import annotations

import fcntl
import glob
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from moetool.errors import UsageError

_PART = ".part"


def require_new(path: Path, flag: str) -> None:
    """UsageError where something lies already, or nothing can be put; said before any work is done."""
    if path.exists():
        raise UsageError(f"{path} is there already", f"give {flag} another name, or remove it first")
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent}", f"give {flag} another place")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"Nothing may be written into {path.parent}", f"give {flag} another place")


def require_places(places: Mapping[str, Path | None]) -> None:
    """UsageError for a file, by its flag, that cannot be written: reading may take minutes."""
    for flag, path in places.items():
        if path is None:
            continue
        if path.is_dir():
            raise UsageError(f"{path} is a folder", f"give {flag} the name of a file")
        if not path.parent.is_dir():
            raise UsageError(f"There is no folder {path.parent}", f"give {flag} another place")


def require_other(places: Mapping[str, Path | None], read: Sequence[Path]) -> None:
    """UsageError for a file to be written that is one of those to be read."""
    for flag, path in places.items():
        if path is not None and path.exists() and any(one.exists() and path.samefile(one) for one in read):
            raise UsageError(f"{path} is what is read", f"give {flag} another place")


@contextmanager
def new_file(path: Path, flag: str) -> Iterator[Path]:
    """A name beside `path` to write to: it becomes `path` when the block has ended well, else it goes. What
    was left so by a process that was killed goes, too. UsageError where nothing can be written."""
    try:
        _remove_left(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PART)
        part = Path(name)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # as long as this process lives
            yield part
            _settle(part)
            part.replace(path)
        finally:
            os.close(handle)
            part.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"Cannot write {path}: {error.strerror}", f"give {flag} another place") from error


def _remove_left(path: Path) -> None:
    """Parts of `path` that nobody is writing any more."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*{_PART}"):
        with suppress(OSError):
            handle = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()
            finally:
                os.close(handle)


def _settle(part: Path) -> None:
    """On the disk, and for those whom the umask lets read it: mkstemp's files are their owner's alone."""
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    part.chmod(0o666 & ~_umask())


def _umask() -> int:
    """The mask that new files get: there is no way to read it but to set it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
