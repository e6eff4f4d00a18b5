"""The models in the Hub's cache folder, and plain files: listing, finding by name, verifying.

Nothing here knows the network, or what is inside a file. Listing never hashes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from moetool import assets
from moetool.errors import NotFound, VerificationFailed
from moetool.names import (
    SUFFIX,
    ModelFile,
    ModelName,
    QuantFiles,
    find_quants,
    group_files,
    is_repo_id,
    is_revision,
    list_labels,
    parse_shard,
    show_name,
)
from moetool.store.layout import is_blob_right, is_verified, linked_digest, repo_dir, write_record

OnProgress = Callable[[int, int, str], None]  # bytes done, bytes in all, the file at work

_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_DEPTH = 4  # folders inside a snapshot that are looked into


@dataclass(frozen=True)
class LocalModel:
    """A model that can be loaded: all of its shards are on this disk, in order.

    `name` is what to type for it. `repo`, `quant` and `revision` (a commit) are "" for plain files.
    `verified` says that every byte was once hashed and was what the Hub had stated, and that no file
    changed since; `sidecars` are the paths of mmproj, mtp and similar files beside it.
    """

    name: str
    paths: tuple[Path, ...]
    size_bytes: int
    repo: str = ""
    quant: str = ""
    revision: str = ""
    verified: bool = False
    sidecars: tuple[Path, ...] = ()


# ---- listing ---------------------------------------------------------------------------------------------


def list_local(cache_dir: Path) -> tuple[LocalModel, ...]:
    """Every whole model in the cache, wherever it came from; the newest revision of each. Sorted by name."""
    found: list[LocalModel] = []
    for folder in _subfolders(cache_dir):
        repo = folder.name.removeprefix("models--").replace("--", "/", 1)
        if folder.name.startswith("models--") and is_repo_id(repo):
            found += list_repo(cache_dir, repo)
    return tuple(sorted(found, key=lambda m: (m.name.lower(), m.revision)))


def list_repo(cache_dir: Path, repo: str, revision: str = "") -> list[LocalModel]:
    """The whole models of one repo. Of several revisions the one that "main" was, else the newest, wins."""
    models: dict[tuple[str, tuple[Path, ...]], LocalModel] = {}
    for commit in _commits(repo_dir(cache_dir, repo), revision):
        for model in _list_snapshot(cache_dir, repo, commit):
            inside = repo_dir(cache_dir, repo) / "snapshots" / commit
            key = (model.quant, tuple(p.relative_to(inside) for p in model.paths))
            models.setdefault(key, model)
    return list(models.values())


def _commits(folder: Path, revision: str) -> list[str]:
    """Snapshots of a repo, the preferred one first; only that of `revision` when one is asked for."""
    snapshots = {p.name: p.stat().st_mtime for p in _subfolders(folder / "snapshots")}
    asked = revision or "main"
    main = asked if _COMMIT.fullmatch(asked) else _read_text(folder / "refs" / asked)
    if revision:
        return [main] if main in snapshots and is_revision(revision) else []
    return sorted(snapshots, key=lambda c: (c != main, -snapshots[c]))


def _list_snapshot(cache_dir: Path, repo: str, commit: str) -> Iterator[LocalModel]:
    root = repo_dir(cache_dir, repo) / "snapshots" / commit
    quants, sidecars = group_files(_files_under(root))
    beside = tuple(root / s.file.path for s in sidecars)
    labels = [q.label for q in quants]
    for quant in quants:
        if not quant.is_complete:
            continue
        tail = f":{quant.label}" if labels.count(quant.label) == 1 else f"/{quant.files[0].path}"
        paths = tuple(root / f.path for f in quant.files)
        verified = all(_is_path_verified(cache_dir, repo, p) for p in paths)
        yield LocalModel(repo + tail, paths, quant.size_bytes, repo, quant.label, commit, verified, beside)


def _is_path_verified(cache_dir: Path, repo: str, path: Path) -> bool:
    digest = linked_digest(path)
    if digest:
        return is_verified(cache_dir, repo, digest, path)
    # Without links (Windows) the file itself is in the snapshot, and its name does not tell.
    records = (repo_dir(cache_dir, repo) / ".moetool").glob("*.json")
    return any(is_verified(cache_dir, repo, r.stem, path) for r in records)


def _files_under(root: Path) -> Iterator[ModelFile]:
    """All files of a snapshot that are there (no dangling links), by their path in the repo."""
    folders = [(root, 0)]
    while folders:
        folder, depth = folders.pop()
        for path in _entries(folder):
            if path.is_dir() and not path.is_symlink() and depth < _MAX_DEPTH:
                folders.append((path, depth + 1))
            elif path.is_file():
                yield ModelFile(path.relative_to(root).as_posix(), path.stat().st_size)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _subfolders(folder: Path) -> list[Path]:
    return [p for p in _entries(folder) if p.is_dir()]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


# ---- finding ---------------------------------------------------------------------------------------------


def find_local(name: ModelName, cache_dir: Path, revision: str = "") -> LocalModel | None:
    """The model on this disk that `name` means, or None when it is not here.

    Raises NotFound when the name fits several, or when shards of a plain file are missing.
    """
    if name.kind == "demo":
        return _find_demo()
    plain = Path(name.text).expanduser()
    if _is_file(plain):
        return _find_plain(plain)
    if name.kind == "path":
        return None
    candidates = _find_repo(name, cache_dir, revision or name.revision)
    return _pick(name, candidates) if candidates else None


def require_local(name: ModelName, cache_dir: Path, revision: str = "") -> LocalModel:
    """Like `find_local`, but a model that is not here is NotFound, with what to type next."""
    model = find_local(name, cache_dir, revision)
    if model is None:
        problem = _no_file(Path(name.text).expanduser()) if name.kind == "path" else "is not on this disk."
        raise NotFound(f"{show_name(name.text)} {problem}", _next_step(name, cache_dir))
    return model


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # too long for a name, or in a folder that may not be read
        return False


def _no_file(path: Path) -> str:
    """Why a path that is no plain file cannot be a model. Pipes and devices are not opened: they may wait."""
    try:
        if path.is_dir():
            inside = sorted(p.name for p in _entries(path) if p.suffix == SUFFIX and p.is_file())
            return f"is a folder, with {', '.join(map(show_name, inside[:4])) or f'no {SUFFIX} files'} in it."
        return "is not a plain file." if path.exists() else "is not a file on this disk."
    except OSError as error:
        return f"cannot be read: {error.strerror}."


def _next_step(name: ModelName, cache_dir: Path) -> str:
    if name.kind == "repo":
        return f"moetool pull {show_name(name.text)}"
    pulled = sorted({m.name for m in list_local(cache_dir)})
    near = [show_name(n) for n in pulled][:8]
    return f"Pulled so far: {', '.join(near)}." if near else "moetool pull org/repo, or: moetool run demo"


def _find_demo() -> LocalModel | None:
    path = assets.demo_model_path()
    if not path.is_file():
        return None
    return LocalModel("demo", (path,), path.stat().st_size, verified=True)


def _find_plain(path: Path) -> LocalModel:
    """A file that the user points at, with the other shards that lie beside it."""
    stem, _, n_shards = parse_shard(path.name)
    if n_shards == 1:
        paths = [path]
    else:
        paths = [path.with_name(f"{stem}-{i:05d}-of-{n_shards:05d}{SUFFIX}") for i in range(1, n_shards + 1)]
    missing = [p.name for p in paths if not p.is_file()]
    if missing:
        message = f"{show_name(path.name)} is one of {n_shards} shards, and {len(missing)} are not beside it."
        raise NotFound(message, f"Missing: {', '.join(show_name(m) for m in missing[:4])}.")
    return LocalModel(str(path), tuple(paths), sum(p.stat().st_size for p in paths))


def _find_repo(name: ModelName, cache_dir: Path, revision: str) -> list[LocalModel]:
    """All models of the one repo that the name means."""
    if name.kind == "repo":
        exact = list_repo(cache_dir, name.repo, revision)
        if exact:
            return exact
    models = list_local(cache_dir)
    repos = sorted({m.repo for m in models})
    meant = match_repo(repos, name.repo)
    if len(meant) > 1:
        listed = ", ".join(meant[:8])
        raise NotFound(f"{show_name(name.repo)} could be {listed}.", "Name one of them in full.")
    return list_repo(cache_dir, meant[0], revision) if meant else []


def match_repo(repos: Iterable[str], text: str) -> list[str]:
    """The repos that `text` can mean, case apart: in full, its tail, the tail's beginning, a part of it.
    The first step that finds any decides."""
    wanted, known = text.lower(), list(repos)
    tails = {r: r.lower().partition("/")[2].removesuffix("-gguf") for r in known}
    if "/" in wanted:
        return [r for r in known if r.lower() == wanted]
    wanted = wanted.removesuffix("-gguf")
    steps: tuple[Callable[[str], bool], ...] = (
        lambda tail: tail == wanted,
        lambda tail: tail.startswith((f"{wanted}-", f"{wanted}.", f"{wanted}_")),
        lambda tail: tail.startswith(wanted),
        lambda tail: wanted in tail,
    )
    for fits in steps:
        found = [r for r in known if fits(tails[r])]
        if found:
            return found
    return []


def _pick(name: ModelName, models: list[LocalModel]) -> LocalModel | None:
    """The one of a repo's models that was asked for; None when it is not here."""
    if name.file:
        models = [m for m in models if _has_file(m, name.file)]
    elif name.quant:
        by_stem = {_quant_files(m).stem: m for m in models}
        models = [by_stem[q.stem] for q in find_quants(tuple(map(_quant_files, models)), name.quant)]
    if len(models) > 1:
        listed = list_labels(tuple(map(_quant_files, models)))
        message = f"{show_name(name.text)} could be any of several on this disk: {listed}."
        raise NotFound(message, f"For example: {models[0].name}.")
    return models[0] if models else None


