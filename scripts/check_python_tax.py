#!/usr/bin/env python3
"""What a token costs more from Python: moetool's engine beside the same loop in C++, turn by turn.

    scripts/check_python_tax.py --llama-cpp ~/llama.cpp model.gguf another.gguf --starts 8 --turns 30

Two processes hold the same model with the same libraries, those that llama-cpp-python brought; they decode a
few random tokens in turn, in random order, and the one whose turn it is not is stopped. So both see the same
moments of a machine that others use too, which programs that run one after the other do not
(check_engine_speed.py): what is left is the difference of the loops, and of the memory under the weights
(moetool/engine/huge_pages.py). --llama-cpp is the source that
llama-cpp-python vendors, for its headers; a C++ compiler is needed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

N_CTX = 64
# So long that waking up costs nothing beside it.
TURN_S = 0.1

# Reads how many tokens to decode, and prints how many milliseconds one took.
LOOP = r"""
#include "llama.h"
#include <chrono>
#include <cstdio>
#include <cstdlib>
int main(int, char ** argv) {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    auto * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    auto params = llama_context_default_params();
    params.n_ctx = N_CTX;
    params.n_threads = params.n_threads_batch = atoi(argv[2]);
    params.no_perf = true;
    auto * ctx = llama_init_from_model(model, params);
    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        const int n = atoi(line);
        llama_memory_clear(llama_get_memory(ctx), false);
        std::chrono::steady_clock::time_point began;
        for (int i = -1; i < n; i++) {  // the first one wakes the threads up
            if (i == 0) began = std::chrono::steady_clock::now();
            llama_token token = rand() % n_vocab;
            llama_decode(ctx, llama_batch_get_one(&token, 1));
            llama_synchronize(ctx);
        }
        const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - began;
        printf("%.6f\n", taken.count() / n);
        fflush(stdout);
    }
}
"""


class Side:
    """One process with the model; stopped whenever it is not its turn."""

    def __init__(self, command: list[str], stack: ExitStack) -> None:
        self._process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(self._process.kill)

    def token_ms(self, n_tokens: int) -> float:
        """Milliseconds a token took, of so many."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGCONT)
        print(n_tokens, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        self._process.send_signal(signal.SIGSTOP)
        return float(answer)


def decode_for(model: Path, n_threads: int) -> None:
    """moetool's side."""
    import time

    from moetool.engine.model import Engine
    from moetool.gguf import open_header
    from moetool.plan.wishes import COPIED_BYTES
    from moetool.settings import Settings

    arch = str(open_header(model).metadata["general.architecture"])
    is_mapped = model.stat().st_size > COPIED_BYTES  # as a plan has it
    settings = Settings(n_ctx=N_CTX, n_threads=n_threads, n_threads_batch=n_threads, use_mmap=is_mapped)
    with Engine([model], settings, arch) as engine:
        for line in sys.stdin:
            engine.rewind(0)
            first, *tokens = (random.randrange(engine.n_vocab) for _ in range(int(line) + 1))
            engine.decode([first])
            engine.synchronize()
            began = time.perf_counter()
            for token in tokens:
                engine.decode([token])
                engine.synchronize()
            print(1e3 * (time.perf_counter() - began) / len(tokens), flush=True)


def compile_loop(source: Path, libraries: Path, folder: Path) -> Path:
    """The loop in C++, linked with the libraries of llama-cpp-python."""
    (folder / "loop.cpp").write_text(LOOP.replace("N_CTX", str(N_CTX)))
    command = ["c++", "-O2", str(folder / "loop.cpp"), "-o", str(folder / "loop")]
    command += [f"-I{source / 'include'}", f"-I{source / 'ggml' / 'include'}", f"-L{libraries}"]
    command += ["-lllama", "-lggml", "-lggml-base", f"-Wl,-rpath,{libraries}"]
    subprocess.run(command, check=True)
    return folder / "loop"


def compare(loop: Path, model: Path, n_threads: int, n_turns: int, n_starts: int) -> str:
    """A row: both medians, and their time by ours: the median of those of all starts, and where 95 % of such
    medians would lie."""
    starts = [measure_start(loop, model, n_threads, n_turns) for _ in range(n_starts)]
    of_starts = [statistics.median(theirs / ours for theirs, ours in pairs) for pairs in starts]
    medians = sorted(statistics.median(random.choices(of_starts, k=n_starts)) for _ in range(2000))
    their_ms, our_ms = (
        statistics.median(side) for side in zip(*(p for pairs in starts for p in pairs), strict=True)
    )
    return (
        f"{model.stem:18} {model.stat().st_size / 1e9:5.1f} {their_ms:9.3f} {our_ms:9.3f}"
        f"   {statistics.median(of_starts):.3f} ({medians[50]:.3f} – {medians[1949]:.3f})"
        f"   {min(of_starts):.3f} – {max(of_starts):.3f}   {n_starts} x {n_turns}"
    )


def measure_start(loop: Path, model: Path, n_threads: int, n_turns: int) -> list[tuple[float, float]]:
    """Milliseconds of a token, theirs and ours, by turns of two processes. Where a process gets its memory
    makes it a per cent faster or slower for as long as it lives: hence several starts."""
    with ExitStack() as stack:
        theirs = Side([str(loop), str(model), str(n_threads)], stack)
        ours = Side([sys.executable, __file__, "--serve", "--threads", str(n_threads), str(model)], stack)
        for side in (theirs, ours):  # the first turn is a cold one
            side.token_ms(4)
        n_tokens = max(4, min(N_CTX // 2, int(1e3 * TURN_S / theirs.token_ms(4))))
        pairs = []
        for _ in range(n_turns):
            if random.random() < 0.5:
                pairs.append((theirs.token_ms(n_tokens), ours.token_ms(n_tokens)))
            else:
                pairs.append((ours.token_ms(n_tokens), theirs.token_ms(n_tokens))[::-1])
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--llama-cpp", type=Path, help="the folder with include/llama.h")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--starts", type=int, default=8)
    parser.add_argument("--turns", type=int, default=30, help="of each start")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return decode_for(args.models[0], args.threads)
    if args.llama_cpp is None:
        parser.error("--llama-cpp is needed")
    package = importlib.util.find_spec("llama_cpp")
    assert package is not None
    assert package.origin is not None
    with tempfile.TemporaryDirectory() as folder:
        loop = compile_loop(args.llama_cpp, Path(package.origin).parent / "lib", Path(folder))
        print("model                 GB    C++ ms    ours ms  speed by C++'s (95 %)     of starts")
        for model in args.models:
            print(compare(loop, model, args.threads, args.turns, args.starts), flush=True)
    return None


if __name__ == "__main__":
    main()
