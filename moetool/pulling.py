"""From a name to verified files on this disk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from moetool.errors import HubError, NotFound, UsageError, VerificationFailed
from moetool.lockfile import Lock, read_lock, write_lock

if TYPE_CHECKING:
    from moetool.hub import Choose, Hub, ReadFreeBytes, RepoListing
    from moetool.names import ModelFile, ModelName
    from moetool.store import LocalModel, OnProgress

# Long enough for a far Hub, too short to be a wait when the model is here and the network is not.
PATIENCE_WHEN_LOCAL_S = 3.0


@dataclass(frozen=True)
class PullResult:
    """What `pull` did, or with `dry_run` would do.

    `name` is what to type to run it. `files` are paths in the repo, `paths` where they are on this disk
    (empty for a dry run), the model's first and then those beside it. `size_bytes` is of all files,
    `missing_bytes` of what was not on this disk before, `fetched_bytes` of what came over the network now.
    `lock_path` is the lock file that says which bytes these are.
    """

    name: str
    repo: str
    quant: str
    revision: str
    files: tuple[str, ...]
    size_bytes: int
    missing_bytes: int = 0
    fetched_bytes: int = 0
    paths: tuple[Path, ...] = ()
    lock_path: Path | None = None
    dry_run: bool = False
    notices: tuple[str, ...] = ()


def pull_model(  # noqa: PLR0913 (keywords: each is a flag of the command or a door for tests)
    name: str,
    *,
    revision: str = "",
    include: Sequence[str] = (),
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
    choose: Choose | None = None,
    hub: Hub | None = None,
    read_free_bytes: ReadFreeBytes | None = None,
) -> PullResult:
    """Bring a model onto this disk, every byte verified, with a sidecar of each kind in `include`.

    `choose` picks a quant from the listing when the name has none. Without a Hub within reach, a model that
    is here already is returned with a notice (and verified, if it never was).
    Raises UsageError, NotFound, GatedRepo, HubError, DiskFull, VerificationFailed.
    """
    from moetool.hub import FileChanged, Trouble, list_files, read_hub
    from moetool.names import parse_model_name

    hub = hub or read_hub()
    wanted = in_full(parse_model_name(name), hub.cache_dir)
    revision = revision or wanted.revision or "main"
    local, unclear = _find_here(wanted, hub.cache_dir, revision)
    is_here = local or unclear
    patient = replace(hub, timeout_s=min(hub.timeout_s, PATIENCE_WHEN_LOCAL_S)) if is_here else hub
    try:
        listing = list_files(patient, wanted.repo, revision)
    except HubError as error:
        if not is_here or not (hub.offline or isinstance(error, Trouble)):
            raise
        if local is None:
            raise unclear or error from None
        return _without_hub(local, hub.cache_dir, error, include, on_progress)
    files, result = _plan(listing, wanted, include, choose)
    if dry_run:
        return _foreseen(hub, listing, files, result, read_free_bytes)
    try:
        return _bring(hub, listing, files, result, on_progress, read_free_bytes)
    except FileChanged as changed:
        # The author replaced it while it was being pulled: go for what the Hub has now, once.
        again = list_files(hub, wanted.repo, revision)
        if again.commit == listing.commit:
            raise
        files, result = _plan(again, wanted, include, choose)
        done = _bring(hub, again, files, result, on_progress, read_free_bytes)
        return replace(done, notices=(f"{changed.message} The new version was pulled.", *done.notices))


def pull_locked(
    file: Path,
    *,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
    hub: Hub | None = None,
    read_free_bytes: ReadFreeBytes | None = None,
) -> PullResult:
    """Bring exactly the bytes of a lock file onto this disk, whatever the repo holds today.

    Asks the Hub only for what is not here. Raises what `pull_model` raises, and VerificationFailed when the
    Hub has other bytes under that commit.
    """
    from moetool.hub import FileChanged, RepoListing, read_hub

    hub = hub or read_hub()
    lock = read_lock(file)
    listing = RepoListing(lock.repo, lock.commit, lock.commit, (), ())
    result = _expected(lock)
    if dry_run:
        return _foreseen(hub, listing, lock.files, result, read_free_bytes)
    try:
        return _bring(hub, listing, lock.files, result, on_progress, read_free_bytes)
    except FileChanged as changed:
        message = f"The Hub does not have the bytes of the lock file: {changed.message}"
        raise VerificationFailed(message, "It was edited, or is of another Hub. Nothing was kept.") from None
    except NotFound as error:
        hint = "The lock file names that commit; the author may have taken it back."
        raise NotFound(error.message, hint) from None


def _foreseen(
    hub: Hub,
    listing: RepoListing,
    files: tuple[ModelFile, ...],
    result: PullResult,
    read_free_bytes: ReadFreeBytes | None,
) -> PullResult:
    """The result of a dry run; DiskFull as for a real one."""
    from moetool.hub import check_disk

    needed = check_disk(hub, listing, files, read_free_bytes)
    return replace(result, missing_bytes=needed, dry_run=True)


def _bring(
    hub: Hub,
    listing: RepoListing,
    files: tuple[ModelFile, ...],
    result: PullResult,
    on_progress: OnProgress | None,
    read_free_bytes: ReadFreeBytes | None,
) -> PullResult:
    """Download, and write the lock file."""
    from moetool.hub import check_disk, download

    needed = check_disk(hub, listing, files, read_free_bytes)
    done = download(hub, listing, files, on_progress)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    lock = Lock(result.name, result.repo, result.revision, result.quant, files)
    return replace(
        result,
        paths=done.paths,
        missing_bytes=needed,
        fetched_bytes=done.fetched_bytes,
        lock_path=write_lock(hub.cache_dir, lock, now),
        notices=done.notices,
    )


def in_full(name: ModelName, cache_dir: Path) -> ModelName:
    """The name with its repo: a short name is one of something pulled before.

    Raises UsageError for what no Hub has, NotFound when nothing or several things pulled fit.
    """
    from moetool.names import show_name
    from moetool.store import list_local, match_repo

    if name.kind == "demo":
        raise UsageError("The demo model ships with moetool: there is nothing to pull.", "moetool run demo")
    if name.kind == "path":
        raise UsageError(f"{show_name(name.text)} is a path, not a name on the Hub.", "moetool pull org/repo")
    if name.kind == "repo":
        return name
    repos = match_repo(sorted({m.repo for m in list_local(cache_dir)}), name.repo)
    if len(repos) != 1:
        problem = "could be several of the pulled models" if repos else "is none of the pulled models"
        full = repos[0] if repos else f"org/{show_name(name.repo)}"
        raise NotFound(f"{show_name(name.repo)} {problem}.", f"Name the repo in full: moetool pull {full}")
    return replace(name, kind="repo", repo=repos[0])


def _plan(
    listing: RepoListing, wanted: ModelName, include: Sequence[str], choose: Choose | None
) -> tuple[tuple[ModelFile, ...], PullResult]:
    """The files to bring, and the result as far as it is known before."""
    from moetool.hub import select_quant, select_sidecars

    quant = select_quant(listing, wanted, choose)
    files = quant.files + select_sidecars(listing, include)
    is_only = sum(q.label == quant.label for q in listing.quants) == 1
    name = f"{listing.repo}:{quant.label}" if is_only else f"{listing.repo}/{quant.files[0].path}"
    return files, _expected(Lock(name, listing.repo, listing.commit, quant.label, files))


def _expected(lock: Lock) -> PullResult:
    """The result as far as it is known before anything is downloaded."""
    paths = tuple(f.path for f in lock.files)
    size_bytes = sum(f.size_bytes for f in lock.files)
    return PullResult(lock.name, lock.repo, lock.quant, lock.commit, paths, size_bytes)


def _find_here(
    wanted: ModelName, cache_dir: Path, revision: str
) -> tuple[LocalModel | None, NotFound | None]:
    """The model if it is on this disk; or, when several fit, the error that says so. It only counts without
    a Hub, whose listing decides otherwise."""
    from moetool.store import find_local

    try:
        return find_local(wanted, cache_dir, revision), None
    except NotFound as several:
        return None, several


def _without_hub(
    local: LocalModel,
    cache_dir: Path,
    error: HubError,
    include: Sequence[str],
    on_progress: OnProgress | None,
) -> PullResult:
    from moetool.names import parse_sidecar
    from moetool.store import verify_local

    if not local.verified:
        local = verify_local(local, cache_dir, on_progress)
    here = {parse_sidecar(path.name) for path in local.sidecars}
    missing = " and ".join(kind for kind in dict.fromkeys(include) if kind not in here)
    return PullResult(
        name=local.name,
        repo=local.repo,
        quant=local.quant,
        revision=local.revision,
        files=tuple(p.name for p in local.paths),
        size_bytes=local.size_bytes,
        paths=local.paths,
        notices=(
            f"{error.message} What is on this disk was taken; it may not be the newest.",
            *([f"No {missing} is beside it, and none could be looked for."] if missing else []),
        ),
    )
