"""Downloads that must not succeed: wrong bytes, full disks, servers in trouble, hostile repos."""

from __future__ import annotations

import resource
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hub_fixture import PULL, QUICK, REPO, TOKEN, HubWorld, assert_exact, blobs, failure, noise, pull, sharded
from hub_server import sha256

from moetool.errors import DiskFull, GatedRepo, HubError, NotFound, UsageError, VerificationFailed
from moetool.hub import first_choice, list_files
from moetool.hub.listing import parse_listing
from moetool.hub.trouble import parse_retry_after
from moetool.store import list_local


def test_wrong_bytes_in_one_shard_of_three(world: HubWorld) -> None:
    files = sharded(n=3)
    world.server.put(REPO, files)
    fault = world.server.fault("00002-of-00003", corrupt_at=1234)
    with pytest.raises(VerificationFailed, match="moe-Q8_0-00002-of-00003.gguf did not arrive as") as caught:
        pull(world)
    assert caught.value.exit_code == 6
    assert list_local(world.cache_dir) == ()
    right = {sha256(data) for data in files.values()}
    for path, data in world.final_files().items():
        assert "/blobs/" in path, "nothing of a model that is not whole has its name"
        assert sha256(data) in right
    fault.times = 0
    assert_exact(world, pull(world), files)


@pytest.mark.parametrize("what", [{"cut_to": 90_000}, {"longer_by": 7}])
def test_wrong_sizes(world: HubWorld, what: dict[str, int]) -> None:
    world.server.put(REPO, {"moe-Q8_0.gguf": noise(100_000)})
    world.server.fault("/cdn/", **what)
    with pytest.raises(VerificationFailed, match="100000 were listed"):
        pull(world)
    assert world.final_files() == {}
    # In the middle of a file too.
    world.server.faults = []
    world.server.fault("/cdn/", times=1, drop_after=50_000)
    world.server.fault("/cdn/", **what)
    with pytest.raises(VerificationFailed, match="100000 were listed"):
        pull(world)
    assert world.final_files() == {}


def test_no_room_on_the_disk_is_said_before_the_download(world: HubWorld) -> None:
    world.server.put(REPO, sharded(n=3))
    with pytest.raises(
        DiskFull, match=r"needs 0.00 GB \(600,006 bytes\) more, .* \(1,000 bytes\) free"
    ) as caught:
        pull(world, read_free_bytes=lambda folder: 1000)
    assert caught.value.exit_code == 3
    with pytest.raises(
        DiskFull, match=r"the disk has .* \(700,000 bytes\) free, and 0.07 GB of that stay free"
    ):
        pull(world, read_free_bytes=lambda folder: 700_000)
    assert world.server.bodies() == []
    pull(world)
    pull(world, read_free_bytes=lambda folder: 0)  # nothing to write, nothing needed


def test_the_disk_fills_up_in_the_middle(world: HubWorld) -> None:
    files = {"moe-Q8_0.gguf": noise(300_000)}
    world.server.put(REPO, files)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
    child = world.start(limit + PULL, REPO)
    _, err = child.communicate(timeout=20)
    assert (child.returncode, err.count("\n")) == (3, 1), err
    assert "The disk is full" in err
    assert world.final_files() == {}
    result = pull(world)
    assert_exact(world, result, files)
    assert result.fetched_bytes == 200_000
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000


def test_hashes_that_are_not_stated(world: HubWorld) -> None:
    body = b'{"sha": "%s", "siblings": [{"rfilename": "m-Q8_0.gguf", "size": 5}]}' % (b"1" * 40)
    listing = parse_listing(body, REPO, "main")
    from moetool.hub import download

    with pytest.raises(HubError, match="states no hash of m-Q8_0.gguf"):
        download(world.hub, listing, listing.quants[0].files)


# ---- what is said ---


