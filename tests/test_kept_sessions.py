"""What is kept of a session on disk: whole or not at all, its owner's alone, refused when it is not ours."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cli_fixture import Moetool, moetool_here

from moetool.errors import DiskFull, MoetoolError, SessionError, UsageError
from moetool.identity import read_model_digest
from moetool.kept_sessions import SessionFiles, find_session, keep_state, only_chat_of, open_state

__all__ = ["moetool_here"]  # a fixture

PAYLOAD = bytes(range(256)) * 40


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SessionFiles:
    monkeypatch.setenv("MOETOOL_HOME", str(tmp_path / "home"))
    return find_session("doc")


def write_payload(path: Path) -> Mapping[str, Any]:
    path.write_bytes(PAYLOAD)
    return {"n_tokens": 7}


def keep(files: SessionFiles) -> int:
    return keep_state(files, {"model": "abc", "model_name": "demo"}, len(PAYLOAD), write_payload)


def read(files: SessionFiles, model: str = "abc") -> bytes:
    with open_state(files, model, lambda _n: None) as kept:
        if kept is None:
            return b""
        assert kept.about["n_tokens"] == 7
        return kept.payload.read_bytes()[: kept.payload_bytes]


def names_in(files: SessionFiles) -> set[str]:
    return {path.name for path in files.folder.iterdir()}


def test_what_was_kept_comes_back(files: SessionFiles) -> None:
    assert read(files) == b""
    n_bytes = keep(files)
    assert read(files) == PAYLOAD
    assert files.state.stat().st_size == n_bytes
    assert names_in(files) == {"doc.state", "key"}
    keep(files)
    assert read(files) == PAYLOAD


def test_it_is_its_owners_alone(files: SessionFiles) -> None:
    before = os.umask(0)
    try:
        keep(files)
    finally:
        os.umask(before)
    assert files.folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in files.folder.iterdir()} == {0o600}


BAD_NAMES = ["", "..", "../x", "a/b", "/etc/x", ".hidden", "-n", "a b", "a\n", "ä", "x" * 65, "*"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_no_file_should_have(name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a session"):
        find_session(name)


def test_names_that_are_fine(files: SessionFiles) -> None:
    for name in ("a", "Q3.notes_v2-final", "x" * 64):
        assert find_session(name).state.parent == files.folder


# -- what is refused -----------------------------------------------------------------------------------------


def test_a_change_of_any_byte_is_noticed(files: SessionFiles) -> None:
    keep(files)
    sound = files.state.read_bytes()
    # Some of the payload, much of the JSON, all of the seal.
    footer = len(sound) - 56
    for at in [*range(0, len(PAYLOAD), 997), *range(len(PAYLOAD) - 1, footer, 3), *range(footer, len(sound))]:
        files.state.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        with pytest.raises(SessionError, match="damaged|is no session's state|was not written here"):
            read(files)
    files.state.write_bytes(sound)
    assert read(files) == PAYLOAD


def test_more_or_fewer_bytes_are_noticed(files: SessionFiles) -> None:
    keep(files)
    sound = files.state.read_bytes()
    for n in (0, 1, 55, 56, 57, len(PAYLOAD), len(sound) - 1):
        for damaged in (
            sound[:n],
            sound[-n:] if n else b"x",
            sound[:n] + sound[n + 1 :],
            sound + sound[:n] + b"y",
        ):
            files.state.write_bytes(damaged)
            with pytest.raises(SessionError):
                read(files)


def test_what_another_folder_has_sealed_is_refused(files: SessionFiles, tmp_path: Path) -> None:
    keep(files)
    theirs = SessionFiles("doc", tmp_path / "theirs")
    keep(theirs)
    shutil.copy(theirs.state, files.state)
    with pytest.raises(SessionError, match="was not written here"):
        read(files)
    (files.folder / "key").unlink()
    with pytest.raises(SessionError, match="was not written here"):
        read(files)


def test_a_state_that_somebody_made_up_is_refused(files: SessionFiles) -> None:
    """All sums are right; only the secret is not known."""
    keep(files)
    sound = files.state.read_bytes()
    about = sound[len(PAYLOAD) : -56]
    assert json.loads(about)["n_tokens"] == 7
    files.state.write_bytes(PAYLOAD + about.replace(b'"n_tokens": 7', b'"n_tokens": 9') + sound[-56:])
    with pytest.raises(SessionError, match="damaged"):
        read(files)


def test_another_models_state_is_refused_by_name(files: SessionFiles) -> None:
    keep(files)
    with pytest.raises(SessionError, match=r"belongs to another model \(demo\)"):
        read(files, model="def")


def test_what_is_no_file_is_refused_without_waiting(files: SessionFiles) -> None:
    keep(files)
    files.state.unlink()
    for make in (os.mkfifo, os.mkdir, lambda path: Path(path).symlink_to("/dev/zero")):
        make(files.state)
        with pytest.raises(SessionError, match="no session's state"):
            read(files)
        files.state.rmdir() if files.state.is_dir() else files.state.unlink()


def test_what_takes_the_name_after_the_check_is_not_read(files: SessionFiles) -> None:
    keep(files)
    with open_state(files, "abc", lambda _n: None) as kept:
        assert kept is not None
        other = files.folder / "other"
        other.write_bytes(b"evil")
        other.replace(files.state)
        assert kept.payload.read_bytes().startswith(PAYLOAD)


# -- what goes wrong while writing ---------------------------------------------------------------------------


def test_a_failed_write_leaves_what_was_there(files: SessionFiles) -> None:
    def fail(path: Path) -> Mapping[str, Any]:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskFull):
        keep_state(files, {}, 1, fail)
    assert names_in(files) == {"key"}
    keep(files)
    with pytest.raises(DiskFull, match="no room to keep session doc"):
        keep_state(files, {}, 1, fail)
    with pytest.raises(DiskFull):
        keep_state(files, {}, 1 << 60, write_payload)
    assert read(files) == PAYLOAD
    assert names_in(files) == {"doc.state", "key"}


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "sessions").write_text("a file")
    with pytest.raises(MoetoolError, match="Cannot keep session doc"):
        keep(SessionFiles("doc", tmp_path / "sessions"))


def test_a_killed_run_leaves_the_old_state_and_the_next_one_cleans_up(files: SessionFiles) -> None:
    keep(files)
    ready = files.folder.parent / "ready"

    def write_for_ever(path: Path) -> Mapping[str, Any]:
        path.write_bytes(b"half")
        ready.touch()
        time.sleep(60)
        return {}

    child = os.fork()
    if child == 0:
        keep_state(files, {}, 1, write_for_ever)
        os._exit(0)
    try:
        deadline = time.monotonic() + 20
        while not ready.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        # While it runs, others do not take its file for a leftover.
        keep(files)
        assert len(names_in(files)) == 3
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert read(files) == PAYLOAD
    keep(files)
    assert names_in(files) == {"doc.state", "key"}


def test_one_chat_at_a_time(files: SessionFiles) -> None:
    with only_chat_of(files):
        with pytest.raises(SessionError, match="open in another chat"), only_chat_of(files):
            pass
        with only_chat_of(find_session("other")):
            pass
    with only_chat_of(files):
        pass


# -- which model a file is -----------------------------------------------------------------------------------


def test_a_digest_tells_models_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moetool.assets import demo_model_path
    from moetool.gguf import open_header

    path = tmp_path / "copy.gguf"
    shutil.copy(demo_model_path(), path)
    header = open_header(path)
    middles = [header.data_offset + t.offset + t.n_bytes // 2 for t in header.tensors]

    def flip(at: int) -> None:
        with path.open("r+b") as file:
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ 1]))

    for whole in (64 << 20, 0):
        monkeypatch.setattr("moetool.identity.WHOLE_BYTES", whole)
        same = read_model_digest([demo_model_path()])
        assert read_model_digest([path]) == same != read_model_digest([path, path])
        # In the vocabulary, and in any tensor.
        for at in (header.header_bytes // 2, middles[0], middles[len(middles) // 2], middles[-1]):
            flip(at)
            assert read_model_digest([path]) != same
            flip(at)
        assert read_model_digest([path]) == same
    os.truncate(path, path.stat().st_size + 32)
    assert read_model_digest([path]) != same


def test_sessions_are_listed_and_removed(moetool_here: Moetool, tmp_path: Path) -> None:
    home = {"MOETOOL_HOME": str(tmp_path / "home")}
    folder = tmp_path / "home" / "sessions"
    assert "No session is kept" in moetool_here("list", "--sessions", **home).out
    assert moetool_here("run", "demo", "Hi", "--session", "one", "-q", **home).code == 0
    (folder / "two.state").write_bytes(b"torn")
    (folder / "two.json").write_text("{}")
    one, two = moetool_here("list", "--sessions", "-o", "json", **home).document["data"]["sessions"]
    assert (one["name"], one["model_name"], one["is_chat"]) == ("one", "demo", False)
    assert one["n_tokens"] > 10
    assert two == {"name": "two", "model_name": None, "n_tokens": None, "is_chat": True, "n_bytes": 6}
    assert moetool_here("rm", "--session", "two", **home).code == 2  # nobody is there to be asked
    with only_chat_of(SessionFiles("two", folder)):
        assert moetool_here("rm", "--session", "two", "-y", **home).code == 1
    assert moetool_here("rm", "--session", "two", "-y", **home).out == "Removed session two.\n"
    assert moetool_here("rm", "--session", "two", "-y", **home).code == 5
    assert {path.name for path in folder.iterdir()} == {"key", "one.state"}
