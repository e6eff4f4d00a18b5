"""Interrupted downloads, against a real server: drops, kills, changed files, damaged leftovers."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import replace

import pytest
from hub_fixture import (
    PULL,
    QUICK,
    REPO,
    HubWorld,
    assert_exact,
    blobs,
    noise,
    partial_bytes,
    pull,
    replace_retry,
    sharded,
    wait_for,
)
from hub_server import sha256

from moetool.errors import HubError
from moetool.hub import Retry
from moetool.store import list_local


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