def test_repos_that_are_not_there(world: HubWorld) -> None:
    anonymous = failure(world)
    assert isinstance(anonymous, NotFound)
    assert "hf auth login" in anonymous.hint
    world.hub = replace(world.hub, token=TOKEN)
    known = failure(world)
    assert (known.exit_code, "hf auth login" in known.hint) == (5, False)
    world.server.put(REPO, {"moe-Q8_0.gguf": b"x"})
    assert "no such revision" in failure(world, revision="v9").message
    assert failure(world, f"{REPO}/other-Q8_0.gguf").hint == "There is moe-Q8_0.gguf."
    world.server.put("org/none", {"README.md": b"x"})
    assert "has no GGUF file" in failure(world, "org/none").message


def test_gated_and_private_repos(world: HubWorld) -> None:
    world.server.put(REPO, {"moe-Q8_0.gguf": b"x"}, token=TOKEN, gated=True)
    world.server.put("org/private", {"p-Q8_0.gguf": b"x"}, token=TOKEN)
    no_token = failure(world)
    assert isinstance(no_token, GatedRepo)
    assert "terms must be accepted" in no_token.message
    assert f"at 127.0.0.1/{REPO}, then log in with `hf auth login`" in no_token.hint
    assert isinstance(failure(world, "org/private"), NotFound)
    world.hub = replace(world.hub, token="hf_somebody_else")
    assert "has not been let in" in failure(world).message
    world.hub = replace(world.hub, token="hf_expired")
    assert "does not accept the token" in failure(world).message
    world.hub = replace(world.hub, token=TOKEN)
    assert pull(world).fetched_bytes == 1
    assert pull(world, "org/private").fetched_bytes == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_server_trouble_is_retried_and_then_said(world: HubWorld, status: int) -> None:
    world.server.put(REPO, {"moe-Q8_0.gguf": noise(1000)})
    where = {500: "/resolve/", 502: "/cdn/"}.get(status, "/api/")
    fault = world.server.fault(where, status=status)
    error = failure(world)
    assert (type(error).__mro__[1], error.exit_code) == (HubError, 1)
    assert f"HTTP {status}" in error.message
    fault.times = 2  # the third attempt is the last, and gets through
    assert pull(world).fetched_bytes == 1000


