"""`moetool pull` beyond the download: what arrived is a model, lock files, room on the disk, the command."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from cli_fixture import Moetool, clean_environment
from hub_fixture import (
    REPO,
    TOKEN,
    HubWorld,
    assert_exact,
    failure,
    model_file,
    model_shards,
    noise,
    partial_bytes,
    pull,
    sharded,
    wait_for,
)
from hub_server import sha256

from moetool.arrived import check_arrived
from moetool.errors import DiskFull, HeaderError, NotFound, UsageError, VerificationFailed
from moetool.gguf import open_header
from moetool.kept_headers import keep_header, read_kept_header
from moetool.lockfile import parse_lock, read_lock
from moetool.names import ModelFile
from moetool.pulling import pull_locked

MAIN = "import sys; from moetool.__main__ import main; sys.exit(main())"
ARGS = ("pull", f"{REPO}:q8")


# ---- what arrived is a model -----------------------------------------------------------------------------


def test_headers_are_read_and_kept(world: HubWorld, tmp_path: Path) -> None:
    files = model_shards()
    world.server.put(REPO, {**files, "mmproj-F16.gguf": noise(100)})
    check_arrived(pull(world, include=["mmproj"]), tmp_path)
    for name, data in files.items():
        assert read_kept_header(tmp_path, REPO, ModelFile(name, len(data), sha256(data))) is not None


def test_other_tensors_than_were_planned_from(world: HubWorld, tmp_path: Path) -> None:
    """A server that answered the plan's ranges with something else than the file that it serves."""
    data = model_file()
    world.server.put(REPO, {"moe-Q8_0.gguf": data})
    result = pull(world)
    file, header = ModelFile("moe-Q8_0.gguf", len(data), sha256(data)), open_header(result.paths[0])
    keep_header(tmp_path, REPO, file, replace(header, tensors=(replace(header.tensors[0], name="x.weight"),)))
    with pytest.raises(VerificationFailed, match="other tensors than the header that was planned from"):
        check_arrived(result, tmp_path)
    check_arrived(result, tmp_path)  # the right header is kept now


@pytest.mark.parametrize("data", [b"", b"<html>", model_file()[:-100], noise(5000)])
def test_right_bytes_that_are_no_model(world: HubWorld, tmp_path: Path, data: bytes) -> None:
    world.server.put(REPO, {"moe-Q8_0.gguf": data})
    with pytest.raises(HeaderError, match="moe-Q8_0.gguf is what the Hub states, but no model: ") as caught:
        check_arrived(pull(world), tmp_path)
    assert f"moetool rm {REPO}:Q8_0" in caught.value.hint


def test_shards_that_do_not_belong_together(world: HubWorld, tmp_path: Path) -> None:
    files = model_shards(n=2)
    files["moe-Q8_0-00002-of-00002.gguf"] = model_file(1, 0, 2)
    world.server.put(REPO, files)
    with pytest.raises(HeaderError, match="but no model"):
        check_arrived(pull(world), tmp_path)


# ---- lock files ------------------------------------------------------------------------------------------


def test_a_lock_file_brings_the_same_bytes_elsewhere(world: HubWorld, tmp_path: Path) -> None:
    files = sharded(n=2)
    world.server.put(REPO, {**files, "mmproj-F16.gguf": noise(50)})
    first = pull(world, include=["mmproj"])
    assert first.lock_path is not None
    lock = tmp_path / "elsewhere.json"
    lock.write_bytes(first.lock_path.read_bytes())
    world.server.put(REPO, sharded(n=2, size=5000))  # main has moved on
    world.hub = replace(world.hub, cache_dir=tmp_path / "other")
    world.cache_dir = world.hub.cache_dir
    foreseen = pull_locked(lock, hub=world.hub, dry_run=True)
    assert (foreseen.missing_bytes, foreseen.paths) == (400_053, ())
    result = pull_locked(lock, hub=world.hub)
    assert_exact(world, result, {**files, "mmproj-F16.gguf": noise(50)})
    assert (result.name, result.revision) == (first.name, first.revision)
    # Once it is here, no Hub is needed for it.
    n_requests = len(world.server.log)
    again = pull_locked(lock, hub=replace(world.hub, offline=True))
    assert (again.fetched_bytes, len(world.server.log)) == (0, n_requests)


