"""Downloads into the Hub's cache: resumed, hashed as they arrive, named only when they are right.

A file goes through four names, and a crash at any point leaves one of the first two, or the whole truth:

    blobs/<sha256>.moetool.incomplete     what has arrived; the next attempt continues it
    blobs/<sha256>                        after its hash was found right and it is on the disk
    .moetool/<sha256>.json                the record of that
    snapshots/<commit>/<path>             a link, made only when all files of the model are there

huggingface_hub's own download does not hash, and since 2.0 throws away what has arrived when it is
interrupted; so its session, tokens, cache layout, locks and Xet are used here, and its transfer is not.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from moetool.errors import DiskFull, HubError, MoetoolError, NotFound, VerificationFailed
from moetool.hub.client import Hub, door, open_url
from moetool.hub.jobs import run_jobs
from moetool.hub.listing import RepoListing
from moetool.hub.locks import blob_lock
from moetool.hub.partial import PartialFile, partial_path
from moetool.hub.range_file import check_range, file_url
from moetool.hub.tally import Tally
from moetool.hub.trouble import FileChanged, Trouble
from moetool.hub.xet import find_xet, read_xet
from moetool.names import ModelFile
from moetool.store import (
    OnProgress,
    blob_path,
    digest_of,
    is_blob_right,
    is_verified,
    repo_dir,
    snapshot_path,
    write_atomically,
    write_record,
)

# One request asks for no more: CDNs refuse answers above 50 GB, not files.
REQUEST_BYTES = 8 << 30
# Left free for everybody else.
SPARE_BYTES = 64 << 20

ReadFreeBytes = Callable[[Path], int]


@dataclass(frozen=True)
class Download:
    """Where the files are now, in the order they were asked for; what came over the network for them;
    and sentences about what the user would not expect."""

    paths: tuple[Path, ...]
    fetched_bytes: int
    notices: tuple[str, ...]


def download(
    hub: Hub,
    listing: RepoListing,
    files: Sequence[ModelFile],
    on_progress: OnProgress | None = None,
) -> Download:
    """Bring the files of a listing into the cache, each byte verified. What is there already is not fetched.
    Whether there is room for them is for `check_disk` to say before.

    Raises VerificationFailed (FileChanged when a new listing may help), DiskFull, NotFound, GatedRepo,
    HubError; after each of them the next call continues, and no wrong byte has a final name.
    """
    for file in files:
        if not digest_of(file):
            raise HubError(f"The Hub states no hash of {file.path}, so it cannot be verified.")
    tally = Tally(sum(f.size_bytes for f in files), on_progress)
    with door(hub, listing.repo):
        try:
            run_jobs([partial(_fetch_file, hub, listing, f, tally) for f in files], hub.n_parallel)
        finally:
            tally.stop()
        paths = tuple(_link(hub, listing, f) for f in files)
        _check_there(files, paths)
        _write_ref(hub, listing)
    return Download(paths, tally.fetched_bytes, tuple(tally.notices))


# ---- one file --------------------------------------------------------------------------------------------


def _fetch_file(hub: Hub, listing: RepoListing, file: ModelFile, tally: Tally) -> None:
    """Make the file's blob be there and right."""
    tally.check()
    blob = blob_path(hub.cache_dir, listing.repo, digest_of(file))
    with door(hub, file.path), _locked(hub, listing.repo, file, tally):
        if _is_here(hub, listing, file, tally):
            return
        _drop_older_partial(hub, listing.repo, file, tally)
        url = file_url(hub, listing.repo, listing.commit, file.path)
        if not _fetch_and_publish(hub, url, blob, file, tally):
            tally.note(f"What had arrived of {file.path} was damaged; it was fetched again.")
            _fetch_and_publish(replace(hub, uses_xet=False), url, blob, file, tally)
        write_record(hub.cache_dir, listing.repo, listing.commit, file, blob)
        _note_path(hub, listing.repo, file).unlink(missing_ok=True)


def _is_here(hub: Hub, listing: RepoListing, file: ModelFile, tally: Tally) -> bool:
    """Whether the right bytes are on this disk. Bytes of other tools are hashed now, and removed if wrong."""
    digest = digest_of(file)
    for path in _places(hub.cache_dir, listing, file):
        if not path.is_file():
            continue
        if is_verified(hub.cache_dir, listing.repo, digest, path):
            tally.add(file.size_bytes, file.path)
            return True
        if is_blob_right(path, digest, lambda n: tally.add(n, file.path)):
            write_record(hub.cache_dir, listing.repo, listing.commit, file, path)
            return True
        tally.add(-path.stat().st_size, file.path)
        path.unlink()
        tally.note(f"The copy of {file.path} on this disk was damaged; it was removed.")
    return False


