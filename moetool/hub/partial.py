"""A file that is arriving: bytes that nobody may take for a model yet, hashed as they come."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from moetool.store import start_hash
from moetool.store.layout import hash_into


class PartialFile:
    """What has arrived of a blob, beside its final name, under a name that nothing loads.

    Opening it hashes what an earlier attempt left, so that it can be continued; each write is hashed as it
    goes by. Only `publish` gives it its final name, and only bytes that hash to `digest` get there.
    """

    def __init__(self, blob: Path, digest: str, size_bytes: int, on_bytes: Callable[[int], None]) -> None:
        self.blob, self.digest, self.size_bytes = blob, digest, size_bytes
        # hf's own tools list and prune what ends like this.
        self.path = partial_path(blob)
        self.hash = start_hash(digest, size_bytes)
        self.size = 0
        blob.parent.mkdir(parents=True, exist_ok=True)
        self.stream = self.path.open("ab", buffering=0)
        self._continue(on_bytes)
        self.resumed_bytes = self.size

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None:
        self.stream.close()

    def _continue(self, on_bytes: Callable[[int], None]) -> None:
        there = os.fstat(self.stream.fileno()).st_size
        if there > self.size_bytes:
            return self.restart()
        hash_into(self.hash, self.path, on_bytes)
        self.size = there
        return None

    def write(self, data: bytes) -> None:
        """Append; a raw write may take less than it is given when the disk fills up."""
        view = memoryview(data)
        while view:
            n = self.stream.write(view)
            self.hash.update(view[:n])
            self.size += n
            view = view[n:]

    def restart(self) -> None:
        """Forget everything that has arrived."""
        self.stream.truncate(0)
        self.hash = start_hash(self.digest, self.size_bytes)
        self.size = 0

    def is_right(self) -> bool:
        return self.size == self.size_bytes and self.hash.hexdigest() == self.digest

    def publish(self) -> None:
        """Give verified bytes their final name. On the disk first, so that a power cut cannot leave the
        name without the bytes."""
        os.fsync(self.stream.fileno())
        self.stream.close()
        self.path.replace(self.blob)


def partial_path(blob: Path) -> Path:
    return blob.with_name(blob.name + ".moetool.incomplete")
