"""A Hub on loopback for a test, and the environment in which the real huggingface_hub finds it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from gguf_build import Builder, Row, Typed, text
from hub_server import HubServer, sha256

from moetool.errors import MoetoolError
from moetool.hub import Hub, Retry
from moetool.names import parse_model_name
from moetool.pulling import PullResult, pull_model
from moetool.store import find_local, read_record

REPO = "org/Moe-GGUF"
TOKEN = "hf_secret_that_nobody_may_see"

# A test should see retries, not wait for them.
QUICK = Retry(attempts=3, first_wait_s=0.01, longest_wait_s=2.0)

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


class HubWorld:
    """A server, an empty cache folder, and two ways to get there: in this process, and in a child."""

    def __init__(self, server: HubServer, home: Path) -> None:
        self.server = server
        self.home = home
        self.cache_dir = home / "hub"
        self.hub = Hub(server.url, self.cache_dir, retry=QUICK, timeout_s=5)

    def env(self, **more: str) -> dict[str, str]:
        """For a child process: huggingface_hub reads its environment when it is imported."""
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "XDG_", "MOETOOL_"))
        }
        ours = {"HF_ENDPOINT": self.server.url, "HF_HOME": str(self.home), "HF_HUB_DISABLE_XET": "1"}
        return {**kept, **ours, "PYTHONPATH": str(Path(__file__).parent.parent), **more}

    def start(self, code: str, *args: str, **more: str) -> subprocess.Popen[str]:
        """Run Python code in a child process that is set up for this Hub."""
        return subprocess.Popen(
            [sys.executable, "-c", code, *args],
            env=self.env(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def final_files(self) -> dict[str, bytes]:
        """Everything that has a name under which it would be taken for a model, by its path in the cache."""
        found = {}
        for path in self.cache_dir.rglob("*"):
            parts = path.relative_to(self.cache_dir).parts
            is_named = len(parts) > 2 and parts[1] in {"blobs", "snapshots"}
            if is_named and path.is_file() and not path.name.endswith(".incomplete"):
                found["/".join(parts)] = path.read_bytes()
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[HubWorld]:
    with HubServer() as server:
        yield HubWorld(server, tmp_path / "home")


def noise(n_bytes: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(n_bytes)


def sharded(label: str = "Q8_0", n: int = 3, size: int = 200_000, folder: str = "") -> dict[str, bytes]:
    return {f"{folder}moe-{label}-{i:05d}-of-{n:05d}.gguf": noise(size + i, i) for i in range(1, n + 1)}


def model_file(seed: int = 1, number: int = 0, count: int = 1) -> bytes:
    """A small GGUF file that is sound, one of `count` shards."""
    split = {
        "split.no": Typed(2, number),
        "split.count": Typed(2, count),
        "split.tensors.count": Typed(5, count),
    }
    rows = [Row(f"blk.{number}.attn_norm.weight", (64,))]
    metadata = {"general.architecture": text("qwen3moe"), "general.name": text(f"Model {seed}")}
    return Builder(metadata={**metadata, **(split if count > 1 else {})}, tensors=rows).file(256)


def model_shards(label: str = "Q8_0", n: int = 3, seed: int = 1) -> dict[str, bytes]:
    return {f"moe-{label}-{i + 1:05d}-of-{n:05d}.gguf": model_file(seed, i, n) for i in range(n)}


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


def partial_bytes(world: HubWorld) -> int:
    return sum(p.stat().st_size for p in world.cache_dir.rglob("*.incomplete"))


def wait_for(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def blobs(world: HubWorld) -> Path:
    return world.cache_dir / f"models--{REPO.replace('/', '--')}" / "blobs"


def replace_retry(world: HubWorld, attempts: int) -> HubWorld:
    world.hub = replace(world.hub, retry=replace(QUICK, attempts=attempts))
    return world
