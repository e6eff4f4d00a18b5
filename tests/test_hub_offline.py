"""Without a Hub: what is on this disk is taken at once, and what is not is said so."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hub_fixture import PULL, REPO, HubWorld, failure, noise, pull


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


def test_without_a_hub_several_that_are_here_are_named(world: HubWorld) -> None:
    world.server.put(REPO, {"moe-Q8_0.gguf": noise(1000), "moe-Q4_0.gguf": noise(500), "moe-F16.gguf": b"x"})
    pull(world, f"{REPO}:Q8_0")
    pull(world, f"{REPO}:Q4_0")
    world.hub = replace(world.hub, offline=True)
    error = failure(world)
    assert (error.exit_code, "could be any of several on this disk" in error.message) == (5, True)
    assert "F16" not in error.message
    assert "HF_HUB_OFFLINE" in failure(world, f"{REPO}:F16").message


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
    assert "mmproj" in pull(world, "moe", include=["mmproj"]).notices[1]
    if how == "dead":
        return
    child = world.start(PULL, REPO, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert (child.communicate(timeout=20)[0].strip(), child.returncode) == ("0", 0)
