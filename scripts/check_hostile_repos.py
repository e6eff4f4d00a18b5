"""Plan and pull repos that mean harm: each must end with a clear error, soon, and in little memory.

    python scripts/check_hostile_repos.py

Every command is a process of its own, against a Hub on loopback. Prints exit code, seconds, the largest
resident memory and what was said; exits with 1 when one succeeds, says more than a sentence and a hint, takes
longer than 5 s or more than 200 MiB, or writes outside of its cache.
"""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from gguf_build import ARRAY, STRING, Builder, Row, text, u32  # noqa: E402
from hub_server import Hollow, HubServer  # noqa: E402

from moetool.assets import demo_model_path  # noqa: E402

REPO = "evil/Moe-GGUF"
FILE = "moe-Q8_0.gguf"
MAX_S, MAX_MIB = 5.0, 200.0
TIB = 1 << 40
ARCH = {"general.architecture": text("qwen3moe")}
Prepare = Callable[[HubServer, Path], None]


def files(*names: str) -> Prepare:
    """A repo of files with these names only."""
    return lambda server, home: server.put(REPO, dict.fromkeys(names, b"GGUF")) and None


def header(data: bytes) -> Prepare:
    """A repo of one huge file that begins like this and goes on with zeros."""
    return lambda server, home: server.put(REPO, {FILE: Hollow.of(data, TIB)}) and None


def listing(body: bytes, **headers: str) -> Prepare:
    """A Hub that answers every question about repos with this."""

    def prepare(server: HubServer, home: Path) -> None:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        server.fault("/api/", body=body, headers=named)

    return prepare


def entries(entry: bytes, n: int) -> bytes:
    return b'{"sha": "' + b"1" * 40 + b'", "siblings": [' + b",".join([entry] * n) + b"]}"


def endless_listing(server: HubServer, home: Path) -> None:
    server.put(REPO, {FILE: b"GGUF"})
    server.fault("/api/", endless=True)


def redirects(server: HubServer, home: Path) -> None:
    server.put(REPO, {FILE: b"GGUF"})
    server.fault("/resolve/", status=302, headers={"Location": f"{server.url}/{REPO}/resolve/x/y"})


def other_scheme(server: HubServer, home: Path) -> None:
    server.put(REPO, {FILE: b"GGUF"})
    server.fault("/resolve/", status=302, headers={"Location": "file:///etc/passwd"})


def link_out_of_the_cache(server: HubServer, home: Path) -> None:
    commit = server.put(REPO, {f"sub/{FILE}": demo_model_path().read_bytes()})
    (home / "elsewhere").mkdir()
    snapshot = home / "hf/hub/models--evil--Moe-GGUF/snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "sub").symlink_to(home / "elsewhere")


def many_shards(server: HubServer, home: Path) -> None:
    row = b'{"rfilename":"m-Q8_0-%05d-of-20000.gguf","size":9,"blobId":"' + b"1" * 40 + b'"}'
    body = b",".join(row % i for i in range(1, 20_001))
    server.fault("/api/", body=b'{"sha": "' + b"1" * 40 + b'", "siblings": [' + body + b"]}")


def many_quants(server: HubServer, home: Path) -> None:
    server.put(REPO, {f"m{i}-Q8_0.gguf": b"GGUF" for i in range(5000)})


def counts(n_tensors: int, n_keys: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys)


def endless_strings() -> bytes:
    """A vocabulary of 10^9 empty words: it would be 8 GB to walk."""
    keys = Builder(metadata={**ARCH, "x": u32(1)}).header()[24:]
    build = Builder()
    words = build.string("tokenizer.ggml.tokens") + struct.pack("<IIQ", ARRAY, STRING, 10**9)
    return counts(1, 3) + keys + words


def long_string() -> bytes:
    return counts(1, 1) + Builder().string("general.name") + struct.pack("<IQ", STRING, 10**11)