def _places(cache_dir: Path, listing: RepoListing, file: ModelFile) -> tuple[Path, ...]:
    """Where the bytes can be: the blob, or, where there are no links, the snapshot itself."""
    snapshot = snapshot_path(cache_dir, listing.repo, listing.commit, file.path)
    blob = blob_path(cache_dir, listing.repo, digest_of(file))
    return (blob,) if snapshot.is_symlink() else (blob, snapshot)


def _fetch_and_publish(hub: Hub, url: str, blob: Path, file: ModelFile, tally: Tally) -> bool:
    """Fetch what is missing. False when the whole is wrong and an earlier attempt or Xet can be to blame; all
    that arrived is thrown away then. VerificationFailed when all bytes came just now by plain HTTP."""
    with PartialFile(blob, digest_of(file), file.size_bytes, lambda n: tally.add(n, file.path)) as arriving:
        by_xet = _fill(hub, url, arriving, file, tally)
        if arriving.is_right():
            arriving.publish()
            return True
        arriving.restart()
    arriving.path.unlink(missing_ok=True)
    tally.add(-file.size_bytes, file.path)
    if arriving.resumed_bytes or by_xet:
        return False
    message = f"{file.path} did not arrive as {hub.place} states it: its SHA-256 is another."
    raise VerificationFailed(
        message, "Nothing of it was kept. Try again; a proxy or a mirror may be at fault."
    )


def _fill(hub: Hub, url: str, arriving: PartialFile, file: ModelFile, tally: Tally) -> bool:
    """Ask for the rest until all is there; give up after so many attempts that brought nothing. Returns
    whether some of it is from Xet."""
    had = arriving.size
    if hub.uses_xet and arriving.size < file.size_bytes:
        _fill_by_xet(hub, url, arriving, file, tally)
    by_xet = arriving.size > had
    failures = 0
    while arriving.size < file.size_bytes:
        before = arriving.size
        try:
            _read_on(hub, url, arriving, file, tally)
        except Trouble as trouble:
            failures = 1 if arriving.size > before else failures + 1
            wait_s = hub.retry.wait_s(trouble, failures)
            if wait_s is None:
                raise
            tally.wait(wait_s)
    return by_xet


def _fill_by_xet(hub: Hub, url: str, arriving: PartialFile, file: ModelFile, tally: Tally) -> None:
    """As much as Xet gives; what is missing then is left to plain HTTP."""
    with suppress(Trouble, NotFound):
        with open_url(hub, url, file.path, head=True) as response:
            _check_stated(response, file)
            xet = find_xet(hub, response)
        if xet is not None:
            for piece in read_xet(hub, xet, arriving.size, file.size_bytes):
                _take(piece, arriving, file, tally)


def _take(piece: bytes, arriving: PartialFile, file: ModelFile, tally: Tally) -> None:
    tally.check()
    if arriving.size + len(piece) > file.size_bytes:
        raise _changed(file, "more bytes than were listed")
    arriving.write(piece)
    tally.add(len(piece), file.path, fetched=True)


def _read_on(hub: Hub, url: str, arriving: PartialFile, file: ModelFile, tally: Tally) -> None:
    """One request for what is missing."""
    start = arriving.size
    end = min(file.size_bytes, start + REQUEST_BYTES)
    is_part = start > 0 or end < file.size_bytes
    with open_url(hub, url, file.path, f"bytes={start}-{end - 1}" if is_part else "") as response:
        _check_stated(response, file)
        if response.status_code == 206:
            check_range(response, start, file)
        elif start:
            # The server does not do parts: all of it comes again.
            tally.add(-start, file.path)
            arriving.restart()
        for piece in response.iter_bytes():
            _take(piece, arriving, file, tally)
    if arriving.size < end:
        raise Trouble(f"The connection to {hub.place} ended early in {file.path}.", "Try again.")


def _check_stated(response: Any, file: ModelFile) -> None:
    """That the Hub still states the hash and the size that it listed, before a byte is taken."""
    for answer in (*response.history, response):
        etag = answer.headers.get("x-linked-etag", "").removeprefix("W/").strip('"')
        if file.sha256 and len(etag) == 64 and etag != file.sha256:
            raise _changed(file, "another hash than was listed")
    length = response.headers.get("content-length", "")
    plain = response.status_code == 200 and "content-encoding" not in response.headers
    if plain and length.isdigit() and int(length) != file.size_bytes:
        raise _changed(file, f"{length} bytes, {file.size_bytes} were listed")


def _changed(file: ModelFile, what: str) -> FileChanged:
    return FileChanged(f"{file.path} now has {what}.", "It may have been replaced just now: pull again.")


