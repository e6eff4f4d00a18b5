"""`moetool search` and the marks of `moetool list`: what is found, and what of it fits here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_fixture import Moetool
from hub_fixture import HubWorld
from hub_server import Hollow
from test_plan import machine
from test_store import put

from moetool.assets import demo_model_path
from moetool.errors import HubError
from moetool.fitting import make_offered, room_bytes
from moetool.hub import search_repos
from moetool.hub.search import parse_search

GIB = 1 << 30


def gguf(size_gib: float) -> Hollow:
    return Hollow.of(b"GGUF%f" % size_gib, int(size_gib * GIB))


@pytest.fixture
def full(world: HubWorld) -> HubWorld:
    put_ = world.server.put
    put_("org/Moe-30B-GGUF", {"m-Q8_0.gguf": gguf(30), "m-Q4_K_M.gguf": gguf(18), "m-Q2_K.gguf": gguf(9)})
    put_("org/Moe-1T-GGUF", {f"m-Q4_0-0000{i}-of-00002.gguf": gguf(250 + i) for i in (1, 2)})
    put_("org/Moe-original", {"model.safetensors": b"x"})
    put_("org/Half-Moe-GGUF", {"m-Q4_0-00001-of-00002.gguf": gguf(5)})
    put_("org/Moe-private-GGUF", {"m-Q8_0.gguf": gguf(1)}, token="hf_x")
    world.server.downloads = {"org/Moe-30B-GGUF": 5000, "org/Moe-1T-GGUF": 90_000}
    return world


def test_repos_of_gguf_files_the_most_downloaded_first(full: HubWorld) -> None:
    found = search_repos(full.hub, ["moe", "GGUF"], 10)
    assert [r.repo for r in found] == ["org/Moe-1T-GGUF", "org/Moe-30B-GGUF", "org/Half-Moe-GGUF"]
    assert [r.downloads for r in found] == [90_000, 5000, 0]
    assert [q.label for q in found[1].quants] == ["Q8_0", "Q4_K_M", "Q2_K"]
    assert (found[2].quants, found[2].problem) == ((), "no whole GGUF model")
    assert [r.repo for r in search_repos(full.hub, ["moe"], 1)] == ["org/Moe-1T-GGUF"]


def test_what_fits_is_told_by_size(full: HubWorld) -> None:
    offered = make_offered(search_repos(full.hub, ["moe", "GGUF"], 10), machine(24))
    assert [item.largest.label if item.largest else None for item in offered] == [None, "Q4_K_M", None]
    both = machine(8, 12)
    free = [device.free_bytes for device in both.devices]
    assert room_bytes(both) == sum(free) - 2 * (512 << 20)


def test_a_repo_that_cannot_be_listed_does_not_end_the_search(full: HubWorld) -> None:
    full.server.fault("/api/models/org/Moe-1T", status=404)
    first, second, _ = search_repos(full.hub, ["gguf"], 10)
    assert "is not on" in first.problem
    assert second.quants


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[" * 100_000, b'"x"'])
def test_answers_that_are_no_list(body: bytes) -> None:
    with pytest.raises(HubError, match="not that of a Hub"):
        parse_search(body)


def test_entries_that_make_no_sense_are_left_out() -> None:
    entries = [5, {}, {"id": 7}, {"id": "../x"}, {"id": "a/\x1b[2J"}, {"id": "org/a", "downloads": "many"}]
    assert parse_search(json.dumps(entries).encode()) == [("org/a", 0)]


def test_the_command(full: HubWorld, moetool_here: Moetool) -> None:
    where = {"HF_ENDPOINT": full.server.url}
    done = moetool_here("search", "moe", **where)
    assert done.code == 0, done.err
    head, first, second, *_ = done.out.splitlines()
    assert head.split() == ["repo", "downloads", "quants", "GiB", "fits", "here"]
    assert first.split()[:5] == ["org/Moe-1T-GGUF", "90.0", "k", "1", "503.0"]
    assert second.split()[:7] == ["org/Moe-30B-GGUF", "5.00", "k", "3", "9.0", "–", "30.0"]
    assert done.out.splitlines()[-1].startswith("moetool plan org/")
    data = moetool_here("search", "30b", "-o", "json", **where).document["data"]
    assert data["repos"][0]["quants"][0] == {"quant": "Q8_0", "size_bytes": 30 * GIB}
    assert moetool_here("search", "nothing-like-it", **where).code == 5
    assert moetool_here("search").code == 2


def test_list_says_what_a_model_is_and_whether_it_fits(moetool_here: Moetool, tmp_path: Path) -> None:
    cache = tmp_path / "hf" / "hub"
    put(cache, "org/demo-GGUF", "demo-Q8_0.gguf", demo_model_path().read_bytes())
    put(cache, "org/odd-GGUF", "odd-Q8_0.gguf", b"no header")
    done = moetool_here("list")
    assert done.code == 0, done.err
    demo, odd = done.out.splitlines()[1:]
    assert demo.split()[2:] == ["qwen3moe", "7.48", "M", "2.76", "M", "no", "yes"]
    assert odd.split()[2:] == ["header", "unreadable", "?", "?", "no", "?"]
    models = moetool_here("list", "-o", "json").document["data"]["models"]
    assert [m["fits"] for m in models] == [True, None]
    assert [
        m["verified"] for m in moetool_here("list", "--verify", "-o", "json").document["data"]["models"]
    ] == [
        True,
        True,
    ]