def test_a_hub_with_other_bytes_than_the_lock(world: HubWorld) -> None:
    world.server.put(REPO, {"moe-Q8_0.gguf": noise(3000)})
    lock_path = pull(world).lock_path
    assert lock_path is not None
    document = json.loads(lock_path.read_text())
    document["files"][0]["sha256"] = "ab" * 32
    lock_path.write_text(json.dumps(document))
    before = world.final_files()
    with pytest.raises(
        VerificationFailed, match="not have the bytes of the lock file: .* now has another hash"
    ):
        pull_locked(lock_path, hub=world.hub)
    assert world.final_files() == before
    document["commit"] = "0" * 40
    lock_path.write_text(json.dumps(document))
    with pytest.raises(NotFound, match="no such revision") as caught:
        pull_locked(lock_path, hub=world.hub)
    assert "--revision" not in caught.value.hint


SOUND = {
    "moetool_lock": 1,
    "name": "org/a:Q8_0",
    "repo": "org/a",
    "commit": "1" * 40,
    "quant": "Q8_0",
    "files": [{"path": "a-Q8_0.gguf", "size_bytes": 5, "sha256": "a" * 64, "git_oid": ""}],
}


def test_lock_files_are_distrusted(tmp_path: Path) -> None:
    assert parse_lock(SOUND).repo == "org/a"
    file = SOUND["files"][0]  # type: ignore[index]
    wrong = [
        {"moetool_lock": 2},
        {"repo": "../../etc"},
        {"repo": 5},
        {"commit": "main"},
        {"files": []},
        {"files": [{**file, "path": "../x.gguf"}]},
        {"files": [{**file, "path": "/etc/passwd"}]},
        {"files": [{**file, "sha256": "../../x"}]},
        {"files": [{**file, "sha256": ""}]},
        {"files": [{**file, "size_bytes": -1}]},
        {"files": [{**file, "size_bytes": "5"}]},
        {"files": [{**file, "size_bytes": 1 << 60}]},
        {"files": [file, file]},
        {"name": "x; rm -rf ~"},
        {"name": "org/other:Q8_0"},
        {"name": "org/a:$(id)", "quant": "$(id)"},
        {"files": [{**file, "extra": 1}]},
    ]
    path = tmp_path / "lock.json"
    for change in wrong:
        path.write_text(json.dumps({**SOUND, **change}))
        with pytest.raises(UsageError, match="is not a lock file"):
            read_lock(path)
    for text in ("", "[]", "[" * 100_000, "{", " " * 3_000_000):
        path.write_text(text)
        with pytest.raises(UsageError, match="is not a lock file"):
            read_lock(path)
    with pytest.raises(NotFound):
        read_lock(tmp_path / "none.json")


# ---- room on the disk ------------------------------------------------------------------------------------


def test_only_what_will_be_written_needs_room(world: HubWorld) -> None:
    world.server.put(REPO, sharded(n=3))
    assert pull(world, dry_run=True, read_free_bytes=lambda _: 1 << 40).missing_bytes == 600_006
    with pytest.raises(DiskFull):
        pull(world, dry_run=True, read_free_bytes=lambda _: 1000)
    world.server.fault("00003-of-00003", drop_after=150_000)
    world.hub = replace(world.hub, retry=replace(world.hub.retry, attempts=1), n_parallel=1)
    failure(world)  # two shards are here now, and a part of the third
    partial = next(world.cache_dir.rglob("*.incomplete")).stat().st_size
    foreseen = pull(world, dry_run=True, read_free_bytes=lambda _: (64 << 20) + 100_000)
    assert foreseen.missing_bytes == 200_003 - partial < 100_000


# ---- the command -----------------------------------------------------------------------------------------


