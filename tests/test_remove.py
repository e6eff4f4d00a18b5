"""`moetool rm`: what goes, what stays because something else uses it, and what it says and asks."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from cli_fixture import Moetool
from hub_fixture import REPO, HubWorld, blobs, failure, noise, partial_bytes, pull, sharded, wait_for
from hub_server import sha256
from test_store import NEW, OLD, find, put

from moetool.cli.rm import rm
from moetool.errors import MoetoolError
from moetool.store import Removal, list_local, plan_leftovers, plan_removal, remove


def removal_of(name: str, cache: Path) -> Removal:
    model = find(name, cache)
    assert model is not None
    return plan_removal(model, cache)


def test_nothing_is_left_of_a_pulled_model(world: HubWorld) -> None:
    world.server.put(REPO, {**sharded(n=2, folder="Q8_0/"), "mmproj-F16.gguf": noise(500)})
    pull(world, include=["mmproj"])
    removal = removal_of(REPO, world.cache_dir)
    assert (len(removal.names), removal.freed_bytes, removal.kept_bytes) == (3, 400_503, 0)
    remove(removal, world.cache_dir)
    assert list_local(world.cache_dir) == ()
    left = [p for p in world.cache_dir.rglob("*") if p.is_file() and ".locks" not in p.parts]
    assert left == []
    assert pull(world).fetched_bytes == 400_003  # and it can be had again


def test_other_models_of_the_repo_stay(world: HubWorld) -> None:
    world.server.put(
        REPO, {"a-Q8_0.gguf": noise(800), "a-Q4_0.gguf": noise(400), "mmproj-F16.gguf": noise(50)}
    )
    pull(world, f"{REPO}:q8", include=["mmproj"])
    lock = pull(world, f"{REPO}:q4").lock_path
    removal = removal_of(f"{REPO}:q8", world.cache_dir)
    assert (len(removal.names), removal.freed_bytes) == (1, 800)
    remove(removal, world.cache_dir)
    (model,) = list_local(world.cache_dir)
    assert (model.quant, model.verified) == ("Q4_0", True)
    assert [p.name for p in model.sidecars] == ["mmproj-F16.gguf"]
    assert list(world.cache_dir.rglob("*.lock.json")) == [lock]


def test_bytes_that_another_revision_uses_stay(tmp_path: Path) -> None:
    put(tmp_path, "org/a", "a-Q8_0.gguf", b"same", OLD)
    root = tmp_path / "models--org--a"
    link = root / "snapshots" / NEW / "a-Q8_0.gguf"
    link.parent.mkdir()
    link.symlink_to(f"../../blobs/{sha256(b'same')}")
    (root / "refs" / "main").write_text(NEW)
    first = removal_of("org/a", tmp_path)
    assert (first.names, first.contents, first.freed_bytes, first.kept_bytes) == ((link,), (), 0, 4)
    remove(first, tmp_path)
    assert not (root / "refs" / "main").exists()
    (model,) = list_local(tmp_path)
    assert (model.revision, model.paths[0].read_bytes()) == (OLD, b"same")
    second = removal_of("org/a", tmp_path)
    assert second.freed_bytes == 4
    remove(second, tmp_path)
    assert not root.exists()


def test_content_that_repos_share(tmp_path: Path) -> None:
    shared = tmp_path / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    shared.write_bytes(b"same")
    shared.with_name(shared.name + ".refs").write_text("…")
    for repo in ("org/a", "org/b"):
        blob = put(tmp_path, repo, "m-Q8_0.gguf", b"same").resolve()
        blob.unlink()
        blob.symlink_to(os.path.relpath(shared, blob.parent))
    first = removal_of("org/a", tmp_path)
    assert (first.freed_bytes, first.kept_bytes) == (0, 4)
    remove(first, tmp_path)
    assert find("org/b", tmp_path).paths[0].read_bytes() == b"same"  # type: ignore[union-attr]
    second = removal_of("org/b", tmp_path)
    assert second.freed_bytes == 4
    remove(second, tmp_path)
    assert [p for p in tmp_path.rglob("*") if not p.is_dir()] == []


def test_nothing_outside_of_the_repo_goes(tmp_path: Path) -> None:
    """A link that leads elsewhere loses its name, and what it leads to stays."""
    cache, precious = tmp_path / "cache", tmp_path / "blobs" / ("a" * 64)
    precious.parent.mkdir()
    precious.write_bytes(b"precious")
    link = put(cache, "org/a", "a-Q8_0.gguf", b"x")
    link.unlink()
    link.symlink_to(precious)
    remove(removal_of("org/a", cache), cache)
    assert precious.read_bytes() == b"precious"
    assert list_local(cache) == ()


def test_what_an_unfinished_pull_has_left(world: HubWorld) -> None:
    world.server.put(REPO, {"moe-Q8_0.gguf": noise(200_000)})
    world.server.fault("/cdn/", drop_after=100_000)
    world.hub = replace(world.hub, retry=replace(world.hub.retry, attempts=1))
    failure(world)
    left = plan_leftovers(REPO, world.cache_dir)
    assert left is not None
    assert 50_000 < left.freed_bytes <= 100_000
    remove(left, world.cache_dir)
    assert plan_leftovers(REPO, world.cache_dir) is None
    assert not (world.cache_dir / "models--org--Moe-GGUF").exists()


def test_whole_shards_of_an_unfinished_pull_are_left_too(world: HubWorld) -> None:
    world.server.put(REPO, sharded(n=3))
    world.server.fault("00003-of-00003", status=404)
    world.hub = replace(world.hub, n_parallel=1)
    failure(world)
    put(world.cache_dir, REPO, "of-another-tool.bin", b"x" * 10)
    left = plan_leftovers(REPO, world.cache_dir)
    assert left is not None
    assert left.freed_bytes == 200_001 + 200_002
    remove(left, world.cache_dir)
    assert plan_leftovers(REPO, world.cache_dir) is None
    assert [p.read_bytes() for p in blobs(world).iterdir()] == [b"x" * 10]


def test_leftovers_go_for_the_name_of_one_quant_only_after_asking(
    world: HubWorld, moetool_here: Moetool
) -> None:
    world.server.put(REPO, {"moe-Q8_0.gguf": noise(200_000)})
    world.server.fault("/cdn/", drop_after=100_000)
    world.hub = replace(world.hub, retry=replace(world.hub.retry, attempts=1))
    failure(world)
    cache = {"HF_HUB_CACHE": str(world.cache_dir)}
    other = moetool_here("rm", f"{REPO}:Q4_K_M", "--yes", **cache)
    assert other.code == 5
    assert "unfinished pulls of org/Moe-GGUF have left" in other.err
    assert "without --yes" in other.err
    assert plan_leftovers(REPO, world.cache_dir) is not None
    assert moetool_here("rm", REPO, "--yes", **cache).code == 0
    assert plan_leftovers(REPO, world.cache_dir) is None


def test_what_is_being_pulled_stays(world: HubWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.server.put(REPO, {"moe-Q8_0.gguf": noise(200_000)})
    monkeypatch.setenv("HF_HUB_CACHE", str(world.cache_dir))
    slow = world.server.fault("/cdn/", stall_after=100_000)
    pulling = threading.Thread(target=pull, args=(world,))
    pulling.start()
    wait_for(lambda: partial_bytes(world) > 0)
    with pytest.raises(MoetoolError, match="is being pulled right now; nothing was removed"):
        rm(REPO, yes=True)
    slow.times = 0
    world.server.closing.set()  # the silent connection ends, and the pull goes on
    pulling.join(timeout=20)
    assert len(list_local(world.cache_dir)) == 1
    rm(REPO, yes=True)
    assert list_local(world.cache_dir) == ()


def test_what_changed_since_the_question_stays(world: HubWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.server.put(REPO, {"moe-Q8_0.gguf": noise(300)})
    monkeypatch.setenv("HF_HUB_CACHE", str(world.cache_dir))
    pull(world)

    def agrees(*asked: object) -> bool:
        world.server.put(REPO, {"moe-Q8_0.gguf": noise(300), "README.md": b"new"})
        pull(world)  # another revision has the same bytes now
        return True

    monkeypatch.setattr("moetool.cli.rm._agrees", agrees)
    with pytest.raises(MoetoolError, match="has just changed; nothing was removed"):
        rm(REPO)
    assert [p.read_bytes() for p in blobs(world).iterdir()] == [noise(300)]


def test_a_pull_notices_what_is_removed_under_its_hands(world: HubWorld) -> None:
    world.server.put(REPO, {"moe-Q8_0.gguf": noise(300)})
    pull(world)

    def removed(*progress: object) -> None:
        for blob in blobs(world).iterdir():
            blob.unlink()

    assert "was removed while it was being pulled" in failure(world, on_progress=removed).message
    assert not any(path.is_symlink() for path in world.cache_dir.rglob("*.gguf"))  # leading nowhere
    assert pull(world).fetched_bytes == 300


def test_the_command_asks_unless_told(moetool_here: Moetool, tmp_path: Path) -> None:
    cache = tmp_path / "hf" / "hub"
    put(cache, "org/a-GGUF", "a-Q8_0.gguf", b"x" * 3000)
    unasked = moetool_here("rm", "a")
    assert (unasked.code, "--yes" in unasked.err, len(list_local(cache))) == (2, True, 1)
    assert moetool_here("rm", "a", "-o", "json").code == 2
    gone = moetool_here("rm", "a", "--yes")
    assert (gone.code, gone.out) == (0, "Removed org/a-GGUF:Q8_0, 1 file: freed 2.93 KiB.\n")
    again = moetool_here("rm", "org/a-GGUF", "--yes", "-o", "json")
    assert (again.code, again.document["errors"][0]["code"]) == (5, "not-found")
    put(cache, "org/a-GGUF", "a-Q8_0.gguf", b"x" * 3000)
    data = moetool_here("rm", "a", "--yes", "-o", "json").document["data"]
    assert (data["name"], data["freed_bytes"]) == ("org/a-GGUF:Q8_0", 3000)
    for name in ("demo", "./file.gguf"):
        assert moetool_here("rm", name, "--yes").code == 2


@pytest.mark.parametrize("where", ["blobs", "snapshots"])
def test_a_crash_in_the_middle_leaves_nothing_hidden(tmp_path: Path, where: str) -> None:
    link = put(tmp_path, "org/a", "a-Q8_0.gguf", b"data")
    put(tmp_path, "org/a", "a-Q4_0.gguf", b"other")
    removal = removal_of("org/a:q8", tmp_path)
    if where == "snapshots":
        link.resolve().unlink()  # as far as it came
        assert [m.quant for m in list_local(tmp_path)] == ["Q4_0"]
    remove(removal, tmp_path)
    remove(removal, tmp_path)  # a second time is no error
    assert [m.quant for m in list_local(tmp_path)] == ["Q4_0"]
