"""Remote headers: what they cost, that they equal whole-header parses, and what happens when they cannot."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hub_fixture import HubWorld, world
from hub_server import Hollow, size_of
from quant_repo import QUANTS, quant_file, shard_files, vocabulary

from moetool.errors import HubError
from moetool.gguf import Header, merge_shards, read_header
from moetool.kept_headers import keep_header, read_kept_header
from moetool.names import ModelFile
from moetool.remote import RemoteHeaders, read_listing, read_remote_headers

__all__ = ["world"]  # a fixture

REPO = "org/model-GGUF"
MOE = "Qwen3-30B-A3B"
WORDS = vocabulary(150_000)
SHORT = vocabulary(20_000)
LIMIT_BYTES = 300_000


def name_of(label: str, number: int = 1, n_shards: int = 1) -> str:
    shard = f"-{number:05d}-of-{n_shards:05d}" if n_shards > 1 else ""
    return f"model-{label}{shard}.gguf"


def one_file(label: str, words: bytes = SHORT, model: str = MOE) -> dict[str, bytes]:
    return {name_of(label): quant_file(model, label, words)}


def read(world: HubWorld, folder: Path) -> RemoteHeaders:
    listing, _ = read_listing(world.hub, REPO, "main", folder)
    return read_remote_headers(world.hub, listing, listing.quants, folder)


def whole(data: bytes) -> Header:
    return read_header(io.BytesIO(data), size_of(data))


def by_label(found: RemoteHeaders) -> dict[str, Header | None]:
    return {item.quant.label: item.header for item in found.headers}


def test_twenty_quants_cost_one_whole_header_and_little_more_each(world: HubWorld, tmp_path: Path) -> None:
    files = {name_of(label): quant_file(MOE, label, WORDS) for label in QUANTS}
    world.server.put(REPO, files)  # type: ignore[arg-type]
    found = read(world, tmp_path)
    assert len(found.headers) == 20
    largest = max(len(data) for data in files.values())
    assert largest > 3_500_000
    assert found.fetched_bytes <= largest + 20 * LIMIT_BYTES
    assert all(item.fetched_bytes <= LIMIT_BYTES for item in found.headers[1:])
    assert found.fetched_bytes == sum(item.fetched_bytes for item in found.headers)
    for item in found.headers:
        assert item.header == whole(files[item.quant.files[0].path])
    # Not more was sent than is said, and no weights: only headers are stored at all.
    assert sum(entry.sent_bytes for entry in world.server.bodies()) <= found.fetched_bytes + 2 * (64 << 10)


def test_split_models_are_read_from_all_their_shards(world: HubWorld, tmp_path: Path) -> None:
    files = one_file("BF16")
    expected = {"BF16": whole(files[name_of("BF16")])}
    for label, n_shards in (("Q8_0", 2), ("Q6_K", 22)):
        shards = shard_files(MOE, label, SHORT, n_shards)
        files |= {name_of(label, n, n_shards): data for n, data in enumerate(shards, 1)}
        expected[label] = merge_shards([whole(data) for data in shards])
    world.server.put(REPO, files)
    found = read(world, tmp_path)
    assert by_label(found) == expected
    assert all(item.fetched_bytes <= LIMIT_BYTES for item in found.headers[1:])


def test_another_vocabulary_is_read_whole_and_right(world: HubWorld, tmp_path: Path) -> None:
    others = {
        "Q8_0": vocabulary(20_000, odd="a longer one"),  # behind a like beginning
        "Q6_K": vocabulary(20_001),
        "Q5_0": vocabulary(20_000, odd="TOKEN4a37"),  # of the same length
        "Q4_0": vocabulary(20_000, "TOKEN"),
    }
    files = one_file("BF16")
    files |= {name_of(label): quant_file(MOE, label, words) for label, words in others.items()}
    world.server.put(REPO, files)
    found = by_label(read(world, tmp_path))
    for label in ("BF16", *others):
        assert found[label] == whole(files[name_of(label)]), label


def test_a_padding_that_was_left_out_is_no_difference(world: HubWorld, tmp_path: Path) -> None:
    files = one_file("Q8_0") | one_file("Q6_K")
    full = files[name_of("Q6_K")]
    header = whole(full)
    unpadded = header.data_offset + max(t.offset + t.n_bytes for t in header.tensors)
    files[name_of("Q6_K")] = Hollow.of(bytes(full), unpadded)
    world.server.put(REPO, files)
    assert by_label(read(world, tmp_path))["Q6_K"] == header


def test_a_damaged_header_is_named_and_the_others_are_read(world: HubWorld, tmp_path: Path) -> None:
    sound = one_file("Q8_0") | one_file("Q6_K")
    lying = bytearray(quant_file(MOE, "BF16", SHORT))
    lying[8:16] = struct.pack("<Q", 1 << 62)
    files = sound | {
        name_of("BF16"): Hollow.of(bytes(lying), 1 << 40),
        name_of("Q4_0"): b"<html>not a model</html>",
        name_of("Q2_K"): b"",
        name_of("Q5_0"): Hollow.of(quant_file(MOE, "Q5_0", SHORT), 9_000_000),
    }
    world.server.put(REPO, files)
    found = read(world, tmp_path)
    headers = by_label(found)
    assert {label for label, header in headers.items() if header} == {"Q8_0", "Q6_K"}
    problems = {item.quant.label: item.problem for item in found.headers if item.problem}
    assert "more than the file can hold" in problems["BF16"]
    assert "missing" in problems["Q5_0"]


def test_what_was_read_once_needs_no_network(world: HubWorld, tmp_path: Path) -> None:
    world.server.put(REPO, one_file("Q8_0") | one_file("Q6_K"))
    first = read(world, tmp_path)
    n_bodies = len(world.server.bodies())
    again = read(world, tmp_path)
    assert by_label(again) == by_label(first)
    assert (again.fetched_bytes, again.n_requests) == (0, 0)
    assert len(world.server.bodies()) == n_bodies
    offline = replace(world.hub, offline=True)
    listing, notice = read_listing(offline, REPO, "main", tmp_path)
    assert "read last" in notice
    found = read_remote_headers(offline, listing, listing.quants, tmp_path)
    assert by_label(found) == by_label(first)
    assert all(item.was_kept for item in found.headers)
    with pytest.raises(HubError):
        read_listing(offline, REPO, "other", tmp_path)


def test_a_new_commit_costs_only_what_is_new(world: HubWorld, tmp_path: Path) -> None:
    world.server.put(REPO, one_file("Q8_0") | one_file("Q6_K"))
    read(world, tmp_path)
    world.server.put(REPO, one_file("Q8_0") | one_file("Q4_0"))
    kept = {item.quant.label: item.was_kept for item in read(world, tmp_path).headers}
    assert kept == {"Q8_0": True, "Q4_0": False}


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"version": 1, "data": {}}', '{"version": 0, "data": {}}']
)
def test_a_damaged_cache_is_no_cache(world: HubWorld, tmp_path: Path, damage: str) -> None:
    world.server.put(REPO, one_file("Q8_0"))
    first = by_label(read(world, tmp_path))
    for path in tmp_path.rglob("*.json"):
        path.write_text(damage)
    assert by_label(read(world, tmp_path)) == first


def test_a_folder_that_cannot_be_written_is_no_error(world: HubWorld, tmp_path: Path) -> None:
    world.server.put(REPO, one_file("Q8_0"))
    (tmp_path / "taken").write_text("a file, where a folder would be")
    assert by_label(read(world, tmp_path / "taken"))["Q8_0"]


def test_a_kept_header_is_the_same_header(tmp_path: Path) -> None:
    shards = shard_files(MOE, "Q8_0", SHORT, 2)
    for data in (quant_file("DeepSeek", "Q4_K_M", SHORT, 384), *shards):
        file = ModelFile("model.gguf", size_of(data), sha256="0" * 64)
        keep_header(tmp_path, REPO, file, whole(data))
        assert read_kept_header(tmp_path, REPO, file) == whole(data)


def test_a_network_that_fails_is_said_and_what_was_read_is_kept(world: HubWorld, tmp_path: Path) -> None:
    world.server.put(REPO, one_file("Q8_0") | one_file("Q6_K"))
    world.server.fault("Q6_K", status=500)
    with pytest.raises(HubError, match="trouble"):
        read(world, tmp_path)
    world.server.faults.clear()
    assert len(by_label(read(world, tmp_path))) == 2


def test_more_files_than_any_honest_repo_has_are_not_looked_into(world: HubWorld, tmp_path: Path) -> None:
    world.server.put(REPO, {name_of("Q8_0", number, 1001): b"GGUF" for number in range(1, 1002)})
    with pytest.raises(HubError, match="1001 files to choose from, and 1000 are looked into") as caught:
        read(world, tmp_path)
    assert f"{REPO}:QUANT" in caught.value.hint
    assert world.server.bodies() == []
