"""Lock files: which bytes exactly a model is, so that another machine can pull the same ones.

    models--org--repo/.moetool/<model>@<commit>.lock.json

One is written beside every model that was pulled; `moetool pull --locked FILE` reads it. It holds what the
Hub stated and what the bytes were found to be, and nothing about the account or the machine.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from moetool.errors import NotFound, UsageError
from moetool.names import MAX_FILE_BYTES, ModelFile, is_repo_id, is_safe_path
from moetool.store import repo_dir, write_atomically

_VERSION = 1
_MAX_BYTES = 1 << 20
_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Lock:
    """Files of a repo at one commit, each with its size and hash; `name` is what to type to run them."""

    name: str
    repo: str
    commit: str
    quant: str
    files: tuple[ModelFile, ...]


def write_lock(cache_dir: Path, lock: Lock, locked_at: str) -> Path:
    """Write the lock file beside the model; returns where. `locked_at` is a time for people to read."""
    stem = PurePosixPath(lock.files[0].path).stem[:100]
    path = repo_dir(cache_dir, lock.repo) / ".moetool" / f"{stem}@{lock.commit[:12]}.lock.json"
    document = {"moetool_lock": _VERSION, "locked_at": locked_at, **asdict(lock)}
    write_atomically(path, json.dumps(document, indent=1) + "\n")
    return path


def read_lock(path: Path) -> Lock:
    """The lock in a file from anywhere. Raises NotFound and UsageError."""
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise NotFound(f"The lock file {path} cannot be read: {error.strerror}.") from error
    try:
        return parse_lock(json.loads(text[:_MAX_BYTES]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        hint = "Lock files are written by `moetool pull`; its last lines say where."
        raise UsageError(f"{path} is not a lock file of moetool.", hint) from None


def parse_lock(document: dict[str, Any]) -> Lock:
    """The lock that a JSON document holds, all of it distrusted. Raises ValueError, TypeError or KeyError."""
    lock = Lock(
        str(document["name"]),
        document["repo"],
        document["commit"],
        str(document["quant"]),
        tuple(ModelFile(**file) for file in document["files"]),
    )
    sound = is_repo_id(lock.repo) and _SHA1.fullmatch(lock.commit) and lock.files
    if document["moetool_lock"] != _VERSION or not sound or not all(map(_is_sound, lock.files)):
        raise ValueError("not a lock")
    paths = [file.path for file in lock.files]
    # The name is shown as something to type.
    names = {f"{lock.repo}:{lock.quant}", f"{lock.repo}/{paths[0]}"}
    if len(set(paths)) < len(paths) or lock.name not in names or not is_safe_path(lock.quant):
        raise ValueError("not a lock")
    return lock


def _is_sound(file: ModelFile) -> bool:
    has_hash = _SHA256.fullmatch(file.sha256) if file.sha256 else _SHA1.fullmatch(file.git_oid)
    has_size = type(file.size_bytes) is int and 0 <= file.size_bytes < MAX_FILE_BYTES
    return is_safe_path(file.path) and has_size and bool(has_hash)
