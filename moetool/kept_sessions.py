"""Sessions on this disk: what a model remembers of its text, so that a later run need not read it again.

    sessions/NAME.state   the state as llama.cpp writes it; then what it is of, as JSON; then a seal
    sessions/NAME.json    a chat's conversation, as /save writes it
    sessions/key          a random secret of this folder, with which seals are made

llama.cpp's reader trusts its input, so only bytes get there that were sealed here and have not changed since:
the JSON holds their SHA-256, and the seal is an HMAC-SHA256 of the JSON. Files are their owner's alone, and
appear under their names whole or not at all. All of it may be deleted.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moetool.errors import DiskFull, MoetoolError, SessionError, UsageError
from moetool.home import read_home

VERSION = 1
_MAGIC = b"moetool1"
# Bytes of JSON, which key it was sealed with, the seal, magic.
_FOOTER = struct.Struct("<Q8s32s8s")
_MAX_JSON_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CHUNK_BYTES = 1 << 20
_KEY_BYTES = 32
# What is left free on a disk besides the state.
_SPARE_BYTES = 16 << 20

OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class KeptState:
    """A state whose bytes are those that were sealed. `payload` can be read while it is open; `about` is what
    `keep_state` was told of it."""

    payload: Path
    payload_bytes: int
    about: Mapping[str, Any]


@dataclass(frozen=True)
class SessionFiles:
    """Where a session is kept."""

    name: str
    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / f"{self.name}.state"

    @property
    def conversation(self) -> Path:
        return self.folder / f"{self.name}.json"


def find_session(name: str) -> SessionFiles:
    """The files of a session, there or not. UsageError for a name that no file should have."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a session",
            "up to 64 letters, digits, dots, dashes and underscores, a letter or digit first",
        )
    return SessionFiles(name, read_home() / "sessions")


# -- reading -------------------------------------------------------------------------------------------------


