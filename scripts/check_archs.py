"""moetool.anatomy and moetool.memory against llama.cpp itself, for one small file of every architecture.

    test-llama-archs -o ARCHS_DIR        # llama.cpp's own test writes the files
    python scripts/check_archs.py ARCHS_DIR [NAME_BEGINS_WITH]

llama.cpp really loads each file, and allocates (scripts/llama_memory.py, one process a file), in three
contexts and two types of cache. Parameters, weights and caches must be equal, the output buffer as its log
line rounds it; the total must be within 3 % or 8 MiB.
Then `moetool inspect --layers` and `moetool plan` (dry run included) are run on the file, for people and as
a document, which must state the same parameters and weights.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moetool.anatomy import Anatomy, make_anatomy
from moetool.cli.boundary import run_command_line
from moetool.errors import UsageError
from moetool.gguf import open_header
from moetool.machine import Device
from moetool.memory import device_memory
from moetool.settings import Settings

CPU = Device("CPU", "", "cpu", 1 << 40, 1 << 40)
RUNS = [
    {"n_ctx": n_ctx, "type_k": name, "type_v": name}
    for n_ctx in (512, 4096, 32768)
    for name in ("f16", "q8_0")
]
NEAR, NEAR_BYTES = 0.03, 8 << 20
LOG_ROUNDS = 1 << 14  # the log rounds to 0.01 MiB


@dataclass(frozen=True)
class Result:
    """One load of one file: what is not equal, and by how much total and compute buffer are off."""

    file: str
    unequal: tuple[str, ...]
    total_error: float
    compute_error: float
    off_bytes: int


def ask_llama(path: Path) -> list[dict[str, Any]]:
    """llama.cpp's figures for each of RUNS; a run that ended the process, and those after it, are missing."""
    script = Path(__file__).with_name("llama_memory.py")
    lines = "\n".join(json.dumps({**run, "allocate": True}) for run in RUNS)
    done = subprocess.run(
        [sys.executable, str(script), str(path)], input=lines, capture_output=True, text=True, timeout=600
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def compare(path: Path, anatomy: Anatomy, run: dict[str, Any], truth: dict[str, Any]) -> Result | None:
    """None where llama.cpp refuses the settings and we do too."""
    try:
        (ours,) = device_memory(anatomy, Settings(**run), [CPU])
    except UsageError as error:
        return None if "error" in truth else Result(path.name, (f"we refuse: {error}",), 0, 0, 0)
    if "error" in truth:
        return Result(path.name, (f"llama.cpp refuses: {truth['error'].strip()}",), 0, 0, 0)
    weights, caches, compute = (truth[key]["CPU"] for key in ("weights", "context", "compute"))
    pairs = {
        "parameters": (anatomy.n_params, truth["n_params"]),
        "weights": (ours.weights_bytes, weights),
        "KV and state": (ours.kv_bytes + ours.state_bytes, caches),
        "unknown tensors": (anatomy.unknown, ()),
    }
    unequal = [f"{what}: {mine} is not {true}" for what, (mine, true) in pairs.items() if mine != true]
    if abs(ours.output_bytes - truth["output_about"]) > LOG_ROUNDS:
        unequal.append(f"output: {ours.output_bytes} is not about {truth['output_about']}")
    total = weights + caches + compute + ours.output_bytes
    off = ours.total_bytes - total
    return Result(path.name, tuple(unequal), off / total, ours.compute_bytes / compute - 1, abs(off))


def run_command(*arguments: str) -> tuple[str, str]:
    """What a command writes to stdout, and what went wrong."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_command_line(arguments)
    return out.getvalue(), f"exit code {code}: {err.getvalue().strip()}" if code else ""


def run_commands(path: Path, anatomy: Anatomy) -> dict[str, str]:
    """`inspect` and `plan`, for people and as a document -> what is wrong with each ("": nothing)."""
    wrong = {}
    n_ctx = min(4096, anatomy.n_ctx_train or 4096) if anatomy.learns_positions else 4096
    for command, more in (("inspect", ("--layers",)), ("plan", ("--ctx", str(n_ctx)))):
        text, problem = run_command(command, str(path), *more)
        answer, document_problem = run_command(command, str(path), *more, "--output", "json")
        wrong[command] = problem or document_problem or ("" if text.strip() else "says nothing")
        if wrong[command]:
            continue
        data = json.loads(answer)["data"]
        model = data if command == "inspect" else data["model"]
        if (model["n_params"], model["weights_bytes"]) != (anatomy.n_params, anatomy.weights_bytes):
            wrong[command] = "the document states other parameters or weights"
        elif command == "plan" and not data["fits"]:
            wrong[command] = "does not fit"
    return wrong


def check(path: Path, anatomy: Anatomy) -> list[Result | None]:
    return [compare(path, anatomy, run, truth) for run, truth in zip(RUNS, ask_llama(path), strict=False)]


def show(results: list[Result], n_refused: int, commands: dict[str, dict[str, str]]) -> None:
    totals = [abs(r.total_error) for r in results]
    print(f"\n{len(commands)} files, {len(results)} loads, {n_refused} refused by both")
    for command in ("inspect", "plan"):
        print(f"{command} works: {sum(not wrong[command] for wrong in commands.values())} of {len(commands)}")
    print(f"not equal: {sum(bool(r.unequal) for r in results)}")
    print(f"total: median error {100 * statistics.median(totals):.3f} %, worst {100 * max(totals):.2f} %")
    print(f"total off by more than 0.5 %: {sum(error > 0.005 for error in totals)}")
    print(f"total off by more than {100 * NEAR:.0f} % and {NEAR_BYTES >> 20} MiB: {len(far(results))}")


def far(results: list[Result]) -> list[Result]:
    return [r for r in results if abs(r.total_error) > NEAR and r.off_bytes > NEAR_BYTES]


def show_file(path: Path, here: list[Result], wrong: dict[str, str]) -> None:
    words = [word or "ok" for word in wrong.values()]
    if not here:
        print(f"{path.stem:28} no load", *words)
        return
    total = max((r.total_error for r in here), key=abs)
    compute = max((r.compute_error for r in here), key=abs)
    off = max(r.off_bytes for r in here) / 2**20
    print(
        f"{path.stem:28} {len(here):5} {100 * total:+15.2f} {100 * compute:+17.2f} {off:8.2f} "
        + "  ".join(f"{word:>7}" for word in words)
    )
    for what in dict.fromkeys(what for r in here for what in r.unequal):
        print(f"    {what}")


def main() -> int:
    begin = sys.argv[2] if len(sys.argv) > 2 else ""
    results: list[Result] = []
    commands: dict[str, dict[str, str]] = {}
    n_refused = 0
    files = sorted(p for p in Path(sys.argv[1]).glob("*.gguf") if p.name.startswith(begin))
    heads = f"{'total, worst %':>15} {'compute, worst %':>17} {'off MiB':>8} inspect     plan"
    print(f"{'file':28} {'loads':>5} {heads}")
    for path in files:
        anatomy = make_anatomy(open_header(path))
        found = check(path, anatomy)
        here = [r for r in found if r is not None]
        results += here
        n_refused += len(found) - len(here)
        commands[path.name] = run_commands(path, anatomy)
        show_file(path, here, commands[path.name])
    show(results, n_refused, commands)
    is_wrong = any(r.unequal for r in results) or any(any(wrong.values()) for wrong in commands.values())
    return 1 if is_wrong or far(results) else 0


if __name__ == "__main__":
    sys.exit(main())
