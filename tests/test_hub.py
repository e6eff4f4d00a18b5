"""The Hub's door, against a real server: what arrives, what is resumed, what is refused, what is said."""

from __future__ import annotations

import io
import json
import random
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from gguf_build import Builder, Row, strings, text
from hub_fixture import QUICK, HubWorld
from hub_server import git_oid, sha256

from moetool.errors import (
    DiskFull,
    GatedRepo,
    HubError,
    MoetoolError,
    NotFound,
    UsageError,
    VerificationFailed,
)
from moetool.gguf import read_header
from moetool.hub import (
    HttpRangeFile,
    Hub,
    RepoListing,
    Retry,
    first_choice,
    list_files,
    open_remote,
    select_quant,
)
from moetool.hub.listing import parse_listing
from moetool.hub.trouble import parse_retry_after
from moetool.names import parse_model_name
from moetool.pulling import PullResult, pull_model
from moetool.store import find_local, list_local, read_record

REPO = "org/Moe-GGUF"
TOKEN = "hf_secret_that_nobody_may_see"

# A pull in a child process, as a user's would be: everything comes from the environment.
PULL = """
import sys
from moetool.pulling import pull_model
from moetool.errors import MoetoolError
try:
    print(pull_model(sys.argv[1], on_progress=lambda *p: None).fetched_bytes)
except MoetoolError as error:
    print(error.message, "|", error.hint, file=sys.stderr)
    raise SystemExit(error.exit_code)
"""