def test_the_command_says_it_all_in_one_document(world: HubWorld) -> None:
    files = model_shards()
    commit = world.server.put(REPO, files, token=TOKEN)
    fault = world.server.fault("00002-of-00003", corrupt_at=9)
    child = world.start(MAIN, "pull", f"{REPO}:q8", "-o", "json", HF_TOKEN=TOKEN)
    document = json.loads(child.communicate(timeout=30)[0])
    assert (child.returncode, document["exit_code"], document["errors"][0]["code"]) == (6, 6, "verification")
    fault.times = 0
    child = world.start(
        MAIN, "pull", f"{REPO}:q8", "-o", "json", HF_TOKEN=TOKEN, XDG_CACHE_HOME=str(world.home)
    )
    out, err = child.communicate(timeout=30)
    assert child.returncode == 0, err
    data = json.loads(out)["data"]
    assert (data["repo"], data["quant"], data["revision"]) == (REPO, "Q8_0", commit)
    assert data["size_bytes"] == sum(map(len, files.values()))
    lock = read_lock(Path(data["lock_path"]))
    assert {file.path: file.sha256 for file in lock.files} == {p: sha256(b) for p, b in files.items()}
    # Nothing that was printed or written has the token in it: records, locks, kept headers.
    written = [p for p in world.home.rglob("*") if p.is_file()]
    assert {"moetool", ".moetool", "blobs", "snapshots"} <= {part for p in written for part in p.parts}
    assert [p for p in written if TOKEN.encode() in p.read_bytes()] == []
    assert TOKEN not in out + err


def test_ctrl_c_says_that_nothing_is_lost(world: HubWorld) -> None:
    world.server.put(REPO, sharded(n=2))
    fault = world.server.fault("/cdn/", stall_after=80_000)
    child = world.start(
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + MAIN, *ARGS
    )
    wait_for(lambda: partial_bytes(world) == 160_000)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=10)
    assert (child.returncode, out) == (130, "")
    assert err.splitlines() == [
        "error: Stopped; what has arrived is kept.",
        "hint:  The same command continues where it was.",
    ]
    fault.times = 0
    assert pull(world).fetched_bytes == 400_003 - 160_000


def test_what_the_command_line_cannot_mean(world: HubWorld, moetool_here: Moetool) -> None:
    for arguments in (["pull"], ["pull", REPO, "--locked", "x"], ["pull", REPO, "--include", "eyes"]):
        done = moetool_here(*arguments, HF_ENDPOINT=world.server.url)
        assert (done.code, done.out) == (2, ""), done.err
    assert world.server.log == []


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("answer", "is_pulled"), [("n", False), ("y", True)])
def test_on_a_terminal_it_shows_the_table_and_asks(
    world: HubWorld, tmp_path: Path, answer: str, is_pulled: bool
) -> None:
    from moetool.assets import demo_model_path

    files = {"moe-Q8_0.gguf": demo_model_path().read_bytes(), "mmproj-F16.gguf": noise(2048)}
    world.server.put(REPO, files)
    cache = clean_environment(tmp_path)["XDG_CACHE_HOME"]
    shown = on_terminal(world, ["pull", REPO, "--include", "mmproj"], answer, XDG_CACHE_HOME=cache)
    assert "decode tok/s" in shown
    assert "mmproj-F16.gguf (2.00 KiB, --include mmproj)" in shown
    assert "Pull Q8_0, 7.6" in shown
    assert "to download? [Y/n]" in shown
    assert (len(world.final_files()) == 4) is is_pulled
    assert ("Nothing was pulled" in shown) is not is_pulled


def on_terminal(world: HubWorld, arguments: list[str], answer: str, **more: str) -> str:
    """All that a command shows on a terminal of 160 columns, where `answer` is typed."""
    import pty
    import subprocess
    import sys

    master, slave = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments],
        env=world.env(COLUMNS="160", NO_COLOR="1", **more),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    os.write(master, f"{answer}\n".encode())
    shown = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:  # Linux says so at the end
            break
        if not piece:
            break
        shown += piece
    os.close(master)
    child.wait(timeout=30)
    return shown.decode()
