"""What verifying costs: `moetool pull` beside `hf download` and one SHA-256 pass, of the same file.

    python scripts/bench_pull.py [--pairs 2] [--gb 2.0] [--xet]

A Hub on loopback in a process of its own serves one file; the two ways take turns, each into an empty cache,
in alternating order. Prints seconds and the largest resident memory of each, and the median of the ratios.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
REPO, FILE = "org/Moe-GGUF", "moe-Q8_0.gguf"
HASH = "import hashlib, sys; print(hashlib.file_digest(open(sys.argv[1], 'rb'), 'sha256').hexdigest())"


def serve(n_bytes: int, xet: bool) -> None:
    """The Hub: prints its address, and serves until its stdin ends."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import hub_server
    from gguf_build import Builder, Row, text

    hub_server.PIECE_BYTES = 1 << 20  # type: ignore[attr-defined]
    rows = [Row("blk.0.ffn_up.weight", (1024, n_bytes // 4096))]
    head = Builder(metadata={"general.architecture": text("llama")}, tensors=rows).file()
    data = head + random.Random(1).randbytes(1 << 20) * (n_bytes // (1 << 20) + 1)
    data = data[: len(head) + n_bytes // 4096 * 4096]
    with hub_server.HubServer({REPO: {FILE: data}}) as hub:
        if xet:
            hub.xet.add(REPO)
        hub_server.sha256(data)
        hub_server.git_oid(data)
        print(hub.url, flush=True)
        sys.stdin.read()


def timed(command: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Wall seconds, and the largest resident memory in MiB, of a command that must succeed."""
    began = time.perf_counter()
    child = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert child.stderr is not None
    err = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{command} failed: {err.decode()}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def in_empty_cache(url: str, ours: bool, xet: bool) -> tuple[float, float]:
    """Seconds and MiB of one way to have the file, verified."""
    home = Path(tempfile.mkdtemp(prefix="bench-pull-"))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_", "MOETOOL_"))}
    env = {**kept, "HF_ENDPOINT": url, "HF_HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    env |= {"PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "01"[not xet]}
    try:
        if ours:
            return timed([sys.executable, "-m", "moetool", "pull", f"{REPO}:Q8_0"], env)
        hf = str(Path(sys.executable).with_name("hf"))
        seconds, mib = timed([hf, "download", REPO, FILE], env)
        file = next(home.glob(f"hub/models--*/snapshots/*/{FILE}"))
        return seconds + timed([sys.executable, "-c", HASH, str(file)], env)[0], mib
    finally:
        shutil.rmtree(home, ignore_errors=True)
        os.sync()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--xet", action="store_true", help="both over Xet instead of plain HTTP")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    n_bytes = int(args.gb * 1e9)
    if args.serve:
        serve(n_bytes, args.xet)
        return 0
    command = [sys.executable, __file__, "--serve", "--gb", str(args.gb), *(["--xet"] if args.xet else [])]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdin is not None
    url = server.stdout.readline().strip()
    print("pair  pull s  MiB   hf + SHA-256 s  MiB   ratio")
    ratios = []
    for pair in range(args.pairs):
        first = pair % 2 == 0
        found = {ours: in_empty_cache(url, ours, args.xet) for ours in (first, not first)}
        (mine, my_mib), (theirs, their_mib) = found[True], found[False]
        ratios.append(mine / theirs)
        row = f"{pair + 1:4}  {mine:6.2f}  {my_mib:4.0f}  {theirs:14.2f}  {their_mib:4.0f}"
        print(f"{row}  {mine / theirs:6.3f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f}")
    server.stdin.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