# ---- leftovers -------------------------------------------------------------------------------------------


def _drop_older_partial(hub: Hub, repo: str, file: ModelFile, tally: Tally) -> None:
    """Remove what arrived of the file's former content, when it has changed since, and say so."""
    note = _note_path(hub, repo, file)
    digest = digest_of(file)
    former = note.read_text() if note.is_file() else digest
    old = partial_path(blob_path(hub.cache_dir, repo, former))
    if former != digest and former.isalnum() and old.is_file():
        # Unless somebody is at work on it: then it is not a leftover.
        with suppress(TimeoutError), blob_lock(hub.cache_dir, repo, former, timeout_s=0.05):
            old.unlink()
            tally.note(f"{file.path} was changed on the Hub since an earlier attempt; it starts anew.")
    if former != digest or not note.is_file():
        write_atomically(note, digest)


def _note_path(hub: Hub, repo: str, file: ModelFile) -> Path:
    """Where it stands what a file that has begun to arrive hashes to."""
    name = hashlib.sha1(file.path.encode(), usedforsecurity=False).hexdigest()
    return repo_dir(hub.cache_dir, repo) / ".moetool" / f"{name}.partial"


@contextmanager
def _locked(hub: Hub, repo: str, file: ModelFile, tally: Tally) -> Iterator[None]:
    """Wait for the blob's lock, in steps short enough to notice that it is time to stop."""
    with ExitStack() as stack:
        while True:
            with suppress(TimeoutError):
                stack.enter_context(blob_lock(hub.cache_dir, repo, digest_of(file), timeout_s=0.5))
                break
            tally.check()
        yield


# ---- all files -------------------------------------------------------------------------------------------


def check_disk(
    hub: Hub, listing: RepoListing, files: Sequence[ModelFile], read_free_bytes: ReadFreeBytes | None = None
) -> int:
    """Bytes that a download of the files would write; DiskFull when there is no room for them."""
    with door(hub, listing.repo):
        needed = sum(missing_bytes(hub.cache_dir, listing, f) for f in files)
        free = (read_free_bytes or _read_free_bytes)(hub.cache_dir)
    if needed and needed + SPARE_BYTES > free:
        message = f"{listing.repo} needs {_gb(needed)} more, the disk has {_gb(free)} free"
        message += "." if needed > free else f", and {SPARE_BYTES / 1e9:.2f} GB of that stay free."
        raise DiskFull(message, f"Free some space at {hub.cache_dir}, or set HF_HOME to a larger disk.")
    return needed


def missing_bytes(cache_dir: Path, listing: RepoListing, file: ModelFile) -> int:
    """Bytes of the file that are not on this disk yet, not even in part."""
    if any(p.is_file() for p in _places(cache_dir, listing, file)):
        return 0
    with suppress(OSError):
        here = partial_path(blob_path(cache_dir, listing.repo, digest_of(file))).stat().st_size
        return max(0, file.size_bytes - here)
    return file.size_bytes


def _read_free_bytes(folder: Path) -> int:
    """Free bytes of the disk that the folder is on, or will be on."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.2f} GB ({n_bytes:,} bytes)"


def _link(hub: Hub, listing: RepoListing, file: ModelFile) -> Path:
    """Give the verified blob its name in the snapshot."""
    target = snapshot_path(hub.cache_dir, listing.repo, listing.commit, file.path)
    blob = blob_path(hub.cache_dir, listing.repo, digest_of(file))
    root = repo_dir(hub.cache_dir, listing.repo)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.parent.resolve().is_relative_to(root.resolve()):
        raise MoetoolError(f"{file.path} would be linked outside of the cache.", f"Look into {root}.")
    if not blob.exists() or (target.exists() and target.resolve() == blob.resolve()):
        return target
    temporary = target.with_name(f".{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        temporary.symlink_to(os.path.relpath(blob, target.parent))
        temporary.replace(target)
    except OSError:
        # No links on this system: huggingface_hub moves the file there as well.
        temporary.unlink(missing_ok=True)
        blob.replace(target)
    return target


def _check_there(files: Sequence[ModelFile], paths: Sequence[Path]) -> None:
    """That nobody took a blob away before it had its name; a name that leads nowhere is removed."""
    for file, path in zip(files, paths, strict=True):
        if not path.exists():
            path.unlink(missing_ok=True)
            raise MoetoolError(f"{file.path} was removed while it was being pulled.", "Pull again.")


def _write_ref(hub: Hub, listing: RepoListing) -> None:
    """Note which commit the branch or tag was, as huggingface_hub does, for use without a network."""
    if listing.revision != listing.commit:
        write_atomically(repo_dir(hub.cache_dir, listing.repo) / "refs" / listing.revision, listing.commit)