def test_retry_after_is_obeyed_unless_it_is_too_long(
    world: HubWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("moetool.hub.client.sleep", waits.append)
    world.server.put(REPO, {"moe-Q8_0.gguf": noise(1000)})
    fault = world.server.fault("/api/", times=1, status=429, headers={"Retry-After": "7"})
    world.hub = replace(world.hub, retry=replace(QUICK, longest_wait_s=60))
    pull(world, dry_run=True)
    assert waits == [7]
    fault.times, fault.headers = 1, {"Retry-After": "3600"}
    assert "asks to wait 3600 s" in failure(world).message
    assert waits == [7]
    assert [parse_retry_after(v) for v in ("5", "", "-1", "soon", "9" * 30)] == [5.0, None, None, None, None]


def test_other_refusals(world: HubWorld) -> None:
    world.server.put(REPO, {"moe-Q8_0.gguf": noise(1000)})
    fault = world.server.fault("/cdn/", status=403)
    assert isinstance(failure(world), GatedRepo)
    fault.status = 418
    assert "HTTP 418" in failure(world).message
    fault.status = 404
    assert isinstance(failure(world), NotFound)
    fault.match = "/api/"
    fault.status, fault.headers = 302, {"Location": "/api/loop"}
    assert "in circles" in failure(world).message


def test_what_cannot_be_pulled(world: HubWorld) -> None:
    assert isinstance(failure(world, "demo"), UsageError)
    assert isinstance(failure(world, "./m.gguf"), UsageError)
    assert isinstance(failure(world, "qwen"), NotFound)
    assert world.server.log == []


def test_a_cache_folder_that_cannot_be_one(world: HubWorld, tmp_path: Path) -> None:
    world.server.put(REPO, {"moe-Q8_0.gguf": noise(1000)})
    (tmp_path / "file").write_bytes(b"")
    world.hub = replace(world.hub, cache_dir=tmp_path / "file" / "hub")
    assert "cannot be stored" in failure(world).message


# ---- hostile repos ---

HOSTILE = ["../x.gguf", "/etc/x.gguf", "a/../../x.gguf", "%2e%2e/x.gguf", "a\x1b[2J.gguf", "a\\..\\x.gguf"]


def test_hostile_file_names_are_left_out_and_said(world: HubWorld) -> None:
    world.server.put(REPO, {**dict.fromkeys(HOSTILE, b"evil"), "moe-Q8_0.gguf": b"good"})
    listing = list_files(world.hub, REPO)
    assert len(listing.refused) == len(HOSTILE)
    assert all(name.isprintable() for name in listing.refused)
    assert [q.label for q in listing.quants] == ["Q8_0"]
    assert_exact(world, pull(world), {"moe-Q8_0.gguf": b"good"})
    world.server.put("org/evil", dict.fromkeys(HOSTILE, b"evil"))
    assert "no file with an acceptable name" in failure(world, "org/evil").message
    assert list(world.home.parent.rglob("x.gguf")) == []


def test_a_link_in_the_cache_does_not_lead_out_of_it(world: HubWorld, tmp_path: Path) -> None:
    commit = world.server.put(REPO, {"sub/moe-Q8_0.gguf": b"x"})
    (tmp_path / "elsewhere").mkdir()
    snapshot = blobs(world).parent / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "sub").symlink_to(tmp_path / "elsewhere")
    assert "outside of the cache" in failure(world).message
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_list_of_files_without_an_end(world: HubWorld) -> None:
    world.server.put(REPO, {"moe-Q8_0.gguf": b"x"})
    world.server.fault("/api/", endless=True)
    started = time.monotonic()
    assert "longer than 4 MiB" in failure(world).message
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Log in to the hotel</html>",
        b"[]",
        b'{"sha": 5, "siblings": []}',
        b'{"sha": "../../x", "siblings": []}',
        b'{"sha": "%s"}' % (b"1" * 40),
        b"[" * 100_000,
    ],
)
def test_answers_that_are_not_a_hubs(body: bytes) -> None:
    with pytest.raises(HubError, match="HF_ENDPOINT|answer"):
        parse_listing(body, REPO, "main")


def test_entries_that_make_no_sense_are_left_out() -> None:
    entries = b"""[5, {}, {"rfilename": 7}, {"rfilename": "a-Q8_0.gguf", "size": -5},
        {"rfilename": "b-Q8_0.gguf", "size": 1e300}, {"rfilename": "c-Q8_0.gguf", "lfs": [1]},
        {"rfilename": "d-Q8_0.gguf", "size": 7, "lfs": {"sha256": "../x", "size": 7}, "blobId": "z"}]"""
    listing = parse_listing(b'{"sha": "%s", "siblings": %s}' % (b"1" * 40, entries), REPO, "main")
    (quant,) = listing.quants
    assert (quant.files[0].path, quant.files[0].sha256, quant.files[0].git_oid) == ("d-Q8_0.gguf", "", "")


def test_an_upload_that_is_not_finished(world: HubWorld) -> None:
    files = sharded(n=3)
    del files["moe-Q8_0-00002-of-00003.gguf"]
    world.server.put(REPO, files)
    assert "has 2 of its 3 shards" in failure(world).message


def test_the_first_choice_is_the_usual_one() -> None:
    def choice(*labels: str) -> str:
        files = [
            {"rfilename": f"m-{label}.gguf", "size": 1000 - i, "blobId": "1" * 40}
            for i, label in enumerate(labels)
        ]
        body = str({"sha": "1" * 40, "siblings": files}).replace("'", '"').encode()
        return first_choice(parse_listing(body, REPO, "main")).label

    assert choice("BF16", "Q8_0", "Q4_K_M", "Q2_K") == "Q4_K_M"
    assert choice("BF16", "UD-Q4_K_XL", "UD-IQ1_S") == "UD-Q4_K_XL"
    assert choice("BF16", "F32", "Q2_K") == "Q2_K"
