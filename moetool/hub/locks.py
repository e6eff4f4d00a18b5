"""One process at a time for one blob of the cache: by the lock files that huggingface_hub takes too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from moetool.errors import MoetoolError
from moetool.store import repo_dir

# Long enough to outlast somebody who only looks, too short to be a wait.
_GLANCE_S = 0.2


def blob_lock(cache_dir: Path, repo: str, digest: str, timeout_s: float) -> AbstractContextManager[object]:
    """The lock of one blob, to be entered; TimeoutError when another process has it for so long."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined, unused-ignore]

    path = cache_dir / ".locks" / repo_dir(cache_dir, repo).name / f"{digest}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock: AbstractContextManager[object] = WeakFileLock(path, timeout=timeout_s)
    return lock


@contextmanager
def hold_blobs(cache_dir: Path, repo: str, digests: Iterable[str]) -> Iterator[None]:
    """Keep pulls, of other tools too, away from these blobs; MoetoolError when one is at work on them."""
    with ExitStack() as stack:
        for digest in sorted(digests):
            try:
                stack.enter_context(blob_lock(cache_dir, repo, digest, _GLANCE_S))
            except TimeoutError:
                message = f"{repo} is being pulled right now; nothing was removed."
                raise MoetoolError(message, "Stop that pull, or let it end, and try again.") from None
        yield
