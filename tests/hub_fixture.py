"""A Hub on loopback for a test, and the environment in which the real huggingface_hub finds it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer

from moetool.hub import Hub, Retry

# A test should see retries, not wait for them.
QUICK = Retry(attempts=3, first_wait_s=0.01, longest_wait_s=2.0)


class HubWorld:
    """A server, an empty cache folder, and two ways to get there: in this process, and in a child."""

    def __init__(self, server: HubServer, home: Path) -> None:
        self.server = server
        self.home = home
        self.cache_dir = home / "hub"
        self.hub = Hub(server.url, self.cache_dir, retry=QUICK, timeout_s=5)

    def env(self, **more: str) -> dict[str, str]:
        """For a child process: huggingface_hub reads its environment when it is imported."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "XDG_"))}
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
