"""Pull from a Hub on loopback that goes wrong in every way it can, and hold what is left to its hashes.

    python scripts/check_pull.py [--drops 50] [--kills 30] [--seed N]

The real huggingface_hub client and real processes. Prints one row per kind of trouble; exits with 1 when any
run ends with wrong bytes under a final name, or without the model where it could be had.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from hub_server import HubServer, sha256  # noqa: E402

from moetool.errors import MoetoolError  # noqa: E402
from moetool.hub import Hub, Retry  # noqa: E402
from moetool.pulling import PullResult, pull_model  # noqa: E402
from moetool.store import list_local  # noqa: E402

REPO = "org/Moe-GGUF"
SIZE = 400_000
CHILD = """
import resource, sys
from moetool.errors import MoetoolError
from moetool.pulling import pull_model
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    print(pull_model(sys.argv[1], on_progress=lambda *p: None).fetched_bytes)
except MoetoolError as error:
    print(error.message, file=sys.stderr)
    raise SystemExit(error.exit_code)
"""


class Wrong(Exception):
    """A run that did not end as it must."""


@dataclass
class World:
    """A server, an empty cache, and the files that a pull must bring."""

    server: HubServer
    home: Path
    hub: Hub
    files: dict[str, bytes]

    def pull(self, **more: object) -> PullResult:
        result = pull_model(f"{REPO}:Q8_0", hub=self.hub, **more)  # type: ignore[arg-type]
        self.check_names()
        got = {name: path.read_bytes() for name, path in zip(result.files, result.paths, strict=True)}
        if got != {name: self.files[name] for name in result.files}:
            raise Wrong("other bytes than the Hub's under a final name")
        if list(self.hub.cache_dir.rglob("*.incomplete")):
            raise Wrong("a partial file is left")
        return result

    def fail(self, **more: object) -> MoetoolError:
        try:
            pull_model(f"{REPO}:Q8_0", hub=self.hub, **more)  # type: ignore[arg-type]
        except MoetoolError as error:
            self.check_names()
            if list_local(self.hub.cache_dir):
                raise Wrong("a model is listed after a failure") from error
            return error
        raise Wrong("it succeeded")

    def check_names(self) -> None:
        """Nothing wrong has a final name: each blob hashes to its name, and each link leads to a blob."""
        for blob in self.hub.cache_dir.glob("models--*/blobs/*"):
            if not blob.name.endswith(".incomplete"):
                data = blob.read_bytes()
                if hashlib.sha256(data).hexdigest() != blob.name:
                    raise Wrong(f"{blob.name[:12]} holds other bytes")
        for link in self.hub.cache_dir.glob("models--*/snapshots/**/*.gguf"):
            if not link.is_file():
                raise Wrong(f"{link.name} leads nowhere")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_"))}
        env |= {"HF_ENDPOINT": self.server.url, "HF_HOME": str(self.home), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", CHILD, f"{REPO}:Q8_0", *arguments]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def arrived_bytes(self) -> int:
        partial = sum(p.stat().st_size for p in self.hub.cache_dir.rglob("*.incomplete"))
        blobs = (p for p in self.hub.cache_dir.glob("models--*/blobs/*") if p.suffix != ".incomplete")
        return partial + sum(p.stat().st_size for p in blobs)


@contextmanager
def world(n_shards: int = 1, seed: int = 1, beside: bool = False) -> Iterator[World]:
    """A fresh one."""
    noise = random.Random(seed)
    if n_shards == 1:
        files = {"moe-Q8_0.gguf": noise.randbytes(SIZE)}
    else:
        names = [f"moe-Q8_0-{i:05d}-of-{n_shards:05d}.gguf" for i in range(1, n_shards + 1)]
        files = {name: noise.randbytes(SIZE) for name in names}
    if beside:
        files |= {"mmproj-F16.gguf": noise.randbytes(9000), "mtp-Q8_0.gguf": noise.randbytes(7000)}
    home = Path(tempfile.mkdtemp(prefix="check-pull-"))
    try:
        with HubServer({REPO: files}) as server:
            hub = Hub(server.url, home / "hub", retry=Retry(3, 0.01, 2.0), timeout_s=1.0)
            yield World(server, home, hub, files)
    finally:
        shutil.rmtree(home, ignore_errors=True)


# ---- what must arrive ------------------------------------------------------------------------------------


def one_file() -> str:
    with world() as w:
        return f"{w.pull().fetched_bytes:,} bytes"


def three_shards() -> str:
    with world(3) as w:
        return f"{w.pull().fetched_bytes:,} bytes"


def beside() -> str:
    with world(beside=True) as w:
        result = w.pull(include=["mmproj", "mtp"])
        if len(result.paths) != 3:
            raise Wrong("not all of them came")
        return ", ".join(result.files)


def redirects() -> str:
    with world(3) as w:
        w.pull()
        return f"{sum(e.status == 302 for e in w.server.log)} followed to another host"


def slow_server() -> str:
    with world() as w:
        w.server.fault("/cdn/", bytes_per_s=400_000)
        w.pull()
        return "0.4 MB/s, longer than the patience with a silent one"


def content_store() -> str:
    with world(3) as w:
        w.server.xet.add(REPO)
        w.hub = replace(w.hub, uses_xet=True)
        w.pull()
        return f"{sum('/cas/xorbs/' in e.url for e in w.server.log)} xorbs by hf_xet"


# ---- what is interrupted ---------------------------------------------------------------------------------


def drops(n: int, seed: int) -> str:
    rng, again = random.Random(seed), {False: 0, True: 0}
    for i in range(n):
        reset = i % 2 == 0
        with world(1 + 2 * (i % 4 // 2), seed=i) as w:
            w.server.fault("/cdn/", times=1, drop_after=rng.randrange(SIZE), reset=reset)
            w.pull()
            sent = sum(e.sent_bytes for e in w.server.bodies())
            again[reset] = max(again[reset], sent - len(w.files) * SIZE)
    # A reset throws away what the sockets hold, which nobody has read.
    return f"at most {again[False]:,} bytes sent twice; {again[True]:,} where it was a reset"


def drops_between_pulls(n: int, seed: int) -> str:
    rng, again = random.Random(seed), 0
    for i in range(n):
        with world(seed=i) as w:
            w.hub = replace(w.hub, retry=Retry(attempts=1))
            fault = w.server.fault("/cdn/", drop_after=rng.randrange(SIZE))
            w.fail()
            fault.times = 0
            had = w.arrived_bytes()
            again = max(again, w.pull().fetched_bytes + had - SIZE)
    return f"the next pull fetched {again:,} bytes twice"


def kills(n: int, seed: int) -> str:
    rng, again = random.Random(seed), 0
    for i in range(n):
        with world(1 + 2 * (i % 2), seed=i) as w:
            fault = w.server.fault("/cdn/", bytes_per_s=1.5e6)
            child, at = w.start(), rng.randrange(len(w.files) * SIZE)
            while child.poll() is None and w.arrived_bytes() < at:
                time.sleep(0.002)
            child.send_signal(signal.SIGKILL)
            child.communicate()
            w.check_names()
            fault.times = 0
            had = w.arrived_bytes()
            again = max(again, w.pull().fetched_bytes + had - len(w.files) * SIZE)
    return f"the next pull fetched {again:,} bytes twice"


def changed_between() -> str:
    with world() as w:
        w.hub = replace(w.hub, retry=Retry(attempts=1))
        fault = w.server.fault("/cdn/", drop_after=SIZE // 2)
        w.fail()
        fault.times = 0
        w.files = {"moe-Q8_0.gguf": random.Random(99).randbytes(SIZE)}
        w.server.put(REPO, w.files)
        return w.pull().notices[0]


def changed_in_the_middle() -> str:
    with world() as w:
        new = {"moe-Q8_0.gguf": random.Random(99).randbytes(SIZE)}

        def replaced(done: int, total: int, file: str) -> None:
            if w.files != new:
                w.files = new
                w.server.put(REPO, new)
                w.server.fault("/resolve/", times=1, etag=sha256(new["moe-Q8_0.gguf"]))

        w.server.fault("/cdn/", times=1, drop_after=SIZE // 2)
        return w.pull(on_progress=replaced).notices[0]


def two_pulls() -> str:
    with world(3) as w:
        w.server.fault("/cdn/", bytes_per_s=3e6)
        children = [w.start() for _ in range(2)]
        fetched = [int(child.communicate(timeout=60)[0]) for child in children]
        w.pull()
        if sum(fetched) != 3 * SIZE:
            raise Wrong(f"{fetched} bytes were fetched")
        return f"{fetched[0]:,} + {fetched[1]:,} bytes, none twice"


# ---- what must be refused --------------------------------------------------------------------------------


def wrong_bytes() -> str:
    with world(3) as w:
        fault = w.server.fault("00002-of-00003", corrupt_at=SIZE // 3)
        error = w.fail()
        fault.times = 0
        w.pull()
        return _said(error)


def wrong_size(**fault: int) -> str:
    with world() as w:
        w.server.fault("/cdn/", **fault)
        return _said(w.fail())


def status(code: int, **headers: str) -> str:
    with world() as w:
        w.server.fault("/resolve/", status=code, headers={k.replace("_", "-"): v for k, v in headers.items()})
        return _said(w.fail())


def retry_after() -> str:
    with world() as w:
        w.server.fault("/resolve/", times=1, status=429, headers={"Retry-After": "1"})
        began = time.monotonic()
        w.pull()
        if time.monotonic() - began < 1:
            raise Wrong("it did not wait")
        return f"waited {time.monotonic() - began:.1f} s, then went on"


def gated() -> str:
    with world() as w:
        w.server.put(REPO, w.files, token="hf_other", gated=True)
        return _said(w.fail())


def file_limit() -> str:
    with world() as w:
        child = w.start(str(SIZE // 3))
        _, err = child.communicate(timeout=60)
        w.check_names()
        if child.returncode != 3:
            raise Wrong(f"exit code {child.returncode}: {err}")
        had = w.arrived_bytes()
        if w.pull().fetched_bytes != SIZE - had:
            raise Wrong("what had arrived was lost")
        return f"exit 3: {err.strip()}"


def full_disk() -> str:
    """A file system of 256 KiB: the pull is told there is room, and finds that there is not."""
    with world() as w:
        w.hub.cache_dir.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(w.hub.cache_dir)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            return "not run: no permission to mount"
        try:
            return _said(w.fail(read_free_bytes=lambda folder: 1 << 40))
        finally:
            subprocess.run(["umount", str(w.hub.cache_dir)], check=False)


def _said(error: MoetoolError) -> str:
    return f"exit {error.exit_code}: {error.message}"


# ---- the table -------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--drops", type=int, default=50)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rows: list[tuple[str, int, Callable[[], str]]] = [
        ("one file", 1, one_file),
        ("three shards", 1, three_shards),
        ("files beside the model", 1, beside),
        ("redirects", 1, redirects),
        ("Xet", 1, content_store),
        ("slow server", 1, slow_server),
        ("drops, resumed in the same pull", args.drops, lambda: drops(args.drops, args.seed)),
        ("drops, resumed by the next pull", args.drops, lambda: drops_between_pulls(args.drops, args.seed)),
        ("kill -9, resumed by the next pull", args.kills, lambda: kills(args.kills, args.seed)),
        ("changed between two pulls", 1, changed_between),
        ("ETag changed in the middle", 1, changed_in_the_middle),
        ("two pulls at once", 1, two_pulls),
        ("wrong bytes in shard 2 of 3", 1, wrong_bytes),
        ("shorter than listed", 1, lambda: wrong_size(cut_to=SIZE - 1)),
        ("longer than listed", 1, lambda: wrong_size(longer_by=1)),
        ("HTTP 401", 1, lambda: status(401)),
        ("gated", 1, gated),
        ("HTTP 403", 1, lambda: status(403)),
        ("HTTP 404", 1, lambda: status(404)),
        ("HTTP 429, Retry-After: 1", 1, retry_after),
        ("HTTP 429, Retry-After: 3600", 1, lambda: status(429, Retry_After="3600")),
        ("HTTP 500", 1, lambda: status(500)),
        ("HTTP 503", 1, lambda: status(503)),
        ("file size limit", 1, file_limit),
        ("full disk", 1, full_disk),
    ]
    n_wrong = 0
    print(f"{'what goes wrong':34}  {'runs':>4}  {'s':>5}  held  what happened")
    for name, n_runs, run in rows:
        began = time.monotonic()
        try:
            held, text = "yes", run()
        except (Wrong, MoetoolError, AssertionError) as error:
            held, text = "NO", str(error)
            n_wrong += 1
        print(f"{name:34}  {n_runs:4}  {time.monotonic() - began:5.1f}  {held:4}  {text}", flush=True)
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