def _has_file(model: LocalModel, file: str) -> bool:
    return any(p.as_posix().endswith(f"/snapshots/{model.revision}/{file}") for p in model.paths)


def _quant_files(model: LocalModel) -> QuantFiles:
    """The model as `names` matches it: labels and paths in the repo."""
    marker = f"/snapshots/{model.revision}/"
    paths = [p.as_posix().rpartition(marker)[2] for p in model.paths]
    files = tuple(ModelFile(p, 0) for p in paths)
    return QuantFiles(model.quant, parse_shard(paths[0])[0], files, len(files))


# ---- verifying what is already here ----------------------------------------------------------------------


def verify_local(model: LocalModel, cache_dir: Path, on_progress: OnProgress | None = None) -> LocalModel:
    """Hash every shard whose right hash is known, and remember the result: works without a network.

    The cache names bytes by what they hash to, so anything that another tool pulled can be checked.
    A plain file states no hash: the model comes back with `verified` as it was.
    Raises VerificationFailed, naming the file, when bytes are wrong.
    """
    digests = [linked_digest(p) for p in model.paths]
    if not model.repo or not all(digests):
        return model
    done = 0
    for path, digest in zip(model.paths, digests, strict=True):

        def on_bytes(n: int, file: str = path.name) -> None:
            nonlocal done
            done += n
            if on_progress:
                on_progress(done, model.size_bytes, file)

        if not is_blob_right(path, digest, on_bytes):
            message = f"{show_name(path.name)} of {model.repo} is damaged: its bytes have changed."
            raise VerificationFailed(message, f"moetool pull {model.name} replaces it.")
        in_repo = path.as_posix().rpartition(f"/snapshots/{model.revision}/")[2]
        stated = {"sha256": digest} if len(digest) == 64 else {"git_oid": digest}
        file = ModelFile(in_repo, path.stat().st_size, **stated)
        write_record(cache_dir, model.repo, model.revision, file, path)
    return replace(model, verified=True)
