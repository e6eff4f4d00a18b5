"""Xet through the real hf_xet: its bytes are hashed like any others; where it fails, plain HTTP goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hub_fixture import PULL, REPO, TOKEN, HubWorld, assert_exact, noise, pull, wait_for
from hub_server import Logged

from moetool.errors import VerificationFailed
from moetool.store import list_local

pytest.importorskip("hf_xet")

SIZE = 5_000_000  # two xorbs
FILES = {"moe-Q8_0.gguf": noise(SIZE)}


@pytest.fixture
def xet(world: HubWorld) -> HubWorld:
    """A Hub that has one repo in Xet, and a client that may use it."""
    world.server.put(REPO, FILES)
    world.server.xet.add(REPO)
    world.hub = replace(world.hub, uses_xet=True)
    return world


def sent(world: HubWorld, where: str) -> list[Logged]:
    return [entry for entry in world.server.log if where in entry.url and entry.sent_bytes]


def test_the_bytes_come_from_the_content_store_and_are_verified(xet: HubWorld) -> None:
    result = pull(xet)
    assert_exact(xet, result, FILES)
    assert result.fetched_bytes == SIZE
    assert sent(xet, "/cas/xorbs/")
    assert xet.server.bodies() == []


def test_a_partial_file_is_continued(xet: HubWorld) -> None:
    xet.server.fault("/cas/xorbs/", status=503)
    xet.server.fault("/cdn/", times=1, drop_after=4_500_000)
    xet.hub = replace(xet.hub, retry=replace(xet.hub.retry, attempts=1))
    with pytest.raises(Exception, match="ended early|broke"):
        pull(xet)
    (partial,) = xet.cache_dir.rglob("*.incomplete")
    had = partial.stat().st_size
    xet.server.faults, xet.server.log = [], []
    result = pull(xet)
    assert_exact(xet, result, FILES)
    assert result.fetched_bytes == SIZE - had
    assert sent(xet, "reconstructions")[0].range == f"bytes={had}-{SIZE - 1}"


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        ("/cas/v1", {"status": 503}),
        ("/cas/xorbs/", {"drop_after": 1000}),
        ("xet-read-token", {"status": 403}),
        ("xet-read-token", {"status": 500}),
    ],
)
def test_where_xet_fails_plain_http_goes_on(xet: HubWorld, where: str, fault: dict[str, int]) -> None:
    xet.server.fault(where, **fault)
    result = pull(xet)
    assert_exact(xet, result, FILES)
    assert result.fetched_bytes == SIZE
    assert xet.server.bodies()


def test_wrong_bytes_are_fetched_again_by_plain_http(xet: HubWorld) -> None:
    xet.server.fault("/cas/xorbs/", corrupt_at=100_000)
    result = pull(xet)
    assert_exact(xet, result, FILES)
    assert result.notices == ("What had arrived of moe-Q8_0.gguf was damaged; it was fetched again.",)
    assert sum(entry.sent_bytes for entry in xet.server.bodies()) == SIZE


def test_bytes_that_are_wrong_either_way_are_refused(xet: HubWorld) -> None:
    xet.server.fault("/cas/xorbs/", corrupt_at=100_000)
    xet.server.fault("/cdn/", corrupt_at=100_000)
    with pytest.raises(VerificationFailed, match="its SHA-256 is another"):
        pull(xet)
    assert xet.final_files() == {}
    assert list_local(xet.cache_dir) == ()


@pytest.mark.parametrize(
    "header",
    [
        {"X-Xet-Cas-Url": "local:///etc"},
        {"X-Xet-Cas-Url": ""},
        {"X-Xet-Token-Expiration": "soon"},
    ],
)
def test_odd_answers_about_xet_are_not_followed(
    xet: HubWorld, header: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xet.server, "xet_pass", {**xet.server.xet_pass, **header})
    assert_exact(xet, pull(xet), FILES)
    assert sent(xet, "/cas/") == []


def test_the_accounts_token_goes_to_the_hub_only(xet: HubWorld) -> None:
    xet.server.put(REPO, FILES, token=TOKEN)
    xet.server.xet_refresh = "http://localhost:{port}/api/models/x/xet-read-token/main"
    xet.hub = replace(xet.hub, token=TOKEN)
    assert_exact(xet, pull(xet), FILES)
    assert sent(xet, "xet-read-token") == []


def test_a_pull_in_a_process_of_its_own_keeps_the_token_to_itself(xet: HubWorld) -> None:
    """Through the environment, with a broken transfer and all that hf_xet writes beside the cache."""
    xet.server.put(REPO, FILES, token=TOKEN)
    fault = xet.server.fault("/cas/xorbs/", stall_after=10_000)
    more = {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "0", "RUST_LOG": "debug"}
    child = xet.start(PULL, REPO, **more)
    wait_for(lambda: len(sent(xet, "/cas/xorbs/")) > 0)
    child.terminate()
    child.communicate(timeout=10)
    fault.times = 0
    child = xet.start(PULL, REPO, **more)
    out, err = child.communicate(timeout=30)
    assert (child.returncode, TOKEN in out + err) == (0, False), err
    written = [p for p in xet.home.rglob("*") if p.is_file() and not p.is_symlink()]
    assert any("xet" in p.parts for p in written)
    assert [p for p in written if TOKEN.encode() in p.read_bytes()] == []