def lying_sizes() -> bytes:
    rows = [Row("blk.0.ffn_up_exps.weight", (1 << 20, 1 << 20, 1 << 20))]
    return Builder(metadata=ARCH, tensors=rows).header()


REPOS: list[tuple[str, Prepare]] = [
    ("names that climb out", files("../x.gguf", "a/../../x.gguf", "%2e%2e/x.gguf")),
    ("absolute names", files("/etc/x.gguf", "C:\\x.gguf", "\\\\host\\x.gguf")),
    ("names with escape sequences", files("a\x1b[2J\x1b]0;gone\x07.gguf", "b\u202e.gguf")),
    ("a link out of the cache", link_out_of_the_cache),
    ("a list of files without end", endless_listing),
    ("half a million files", listing(entries(b'{"rfilename":"a.gguf"}', 500_000))),
    ("a list nested 2 million deep", listing(b"[" * 2_000_000)),
    ("a zip bomb for a list", listing(gzip.compress(bytes(2 << 30), 1), Content_Encoding="gzip")),
    ("20,000 shards", many_shards),
    ("5,000 quants", many_quants),
    ("redirects in a circle", redirects),
    ("a redirect to a local file", other_scheme),
    ("2^60 tensors", header(counts(1 << 60, 1))),
    ("2^60 keys", header(counts(1, 1 << 60))),
    ("10^9 words of nothing", header(endless_strings())),
    ("10^8 keys of nothing", header(counts(1, 10**8))),
    ("10^8 tensors of nothing", header(counts(10**8, 0))),
    ("a string of 100 GB", header(long_string())),
    ("a tensor larger than its file", header(lying_sizes())),
]


@dataclass(frozen=True)
class Ended:
    """What a command did."""

    code: int
    seconds: float
    mib: float
    err: str


def run(command: list[str], url: str, home: Path) -> Ended:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_", "MOETOOL_"))}
    env = {**kept, "HF_ENDPOINT": url, "HF_HOME": str(home / "hf"), "XDG_CACHE_HOME": str(home / "cache")}
    began = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "moetool", *command],
        env={**env, "PYTHONPATH": str(ROOT)},
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert child.stderr is not None
    err = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, time.perf_counter() - began, usage.ru_maxrss / 1024, err.decode())


def faults(ended: Ended, home: Path) -> list[str]:
    """What is wrong with how it ended."""
    lines = ended.err.rstrip("\n").split("\n")
    outside = [
        p for p in home.rglob("*") if p.is_file() and p.relative_to(home).parts[0] not in {"hf", "cache"}
    ]
    return [
        what
        for what, is_so in {
            "no error": ended.code <= 0,
            "not one sentence": not lines[0].startswith("error: ") or len(lines) > 2,
            "not printable": not all(line.isprintable() for line in lines),
            "too slow": ended.seconds > MAX_S,
            "too much memory": ended.mib > MAX_MIB,
            "written outside": bool(outside),
        }.items()
        if is_so
    ]


def main() -> int:
    n_wrong = 0
    print(f"{'repo':30}  command  exit     s  MiB  held  what was said")
    for name, prepare in REPOS:
        for command in ("pull",) if prepare is link_out_of_the_cache else ("plan", "pull"):
            home = Path(tempfile.mkdtemp(prefix="check-hostile-"))
            target = f"{REPO}:Q8_0" if prepare is link_out_of_the_cache else REPO
            with HubServer() as server:
                prepare(server, home)
                ended = run([command, target], server.url, home)
            wrong = faults(ended, home)
            shutil.rmtree(home, ignore_errors=True)
            n_wrong += bool(wrong)
            said = ", ".join(wrong) + ": " + ended.err[-300:] if wrong else ended.err.split("\n")[0]
            row = f"{name:30}  {command:7}  {ended.code:4}  {ended.seconds:4.1f}  {ended.mib:3.0f}"
            print(f"{row}  {'NO' if wrong else 'yes':4}  {said}", flush=True)
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