def noise(n_bytes: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(n_bytes)


def sharded(label: str = "Q8_0", n: int = 3, size: int = 200_000, folder: str = "") -> dict[str, bytes]:
    return {f"{folder}moe-{label}-{i:05d}-of-{n:05d}.gguf": noise(size + i, i) for i in range(1, n + 1)}


def pull(world: HubWorld, name: str = REPO, **more: object) -> PullResult:
    return pull_model(name, hub=world.hub, **more)  # type: ignore[arg-type]


def assert_exact(world: HubWorld, result: PullResult, files: dict[str, bytes]) -> None:
    """All files under their final names with their bytes, a record of each, and no leftovers."""
    assert {f: p.read_bytes() for f, p in zip(result.files, result.paths, strict=True)} == files
    for data in files.values():
        record = read_record(world.cache_dir, result.repo, sha256(data))
        assert record is not None
        assert (record.size_bytes, record.commit, record.repo) == (len(data), result.revision, result.repo)
    assert list(world.cache_dir.rglob("*.incomplete")) == []
    local = find_local(parse_model_name(result.name), world.cache_dir)
    assert local is not None
    assert local.verified


# ---- what arrives ----------------------------------------------------------------------------------------


def test_one_file(world: HubWorld) -> None:
    files = {"moe-Q4_K_M.gguf": noise(100_000)}
    commit = world.server.put(REPO, {**files, "README.md": b"# Moe"})
    seen: list[tuple[int, int, str]] = []
    result = pull(world, on_progress=lambda *p: seen.append(p))
    assert_exact(world, result, files)
    assert (result.name, result.revision) == (f"{REPO}:Q4_K_M", commit)
    assert (result.size_bytes, result.fetched_bytes) == (100_000, 100_000)
    assert seen[-1] == (100_000, 100_000, "moe-Q4_K_M.gguf")
    n_requests = len(world.server.log)
    assert pull(world).fetched_bytes == 0
    assert len(world.server.log) == n_requests + 1  # only the listing


def test_three_shards_in_a_folder_with_sidecars(world: HubWorld) -> None:
    files = sharded("UD-Q4_K_XL", folder="UD-Q4_K_XL/")
    eyes = {"mmproj-BF16.gguf": noise(5000, 7), "mmproj-F16.gguf": noise(5000, 8)}
    world.server.put(REPO, {**files, **eyes, "moe-Q8_0.gguf": b"other"})
    result = pull(world, f"{REPO}:q4_k_xl", include=["mmproj"])
    assert_exact(world, result, {**files, "mmproj-F16.gguf": eyes["mmproj-F16.gguf"]})
    (local,) = list_local(world.cache_dir)
    assert [p.name for p in local.sidecars] == ["mmproj-F16.gguf"]
    with pytest.raises(NotFound, match="has no draft file"):
        pull(world, include=["draft"])


def test_huggingface_hub_finds_what_was_pulled_and_the_other_way_round(world: HubWorld) -> None:
    files = {"moe-Q4_K_M.gguf": noise(50_000), "moe-Q8_0.gguf": noise(60_000, 2)}
    world.server.put(REPO, files)
    result = pull(world)
    code = f"""
from huggingface_hub import hf_hub_download, scan_cache_dir
print(hf_hub_download("{REPO}", "moe-Q4_K_M.gguf", local_files_only=True))
print(hf_hub_download("{REPO}", "moe-Q8_0.gguf"))
cache = scan_cache_dir()
print(len(cache.warnings), sum(r.nb_files for r in cache.repos))
"""
    out, err = world.start(code).communicate(timeout=30)
    ours, theirs, scan = out.split("\n")[:3]
    assert (ours, scan) == (str(result.paths[0]), "0 2"), err
    # Theirs was never hashed: it is listed as such, and the next pull hashes it instead of fetching it.
    pulled = {m.quant: m for m in list_local(world.cache_dir)}
    assert (pulled["Q4_K_M"].verified, pulled["Q8_0"].verified) == (True, False)
    again = pull(world, f"{REPO}:Q8_0")
    assert (str(again.paths[0]), again.fetched_bytes) == (theirs, 0)
    assert list_local(world.cache_dir)[1].verified


def test_small_files_that_git_itself_holds_are_verified_too(world: HubWorld) -> None:
    data = noise(3000)
    world.server.put(REPO, {"tiny-Q8_0.gguf": data})
    world.server.repos[REPO].in_git.add("tiny-Q8_0.gguf")
    result = pull(world)
    assert result.paths[0].resolve().name == git_oid(data)
    world.server.put(REPO, {"tiny-Q8_0.gguf": data[::-1]})
    world.server.fault("/resolve/", corrupt_at=5)
    with pytest.raises(VerificationFailed):
        pull(world)


def test_the_token_goes_to_the_hub_and_nowhere_else(world: HubWorld) -> None:
    world.server.put(REPO, {"moe-Q4_K_M.gguf": noise(1000)}, token=TOKEN)
    world.hub = replace(world.hub, token=TOKEN)
    pull(world)
    by_place = {("/cdn/" in entry.url, entry.has_token) for entry in world.server.log}
    assert by_place == {(False, True), (True, False)}
    kept = [p for p in world.home.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    assert kept == []
    assert TOKEN not in repr(world.hub)


def test_names_pick_files(world: HubWorld) -> None:
    world.server.put(REPO, {"moe-Q8_0.gguf": b"8", "moe-UD-Q4_K_XL.gguf": b"4x", "moe-IQ2_XS.gguf": b"2"})
    for name, quant in [
        (REPO, "UD-Q4_K_XL"),
        (f"{REPO}:q8", "Q8_0"),
        (f"{REPO}/moe-IQ2_XS.gguf", "IQ2_XS"),
        (f"https://huggingface.co/{REPO}/blob/main/moe-Q8_0.gguf", "Q8_0"),
        ("moe:iq2xs", "IQ2_XS"),  # short, since one of the repo's files is here by now
    ]:
        assert pull(world, name).quant == quant
    chosen = pull(world, dry_run=True, choose=lambda listing: listing.quants[-1])
    assert (chosen.dry_run, chosen.paths) == (True, ())
    with pytest.raises(NotFound) as caught:
        pull(world, f"{REPO}:Q5_K_M")
    assert caught.value.exit_code == 5
    assert "UD-Q4_K_XL" in caught.value.hint


def test_dry_run_writes_nothing(world: HubWorld) -> None:
    world.server.put(REPO, sharded())
    result = pull(world, dry_run=True)
    assert (len(result.files), result.size_bytes, result.fetched_bytes) == (3, 600_006, 0)
    assert not world.cache_dir.exists()


# ---- what is resumed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["closed", "reset", "stalled"])
def test_drops_are_resumed_within_one_pull(world: HubWorld, how: str) -> None:
    files = {"moe-Q8_0.gguf": noise(400_000)}
    world.server.put(REPO, files)
    key = "stall_after" if how == "stalled" else "drop_after"
    world.server.fault("/cdn/", times=2, reset=how == "reset", **{key: 90_000})
    world.hub = replace(world.hub, timeout_s=0.3)
    assert_exact(world, pull(world), files)
    ranges = [entry.range for entry in world.server.bodies()]
    assert ranges[0] == ""
    assert len(ranges) == 3
    assert all(r.startswith("bytes=") and r != "bytes=0-399999" for r in ranges[1:])


def test_drops_at_many_random_points_cost_nothing_twice(world: HubWorld) -> None:
    rng = random.Random(4)
    size = 120_000
    for attempt in range(12):
        repo = f"org/r{attempt}"
        files = {"m-Q8_0.gguf": noise(size, attempt)}
        world.server.put(repo, files)
        world.server.faults = [fault := world.server.fault(f"/cdn/org%2Fr{attempt}/", times=1)]
        fault.drop_after = rng.randrange(size)
        before = len(world.server.log)
        assert_exact(world, pull(world, repo), files)
        sent = sum(e.sent_bytes for e in world.server.log[before:] if "/cdn/" in e.url)
        assert sent <= size + 20_000  # what was on its way when the line broke


def test_the_next_pull_continues_where_the_last_gave_up(world: HubWorld) -> None:
    files = {"moe-Q8_0.gguf": noise(300_000)}
    world.server.put(REPO, files)
    world.server.fault("/cdn/", times=1, drop_after=200_000)
    world.hub = replace(world.hub, retry=Retry(attempts=1))
    with pytest.raises(HubError):
        pull(world)
    assert world.final_files() == {}
    (partial,) = world.cache_dir.rglob("*.incomplete")
    had = partial.stat().st_size
    assert had > 100_000
    world.hub = replace(world.hub, retry=QUICK)
    result = pull(world)
    assert_exact(world, result, files)
    assert result.fetched_bytes == 300_000 - had
    assert world.server.bodies()[-1].range == f"bytes={had}-299999"


def test_killed_in_the_middle_and_continued(world: HubWorld) -> None:
    files = sharded(n=3, size=200_000)
    world.server.put(REPO, files)
    for stall, arrived in ((50_000, 150_000), (60_000, 330_000)):
        world.server.faults = []
        world.server.fault("/cdn/", stall_after=stall)
        child = world.start(PULL, REPO)
        wait_for(lambda n=arrived: partial_bytes(world) == n)
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=10)
        assert world.final_files() == {}
        assert list_local(world.cache_dir) == ()
    world.server.faults = []
    result = pull(world)
    assert_exact(world, result, files)
    assert result.fetched_bytes == result.size_bytes - 330_000


def partial_bytes(world: HubWorld) -> int:
    return sum(p.stat().st_size for p in world.cache_dir.rglob("*.incomplete"))


def wait_for(condition: object, timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def test_ctrl_c_keeps_what_has_arrived(world: HubWorld) -> None:
    files = sharded(n=2, size=200_000)
    world.server.put(REPO, files)
    fault = world.server.fault("/cdn/", stall_after=80_000)
    child = world.start(
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + PULL, REPO
    )
    wait_for(lambda: partial_bytes(world) == 160_000)
    child.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, err = child.communicate(timeout=10)
    assert time.monotonic() - started < 8, "a silent server must not hold up Ctrl-C"
    assert "KeyboardInterrupt" in err
    fault.times = 0
    assert pull(world).fetched_bytes == 400_003 - 160_000


def test_a_server_that_knows_no_ranges_starts_over(world: HubWorld) -> None:
    files = {"moe-Q8_0.gguf": noise(200_000)}
    world.server.put(REPO, files)
    world.server.fault("/cdn/", times=1, drop_after=100_000)
    world.server.fault("/cdn/", ignore_range=True)
    seen: list[int] = []
    result = pull(world, on_progress=lambda done, total, file: seen.append(done))
    assert_exact(world, result, files)
    assert seen[-1] == 200_000


def test_a_damaged_leftover_is_noticed_and_fetched_again(world: HubWorld) -> None:
    files = {"moe-Q8_0.gguf": noise(200_000)}
    world.server.put(REPO, files)
    partial = blobs(world) / f"{sha256(files['moe-Q8_0.gguf'])}.moetool.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(bytes(150_000))  # what a power cut can leave: a length without the bytes
    result = pull(world)
    assert_exact(world, result, files)
    assert "damaged" in result.notices[0]
    # And one that is longer than the file is no beginning of it.
    world.server.put("org/two", {"two-Q8_0.gguf": b"short"})
    partial = world.cache_dir / "models--org--two/blobs" / f"{sha256(b'short')}.moetool.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"much longer")
    assert_exact(world, pull(world, "org/two"), {"two-Q8_0.gguf": b"short"})


def blobs(world: HubWorld) -> Path:
    return world.cache_dir / f"models--{REPO.replace('/', '--')}" / "blobs"


def test_a_damaged_copy_of_another_tool_is_replaced(world: HubWorld) -> None:
    files = {"moe-Q8_0.gguf": noise(50_000)}
    world.server.put(REPO, files)
    blob = blobs(world) / sha256(files["moe-Q8_0.gguf"])
    blob.parent.mkdir(parents=True)
    blob.write_bytes(noise(50_000, 99))
    result = pull(world)
    assert_exact(world, result, files)
    assert "damaged; it was removed" in result.notices[0]


def test_changed_on_the_hub_between_two_attempts(world: HubWorld) -> None:
    world.server.put(REPO, {"moe-Q8_0.gguf": noise(200_000, 1)})
    world.server.fault("/cdn/", drop_after=100_000)
    with pytest.raises(HubError):
        pull(replace_retry(world, 1))
    world.server.faults = []
    files = {"moe-Q8_0.gguf": noise(200_000, 2)}
    world.server.put(REPO, files)
    result = pull(world)
    assert_exact(world, result, files)
    assert "was changed on the Hub" in result.notices[0]
    assert result.fetched_bytes == 200_000


def replace_retry(world: HubWorld, attempts: int) -> HubWorld:
    world.hub = replace(world.hub, retry=replace(QUICK, attempts=attempts))
    return world


def test_changed_on_the_hub_in_the_middle(world: HubWorld) -> None:
    """A mirror that forgets old commits: after the drop it states another hash for the same address."""
    world.server.put(REPO, {"moe-Q8_0.gguf": noise(200_000, 1)})
    files = {"moe-Q8_0.gguf": noise(200_000, 2)}

    def replaced(done: int, total: int, file: str) -> None:
        if len(world.server.repos[REPO].commits) == 1:
            world.server.put(REPO, files)
            world.server.fault("/resolve/", times=1, etag=sha256(files["moe-Q8_0.gguf"]))

    world.server.fault("/cdn/", times=1, drop_after=100_000)
    result = pull(world, on_progress=replaced)
    assert_exact(world, result, files)
    assert "now has another hash than was listed" in result.notices[0]
    assert "was changed on the Hub" in result.notices[1]


def test_two_pulls_at_once(world: HubWorld) -> None:
    files = sharded(n=2, size=300_000)
    world.server.put(REPO, files)
    world.server.fault("/cdn/", bytes_per_s=3e6)
    children = [world.start(PULL, REPO) for _ in range(2)]
    ended = [child.communicate(timeout=30) for child in children]
    assert [child.returncode for child in children] == [0, 0], ended
    assert sum(int(out) for out, _ in ended) == 600_003  # one waited for the other's bytes
    assert_exact(world, pull(world), files)


def test_two_threads_of_one_process(world: HubWorld) -> None:
    files = sharded(n=2, size=100_000)
    world.server.put(REPO, files)
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: pull(world), range(3)))
    assert sum(r.fetched_bytes for r in results) == 200_003
    assert_exact(world, results[0], files)


