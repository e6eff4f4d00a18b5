"""What watching the routers costs: speeds of one loaded model, watched and not, in turn.

    python scripts/check_watching.py MODEL.gguf … [--pairs 11] [--threads N]

Reading is of a chunk, writing token by token, as `moetool experts` does both, its counting included. Short
turns and many, since machines are disturbed.
Beside the medians of each stands the overhead: the median of the pairs' ratios, and their range.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from moetool.anatomy import make_anatomy
from moetool.assets import quality_text_path
from moetool.engine.model import Engine
from moetool.engine.reading import TextReader
from moetool.gguf import open_header
from moetool.lab.reading import RoutingReader
from moetool.settings import Settings

N_CHUNK, N_ANSWER = 256, 24


def read_plain(engine: Engine, tokens: list[int]) -> float:
    engine.use_watch(None)
    return seconds(lambda: [list(TextReader(engine).read(tokens, 0, N_CHUNK))])


def read_watched(engine: Engine, tokens: list[int], n_expert: int) -> float:
    reader = RoutingReader(engine, n_expert)
    return seconds(lambda: reader.read_text("text", tokens, N_CHUNK))


def write_plain(engine: Engine, tokens: list[int]) -> float:
    engine.use_watch(None)
    list(TextReader(engine).read(tokens, 0, N_CHUNK))

    def write() -> None:
        for _ in range(N_ANSWER):
            engine.decode([engine.sample()])

    return seconds(write)


def write_watched(engine: Engine, tokens: list[int], n_expert: int) -> float:
    """Reading included and taken off again: both are one call."""
    reader = RoutingReader(engine, n_expert)
    list(TextReader(engine).read(tokens, 0, N_CHUNK))
    reader._watch.take(len(tokens))

    def write() -> None:
        reader.tally.begin("answer")
        for _ in range(N_ANSWER):
            engine.decode([engine.sample()])
        reader.tally.add(reader._watch.take(N_ANSWER))

    return seconds(write)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def show(what: str, n_tokens: int, plain: list[float], watched: list[float]) -> None:
    ratios = [100 * (b / a - 1) for a, b in zip(plain, watched, strict=True)]
    speeds = [n_tokens / statistics.median(times) for times in (plain, watched)]
    overhead = f"{statistics.median(ratios):+.1f} % ({min(ratios):+.1f} … {max(ratios):+.1f} %)"
    found = f"{speeds[0]:.1f} tok/s, watched {speeds[1]:.1f}: overhead {overhead}, {len(ratios)} pairs"
    print(f"  {what}: {found}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    for path in args.models:
        header = open_header(path)
        n_expert = make_anatomy(header).n_expert
        settings = Settings(n_ctx=N_CHUNK + N_ANSWER, n_outputs_max=N_CHUNK, n_threads=args.threads)
        with Engine([path], settings, header.arch) as engine:
            text = quality_text_path().read_text("utf-8")
            tokens = engine.vocabulary.tokenize(text)[:N_CHUNK]
            read_plain(engine, tokens)  # warms up
            times: list[list[float]] = [[], [], [], []]
            for number in range(args.pairs):
                plain_first = number % 2 == 0
                for is_watched in (not plain_first, plain_first):
                    if is_watched:
                        times[1].append(read_watched(engine, tokens, n_expert))
                        times[3].append(write_watched(engine, tokens[:16], n_expert))
                    else:
                        times[0].append(read_plain(engine, tokens))
                        times[2].append(write_plain(engine, tokens[:16]))
        print(path.name)
        show("reading", N_CHUNK, times[0], times[1])
        show("writing", N_ANSWER, times[2], times[3])


if __name__ == "__main__":
    main()