@contextmanager
def open_state(files: SessionFiles, model: str, on_bytes: OnBytes) -> Iterator[KeptState | None]:
    """The state that was kept of `model` (its digest), checked byte by byte; None when there is none.

    SessionError with the reason for a file that is damaged, was not written by this user's moetool, or is of
    another model. `on_bytes` is called as bytes are checked.
    """
    try:
        file = os.open(files.state, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise SessionError(f"Cannot read {files.state}: {error.strerror}") from error
    try:
        about = _checked(file, files, model, on_bytes)
        # By its descriptor: whatever comes to have its name meanwhile was not checked.
        yield KeptState(Path(f"/dev/fd/{file}"), about["payload_bytes"], about)
    finally:
        os.close(file)


def _checked(file: int, files: SessionFiles, model: str, on_bytes: OnBytes) -> dict[str, Any]:
    """What a state file says of itself, when all of it is sound and of `model`."""
    about, n_payload = _read_about(file, files)
    if about.get("moetool_session") != VERSION:
        raise _refused(files, "was kept by another version of moetool")
    if about.get("model") != model:
        raise SessionError(
            f"Session {files.name} belongs to another model ({about.get('model_name')})",
            f"take another name, or delete {files.state}",
        )
    if about.get("payload_bytes") != n_payload or _digest(file, n_payload, on_bytes) != about.get("sha256"):
        raise _refused(files, "is damaged: its bytes have changed since it was kept")
    return about


def _read_about(file: int, files: SessionFiles) -> tuple[dict[str, Any], int]:
    """The sealed JSON, and how many bytes stand before it."""
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_size < _FOOTER.size:
        raise _refused(files, "is no session's state")
    end = status.st_size - _FOOTER.size
    n_json, key_id, seal, magic = _FOOTER.unpack(os.pread(file, _FOOTER.size, end))
    if magic != _MAGIC:
        raise _refused(files, "is no session's state, or is cut off")
    if n_json > min(end, _MAX_JSON_BYTES):
        raise _refused(files, "is damaged")
    key = _read_key(files.folder)
    if not key or key_id != _key_id(key):
        raise _refused(files, "was not written here: it comes from another user, machine or folder")
    text = os.pread(file, n_json, end - n_json)
    if not hmac.compare_digest(seal, _seal(key, text)):
        raise _refused(files, "is damaged")
    return json.loads(text), end - n_json


def _refused(files: SessionFiles, why: str) -> SessionError:
    return SessionError(
        f"{files.state} {why}", "delete it, and the session is read anew; or take another name"
    )


def _digest(file: int, n_bytes: int, on_bytes: OnBytes) -> str:
    running, at = hashlib.sha256(), 0
    while at < n_bytes and (chunk := os.pread(file, min(_CHUNK_BYTES, n_bytes - at), at)):
        running.update(chunk)
        at += len(chunk)
        on_bytes(len(chunk))
    return running.hexdigest() if at == n_bytes else ""


@dataclass(frozen=True)
class KeptSession:
    """What is on this disk of a session. `model_name` and `n_tokens` are None without a state that can be
    read; `is_chat`: with a conversation."""

    name: str
    model_name: str | None
    n_tokens: int | None
    is_chat: bool
    n_bytes: int


def list_sessions() -> tuple[KeptSession, ...]:
    """The sessions on this disk, by name."""
    folder = read_home() / "sessions"
    names = {path.stem for path in folder.glob("*.state")} | {path.stem for path in folder.glob("*.json")}
    return tuple(_listed(SessionFiles(name, folder)) for name in sorted(names) if _NAME.fullmatch(name))


def _listed(files: SessionFiles) -> KeptSession:
    about: Mapping[str, Any] = {}
    with suppress(OSError, ValueError, SessionError), files.state.open("rb") as file:
        about, _ = _read_about(file.fileno(), files)
    n_bytes = 0
    for path in (files.state, files.conversation):
        with suppress(OSError):
            n_bytes += path.stat().st_size
    name, n_tokens, is_chat = about.get("model_name"), about.get("n_tokens"), files.conversation.exists()
    return KeptSession(files.name, name, n_tokens, is_chat, n_bytes)


def remove_session(files: SessionFiles) -> None:
    """Delete what is kept of a session. SessionError while a chat has it open."""
    with only_chat_of(files):
        _clear_leftovers(files)
        for path in (files.state, files.conversation, files.folder / f".{files.name}.lock"):
            path.unlink(missing_ok=True)


# -- writing -------------------------------------------------------------------------------------------------


def keep_state(
    files: SessionFiles, about: Mapping[str, Any], n_bytes: int, write: Callable[[Path], Mapping[str, Any]]
) -> int:
    """Let `write` write the state into a file of its own, and give that the session's name when it is whole;
    returns its bytes. `about`, and what `write` returns, can be read from it later; `n_bytes` is about how
    much will be written.

    DiskFull, or MoetoolError, when that cannot be; what was kept before is then still there.
    """
    try:
        key = _make_folder(files.folder)
        _clear_leftovers(files)
        free = shutil.disk_usage(files.folder).free
        if free < n_bytes + _SPARE_BYTES:
            raise _disk_full(files, n_bytes)
        return _write_whole(files, about, write, key)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise _disk_full(files, n_bytes) from error
        raise MoetoolError(f"Cannot keep session {files.name}: {error.strerror}") from error


def _write_whole(
    files: SessionFiles, about: Mapping[str, Any], write: Callable[[Path], Mapping[str, Any]], key: bytes
) -> int:
    file, name = tempfile.mkstemp(dir=files.folder, prefix=f".{files.name}.", suffix=".tmp")
    try:
        # As long as this is held, nobody takes the file for one that a killed run has left.
        fcntl.flock(file, fcntl.LOCK_EX)
        written = dict(write(Path(name)))
        n_payload = os.lseek(file, 0, os.SEEK_END)
        sealed = {
            "moetool_session": VERSION,
            **about,
            **written,
            "payload_bytes": n_payload,
            "sha256": _digest(file, n_payload, lambda _: None),
        }
        text = json.dumps(sealed).encode()
        with open(file, "ab", closefd=False) as rest:  # noqa: PTH123 (a descriptor, not a path)
            rest.write(text + _FOOTER.pack(len(text), _key_id(key), _seal(key, text), _MAGIC))
        os.fsync(file)
        Path(name).replace(files.state)
        return n_payload + len(text) + _FOOTER.size
    except BaseException:
        with suppress(OSError):
            os.unlink(name)  # noqa: PTH108
        raise
    finally:
        os.close(file)


def _clear_leftovers(files: SessionFiles) -> None:
    """Delete what killed runs have left half-written of this session."""
    for path in files.folder.glob(f".{files.name}.*.tmp"):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _disk_full(files: SessionFiles, n_bytes: int) -> DiskFull:
    return DiskFull(
        f"There is no room to keep session {files.name}: {n_bytes >> 20} MiB in {files.folder}",
        "delete what is not needed there",
    )


@contextmanager
def only_chat_of(files: SessionFiles) -> Iterator[None]:
    """Holds a session's conversation for one chat; SessionError when another one has it."""
    _make_folder(files.folder)
    with (files.folder / f".{files.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SessionError(f"Session {files.name} is open in another chat", "take another name") from None
        yield


# -- seals ---------------------------------------------------------------------------------------------------


def _make_folder(folder: Path) -> bytes:
    """Make the folder, its owner's alone, and its key; returns the key."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    key, path = _read_key(folder), folder / "key"
    if not key:
        path.unlink(missing_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(file, secrets.token_bytes(_KEY_BYTES))
        os.close(file)
    return key or _read_key(folder)


def _read_key(folder: Path) -> bytes:
    """The folder's secret; b"" when there is none."""
    try:
        key = (folder / "key").read_bytes()
    except FileNotFoundError:
        return b""
    return key if len(key) == _KEY_BYTES else b""


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"id" + key).digest()[:8]


def _seal(key: bytes, text: bytes) -> bytes:
    return hmac.new(key, text, hashlib.sha256).digest()
