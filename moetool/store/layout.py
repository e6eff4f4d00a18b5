"""The Hub's cache folder: where things are in it, and the records of what was verified.

The folder is shared with every other tool that pulls from the Hub, and has its layout:

    models--org--repo/blobs/<sha256>                  the bytes, named by what they hash to
    models--org--repo/snapshots/<commit>/<path>       a link to them
    models--org--repo/refs/main                       the commit that "main" was, when last asked
    models--org--repo/.moetool/<sha256>.json          ours: these bytes were hashed, and were right
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from moetool.names import ModelFile

_CHUNK_BYTES = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")


@dataclass(frozen=True)
class VerifiedBlob:
    """A record that some bytes were hashed and found right; void when size or time of change differ."""

    repo: str
    commit: str
    path: str
    size_bytes: int
    digest: str
    mtime_ns: int
    verified_at: str
    moetool: int = 1


# ---- the layout ------------------------------------------------------------------------------------------


def read_cache_dir() -> Path:
    """The Hub's cache folder, by the environment variables that every Hub tool obeys."""
    # Read here and not from huggingface_hub: `run` must not pay for that import.
    env = os.environ
    cache = env.get("HF_HUB_CACHE", env.get("HUGGINGFACE_HUB_CACHE"))
    if cache is None:
        base = env.get("XDG_CACHE_HOME", str(Path("~/.cache").expanduser()))
        cache = str(Path(env.get("HF_HOME", str(Path(base, "huggingface"))), "hub"))
    return Path(os.path.expandvars(cache)).expanduser()


def repo_dir(cache_dir: Path, repo: str) -> Path:
    return cache_dir / ("models--" + repo.replace("/", "--"))


def blob_path(cache_dir: Path, repo: str, digest: str) -> Path:
    return repo_dir(cache_dir, repo) / "blobs" / digest


def snapshot_path(cache_dir: Path, repo: str, commit: str, path: str) -> Path:
    return repo_dir(cache_dir, repo) / "snapshots" / commit / path


def is_digest(text: str) -> bool:
    """Whether `text` can be what bytes hash to, and so the name of a blob."""
    return bool(_DIGEST.fullmatch(text))


def linked_digest(path: Path) -> str:
    """What the bytes behind a snapshot's link hash to, by the name of the blob that it leads to; "" when it
    does not say. Blobs may be links themselves: huggingface_hub shares content between repos."""
    target = path.readlink() if path.is_symlink() else Path()
    return target.name if target.parent.name == "blobs" and is_digest(target.name) else ""


def digest_of(file: ModelFile) -> str:
    """What the Hub says the bytes hash to, and what the cache names them by: SHA-256, or git's SHA-1."""
    return file.sha256 or file.git_oid


# ---- hashing and records ---------------------------------------------------------------------------------


def start_hash(digest: str, size_bytes: int) -> hashlib._Hash:
    """A running hash of the kind that `digest` is: SHA-256, or git's SHA-1 of a blob of that size."""
    if len(digest) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)


def hash_into(running: hashlib._Hash, path: Path, on_bytes: Callable[[int], None]) -> None:
    """Feed a whole file to a running hash."""
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as stream:
        while n := stream.readinto(buffer):
            running.update(buffer[:n])
            on_bytes(n)


def is_blob_right(path: Path, digest: str, on_bytes: Callable[[int], None]) -> bool:
    """Whether a file's bytes hash to `digest`; reads all of it."""
    running = start_hash(digest, path.stat().st_size)
    hash_into(running, path, on_bytes)
    return running.hexdigest() == digest


def write_record(cache_dir: Path, repo: str, commit: str, file: ModelFile, real_path: Path) -> None:
    """Remember that the bytes at `real_path` were hashed and are those of `file`."""
    stat = real_path.stat()
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    digest = digest_of(file)
    record = VerifiedBlob(repo, commit, file.path, stat.st_size, digest, stat.st_mtime_ns, now)
    folder = repo_dir(cache_dir, repo) / ".moetool"
    write_atomically(folder / f"{digest}.json", json.dumps(asdict(record), indent=1) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that readers see the old one or the new one, whole, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read_record(cache_dir: Path, repo: str, digest: str) -> VerifiedBlob | None:
    """The record of these bytes, or None when there is none that can be read."""
    path = repo_dir(cache_dir, repo) / ".moetool" / f"{digest}.json"
    try:
        return VerifiedBlob(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def is_verified(cache_dir: Path, repo: str, digest: str, real_path: Path) -> bool:
    """Whether the bytes there were verified once and have not been touched since."""
    record = read_record(cache_dir, repo, digest)
    if record is None or record.digest != digest:
        return False
    try:
        stat = real_path.stat()
    except OSError:
        return False
    return (record.size_bytes, record.mtime_ns) == (stat.st_size, stat.st_mtime_ns)
