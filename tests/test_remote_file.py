"""A file on the Hub as a stream: it reads like a local one, and costs little more than what is read."""

from __future__ import annotations

import io
import random

import pytest
from gguf_build import Builder, Row, strings, text
from hub_fixture import REPO, HubWorld, noise

from moetool.errors import HeaderError, VerificationFailed
from moetool.gguf import read_header
from moetool.hub import HttpRangeFile, RepoListing, list_files, open_remote, select_quant
from moetool.names import parse_model_name


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


def test_a_header_without_end_is_given_up(world: HubWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moetool.hub.range_file.MAX_KEPT_BYTES", 1 << 20)
    far = remote(world, noise(3_000_000))
    with pytest.raises(HeaderError, match="More than 1 MiB of it are header"):
        while far.read(100_000):
            pass
    assert far.fetched_bytes < 2_500_000