# ---- what is refused -------------------------------------------------------------------------------------


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


# ---- what is said ----------------------------------------------------------------------------------------


def failure(world: HubWorld, name: str = REPO, **more: object) -> MoetoolError:
    with pytest.raises(MoetoolError) as caught:
        pull(world, name, **more)
    error = caught.value
    text = f"{error.message} {error.hint}"
    assert error.message.endswith(".")
    assert error.message.isprintable()
    assert len(error.message) < 200
    assert not any(word in text for word in (TOKEN, "http://127", "Traceback", "sig=x", "httpx"))
    return error


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
    assert "hf auth login" in no_token.hint
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


def test_retry_after_is_obeyed_unless_it_is_too_long(world: HubWorld) -> None:
    world.server.put(REPO, {"moe-Q8_0.gguf": noise(1000)})
    fault = world.server.fault("/api/", times=1, status=429, headers={"Retry-After": "1"})
    started = time.monotonic()
    pull(world, dry_run=True)
    assert time.monotonic() - started >= 1
    fault.times, fault.headers = 1, {"Retry-After": "3600"}
    started = time.monotonic()
    assert "asks to wait 3600 s" in failure(world).message
    assert time.monotonic() - started < 60
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


def test_a_hub_that_cannot_be_reached(world: HubWorld) -> None:
    world.server.put(REPO, {"moe-Q8_0.gguf": noise(1000)})
    silent = world.server.fault("/api/", stall_after=0)
    world.hub = replace(world.hub, timeout_s=0.2)
    assert "was silent for 0.2 s" in failure(world).message
    silent.times = 0
    world.hub = replace(world.hub, endpoint="http://127.0.0.1:9", timeout_s=30)
    started = time.monotonic()
    error = failure(world)
    assert "cannot be reached" in error.message
    assert "moetool list" in error.hint
    assert time.monotonic() - started < 10
    world.hub = replace(world.hub, offline=True)
    assert "HF_HUB_OFFLINE" in failure(world).message


