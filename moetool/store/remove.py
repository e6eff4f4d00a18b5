"""Removing a model: its names in the cache, and those bytes that nothing else there uses.

Other tools share the folder, so nothing is taken for garbage that is merely unknown here. Bytes go before
their names do: a crash in between leaves a name that leads nowhere, and no bytes that nobody finds.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from moetool.names import parse_shard
from moetool.store.layout import is_digest, linked_digest, repo_dir
from moetool.store.models import LocalModel, list_repo


@dataclass(frozen=True)
class Removal:
    """What would go. `names` are paths in snapshots, `contents` the files behind them that nothing else uses:
    `freed_bytes` in all. `kept_bytes` are those that another revision or repo still uses."""

    name: str
    repo: str
    names: tuple[Path, ...]
    contents: tuple[Path, ...]
    freed_bytes: int
    kept_bytes: int = 0

    @property
    def digests(self) -> frozenset[str]:
        """What the blobs that would go hash to, arrived in part or whole."""
        names = (path.name.partition(".")[0] for path in self.contents)
        return frozenset(name for name in names if is_digest(name))


def plan_removal(model: LocalModel, cache_dir: Path) -> Removal:
    """What goes with a model of the cache: its files at its revision, and what lies beside them if no other
    model is there to use it."""
    root = repo_dir(cache_dir, model.repo)
    others = [m for m in list_repo(cache_dir, model.repo, model.revision) if m.paths != model.paths]
    names = model.paths if others else model.paths + model.sidecars
    blobs = {_blob_of(root, name): name.stat().st_size for name in names}
    used = {_blob_of(root, name) for name in _files_in(root / "snapshots") if name not in names}
    gone = [blob for blob in blobs if blob not in used]
    contents, freed_bytes = list(gone), 0
    for blob in gone:
        shared = _shared_content(blob, cache_dir)
        if shared and _is_shared_by_others(shared, gone, cache_dir):
            continue
        contents += [shared] if shared else []
        freed_bytes += blobs[blob]
    return Removal(
        model.name, model.repo, names, tuple(contents), freed_bytes, sum(blobs.values()) - freed_bytes
    )


def plan_leftovers(repo: str, cache_dir: Path) -> Removal | None:
    """What unfinished pulls of a repo have left: parts of files, and whole files of ours that have no name
    yet, since other files of the model are missing. None if that is nothing."""
    root = repo_dir(cache_dir, repo)
    used = {_blob_of(root, name) for name in _files_in(root / "snapshots")}
    ours = {root / "blobs" / record.stem for record in (root / ".moetool").glob("*.json")}
    nameless = {blob for blob in ours - used if is_digest(blob.name) and blob.is_file()}
    left = tuple(sorted({*root.glob("blobs/*.incomplete"), *nameless}))
    return Removal(repo, repo, (), left, sum(path.stat().st_size for path in left)) if left else None


def remove(removal: Removal, cache_dir: Path) -> None:
    """Do it, and tidy up: records and locks of what is gone, empty folders, a repo with nothing left."""
    root = repo_dir(cache_dir, removal.repo)
    for content in removal.contents:
        content.unlink(missing_ok=True)
        # huggingface_hub's list of who shares it.
        content.with_name(f"{content.name}.refs").unlink(missing_ok=True)
        (root / ".moetool" / f"{content.name}.json").unlink(missing_ok=True)
    for name in removal.names:
        name.unlink(missing_ok=True)
        for lock in _locks_of(root, name):
            lock.unlink(missing_ok=True)
        _remove_empty(name.parent, root / "snapshots")
    _remove_dead_refs(root)
    if not any(_files_in(root / "snapshots")) and not any(_files_in(root / "blobs")):
        shutil.rmtree(root, ignore_errors=True)


# ---- what uses what --------------------------------------------------------------------------------------


def _blob_of(root: Path, name: Path) -> Path:
    """The blob behind a name in a snapshot; the name itself where it is no link to one."""
    digest = linked_digest(name)
    return root / "blobs" / digest if digest else name


def _shared_content(blob: Path, cache_dir: Path) -> Path | None:
    """The file in huggingface_hub's store of shared content that the blob is a link to, if it is one."""
    if not blob.is_symlink():
        return None
    content = blob.resolve()
    return content if content.parent.parent == (cache_dir / "blobs").resolve() else None


def _is_shared_by_others(content: Path, gone: Iterable[Path], cache_dir: Path) -> bool:
    links = (path for path in cache_dir.glob("*--*/blobs/*") if path.is_symlink() and path not in gone)
    return any(path.resolve() == content for path in links)


def _files_in(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is not a folder, links that lead nowhere too."""
    return (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


# ---- tidying up ------------------------------------------------------------------------------------------


def _locks_of(root: Path, name: Path) -> Iterator[Path]:
    commit = name.relative_to(root / "snapshots").parts[0]
    stems = {name.stem[:100], parse_shard(name.name)[0][:100]}
    return (path for path in (root / ".moetool").glob(f"*@{commit[:12]}.lock.json") if _stem(path) in stems)


def _stem(lock: Path) -> str:
    return lock.name.rpartition("@")[0]


def _remove_empty(folder: Path, root: Path) -> None:
    while folder != root and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _remove_dead_refs(root: Path) -> None:
    """Branches and tags whose snapshot is gone."""
    for ref in list(_files_in(root / "refs")):
        commit = ref.read_text(encoding="utf-8", errors="replace").strip()
        if not (root / "snapshots" / commit).is_dir():
            ref.unlink()
