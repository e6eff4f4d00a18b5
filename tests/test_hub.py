"""Pulls from a real server: what arrives, which files a name means, where the token goes, what is said."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hub_fixture import PULL, REPO, TOKEN, HubWorld, assert_exact, noise, pull, sharded
from hub_server import git_oid

from moetool.errors import HubError, NotFound, VerificationFailed
from moetool.hub import Hub, read_hub
from moetool.store import list_local


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


@pytest.mark.parametrize(
    "endpoint", ["huggingface.co", "ftp://x", "http://", "http://[::1", "http://x:99999", "http://x/\x1b[2J"]
)
def test_an_endpoint_that_is_none(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    with pytest.raises(HubError, match="HF_ENDPOINT is not the address of a Hub"):
        read_hub()


def test_a_token_that_cannot_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_s\N{LATIN SMALL LETTER E WITH ACUTE}cret")
    with pytest.raises(HubError, match="letters that no token has") as caught:
        read_hub()
    assert "cret" not in caught.value.message


def test_a_repo_is_one_however_its_name_is_typed(world: HubWorld) -> None:
    world.server.put(REPO, {"moe-Q8_0.gguf": noise(1000)})
    assert pull(world, REPO.lower()).repo == REPO
    assert pull(world, REPO.upper()).fetched_bytes == 0
    assert [p.name for p in world.cache_dir.glob("models--*")] == ["models--org--Moe-GGUF"]


def test_the_hub_of_the_environment(world: HubWorld) -> None:
    code = (
        "from moetool.hub import read_hub; h = read_hub(); print(h.endpoint, h.cache_dir, h.token, h.offline)"
    )
    out, err = world.start(code, HF_TOKEN=TOKEN).communicate(timeout=20)
    assert out.split() == [world.server.url, str(world.cache_dir), TOKEN, "False"], err
    _, err = world.start(code, HF_ENDPOINT="http://[::1").communicate(timeout=20)
    assert "HF_ENDPOINT is not the address of a Hub" in err
    assert Hub("https://user:secret@mirror.example", Path()).place == "mirror.example"