@pytest.mark.parametrize("how", ["offline", "dead"])
def test_without_a_hub_what_is_here_is_taken_at_once(world: HubWorld, how: str) -> None:
    files = {"moe-Q8_0.gguf": noise(1000)}
    world.server.put(REPO, files)
    pull(world)
    dead = replace(world.hub, endpoint="http://127.0.0.1:9")
    world.hub = dead if how == "dead" else replace(world.hub, offline=True)
    n_requests = len(world.server.log)
    started = time.monotonic()
    result = pull(world, "moe")
    assert time.monotonic() - started < 2.5
    assert (result.fetched_bytes, len(world.server.log)) == (0, n_requests)
    assert result.paths[0].read_bytes() == files["moe-Q8_0.gguf"]
    assert "may not be the newest" in result.notices[0]
    if how == "dead":
        return
    child = world.start(PULL, REPO, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert (child.communicate(timeout=20)[0].strip(), child.returncode) == ("0", 0)


# ---- hostile repos ---------------------------------------------------------------------------------------

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
    assert "longer than 16 MiB" in failure(world).message
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


# ---- remote headers --------------------------------------------------------------------------------------


def remote(world: HubWorld, data: bytes) -> HttpRangeFile:
    world.server.put(REPO, {"moe-Q8_0.gguf": data})
    listing: RepoListing = list_files(world.hub, REPO)
    quant = select_quant(listing, parse_model_name(REPO))
    return open_remote(world.hub, REPO, listing.commit, quant.files[0])


def test_a_remote_file_reads_like_a_local_one(world: HubWorld) -> None:
    data = noise(500_000)
    far, near = remote(world, data), io.BytesIO(data)
    rng = random.Random(3)
    for _ in range(60):
        offset, n = rng.randrange(-10, 520_000), rng.choice([0, 1, 7, 1000, 70_000])
        assert far.seek(max(0, offset)) == near.seek(max(0, offset))
        assert far.read(n) == near.read(n)
        assert far.tell() == near.tell()
    assert far.seek(-5, io.SEEK_END) == 499_995
    assert far.read() == data[-5:]
    assert far.size_bytes == 500_000


def test_a_gguf_header_is_read_from_afar(world: HubWorld) -> None:
    words = strings([f"token {i}" for i in range(30_000)])
    keys = {"general.architecture": text("qwen3moe"), "tokenizer.ggml.tokens": words}
    built = Builder(metadata=keys, tensors=[Row("output.weight", [4, 4])])
    data = built.file(3_000_000)
    far = remote(world, data)
    header = read_header(far, far.size_bytes)
    assert header == read_header(io.BytesIO(data))
    assert header.arch == "qwen3moe"
    assert 540_000 < far.fetched_bytes < 1_100_000
    assert far.n_requests <= 5


def test_a_cache_folder_that_cannot_be_one(world: HubWorld, tmp_path: Path) -> None:
    world.server.put(REPO, {"moe-Q8_0.gguf": noise(1000)})
    (tmp_path / "file").write_bytes(b"")
    world.hub = replace(world.hub, cache_dir=tmp_path / "file" / "hub")
    assert "cannot be stored" in failure(world).message


def test_a_header_costs_little_more_than_its_bytes(world: HubWorld) -> None:
    far = remote(world, noise(20_000_000))
    far.read(24)
    assert (far.fetched_bytes, far.n_requests) == (65_536, 1)
    for _ in range(100):
        far.read(10_000)
    assert far.fetched_bytes < 2_200_000
    assert far.n_requests <= 6
    far.seek(0)
    far.read(500_000)
    assert far.n_requests <= 6  # what was read is kept
    redirects = [e for e in world.server.log if "/resolve/" in e.url]
    assert len(redirects) == 1  # later requests go where the first was sent


def test_a_remote_file_survives_drops_and_expired_addresses(world: HubWorld) -> None:
    data = noise(400_000)
    far = remote(world, data)
    world.server.fault("/cdn/", times=1, drop_after=10_000)
    assert far.read(100) == data[:100]
    world.server.fault("/cdn/", times=1, status=403)
    far.seek(200_000)
    assert far.read(100) == data[200_000:200_100]
    world.server.fault("/cdn/", longer_by=1)
    far.seek(350_000)
    with pytest.raises(VerificationFailed, match="400001 bytes now"):
        far.read(50_000)


def test_the_hub_of_the_environment(world: HubWorld) -> None:
    code = (
        "from moetool.hub import read_hub; h = read_hub(); print(h.endpoint, h.cache_dir, h.token, h.offline)"
    )
    out, err = world.start(code, HF_TOKEN=TOKEN).communicate(timeout=20)
    assert out.split() == [world.server.url, str(world.cache_dir), TOKEN, "False"], err
    _, err = world.start(code, HF_ENDPOINT="huggingface.co").communicate(timeout=20)
    assert "HF_ENDPOINT is not the address of a Hub" in err
    assert Hub("https://user:secret@mirror.example", Path()).place == "mirror.example"


MAIN = "import sys; from moetool.__main__ import main; sys.exit(main())"


def test_the_command_says_it_all_in_one_document(world: HubWorld) -> None:
    files = sharded(n=3)
    commit = world.server.put(REPO, files)
    fault = world.server.fault("00002-of-00003", corrupt_at=9)
    child = world.start(MAIN, "pull", f"{REPO}:q8", "-o", "json")
    document = json.loads(child.communicate(timeout=30)[0])
    assert (child.returncode, document["exit_code"], document["errors"][0]["code"]) == (6, 6, "verification")
    fault.times = 0
    child = world.start(MAIN, "pull", f"{REPO}:q8", "-o", "json")
    out, err = child.communicate(timeout=30)
    assert child.returncode == 0, err
    data = json.loads(out)["data"]
    assert (data["repo"], data["quant"], data["revision"]) == (REPO, "Q8_0", commit)
    assert data["size_bytes"] == 600_006
