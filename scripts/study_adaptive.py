#!/usr/bin/env python3
"""Can fewer experts, where fewer would do, make anything faster on llama.cpp as it is? Three ways, measured.

    scripts/study_adaptive.py [MODEL …] [--draft N,…]

1. A draft of the same file with fewer experts, checked by the whole model several tokens at a time: what a
   round takes, and so what it could gain at most, were every token right. Of the demo model also how often
   they are (greedily, on the shipped text's prompts), and what comes of it; made-up weights tell nothing.
2. Of the demo model, fewer experts for tokens of which the router is sure: divergence by mean number of
   experts. All experts are computed even so: this shows what it would be worth.
3. Two contexts, with one and with all experts: how long it takes to bring one up to where the other is.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Sequence

import numpy as np

from moetool.assets import quality_text_path
from moetool.bench.matrix import parse_numbers
from moetool.cli.opening import Opened, open_model
from moetool.engine.library import library
from moetool.engine.model import Engine
from moetool.engine.reading import TextReader
from moetool.engine.watch import Node, Watch
from moetool.eval import LiveReference, make_chunks, measure_quality
from moetool.settings import Settings

ANSWER = "\nassistant\n"
N_PROMPTS, MOST_TOKENS = 40, 32
LENGTHS = (1, 2, 3, 4, 6)
N_TIMED = 12


def settings(experts: int | None, n_ctx: int = 1024) -> Settings:
    n_threads = 2
    return Settings(
        n_ctx=n_ctx, n_batch=512, n_ubatch=512, n_outputs_max=64, n_threads=n_threads, experts=experts
    )


def greedy(engine: Engine, tokens: Sequence[int]) -> list[int]:
    """Append tokens; the likeliest next one after each of them."""
    lib, n = library(), len(tokens)
    batch = lib.llama_batch(
        n_tokens=n, token=(ctypes.c_int32 * n)(*tokens), logits=(ctypes.c_int8 * n)(*[1] * n)
    )
    assert lib.llama_decode(engine.context, batch) == 0
    engine.memory.took(list(tokens))
    pointer = lib.llama_get_logits(engine.context)
    address = ctypes.addressof(pointer.contents)
    shape = (n, engine.n_vocab)
    logits = np.ctypeslib.as_array((ctypes.c_float * (shape[0] * shape[1])).from_address(address))
    return [int(i) for i in logits.reshape(shape).argmax(axis=1)]


def plain(engine: Engine, prompt: list[int]) -> tuple[list[int], float]:
    """An answer token by token, and the seconds it took after the prompt."""
    engine.rewind(0)
    engine.decode(prompt[:-1])
    engine.synchronize()
    started, token, answer = time.perf_counter(), prompt[-1], []
    while len(answer) < MOST_TOKENS:
        token = greedy(engine, [token])[0]
        answer.append(token)
        if engine.is_end(token):
            break
    return answer, time.perf_counter() - started


def drafted(
    whole: Engine, draft: Engine, prompt: list[int], length: int
) -> tuple[list[int], float, int, int]:
    """The same answer with drafts of `length` tokens: answer, seconds, tokens drafted, tokens right."""
    for engine in (whole, draft):
        engine.rewind(0)
        engine.decode(prompt[:-1])
        engine.synchronize()
    started, answer, token, n_drafted, n_right = time.perf_counter(), [], prompt[-1], 0, 0
    behind: list[int] = []  # what the draft has not seen yet
    while len(answer) < MOST_TOKENS and not (answer and whole.is_end(answer[-1])):
        guess = greedy(draft, [*behind, token])[-1:]
        while len(guess) < length:
            guess += greedy(draft, guess[-1:])
        found = greedy(whole, [token, *guess])
        right = 0
        while right < length and guess[right] == found[right]:
            right += 1
        n_drafted, n_right = n_drafted + length, n_right + right
        answer += found[: right + 1]
        token = found[right]
        n_past = whole.n_past - (length - right)
        whole.rewind(n_past)
        behind = [guess[-1]] if right == length else []
        draft.rewind(min(draft.n_past, n_past))
    return answer, time.perf_counter() - started, n_drafted, n_right


def study_draft(opened: Opened, drafts: Sequence[int]) -> None:
    paths, arch = opened.model.paths, opened.anatomy.arch
    own = opened.anatomy.n_expert_used
    items = quality_text_path().read_text("utf-8").split("\n\n")[:N_PROMPTS]
    rng = np.random.default_rng(1)
    with Engine(paths, settings(None), arch) as whole:
        prompts = [
            whole.vocabulary.tokenize(item.split(ANSWER)[0] + ANSWER, add_special=True)
            for item in items
            if ANSWER in item
        ]
        one_s = times(whole, 1, rng)
        checks = {n: times(whole, n + 1, rng) for n in LENGTHS}
        print(
            f"{opened.model.name}: {own} experts, one token {1000 * one_s:.2f} ms; checking n + 1 tokens:",
            end=" ",
        )
        print(", ".join(f"{n + 1}: {checks[n] / one_s:.2f} ×" for n in LENGTHS))
        for experts in drafts:
            with Engine(paths, settings(experts), arch) as draft:
                few_s = times(draft, 1, rng)
                best = {n: (n + 1) * one_s / (n * few_s + checks[n]) for n in LENGTHS}
                print(
                    f"  draft with {experts}: a token {few_s / one_s:.2f} × as long; were all right:", end=" "
                )
                print(", ".join(f"{n}: {gain:.2f} ×" for n, gain in best.items()))
                for length in (2, 4) if opened.model.name == "demo" else ():
                    one = [plain(whole, prompt) for prompt in prompts]
                    two = [drafted(whole, draft, prompt, length) for prompt in prompts]
                    n_one, n_two = sum(len(a) for a, _ in one), sum(len(a) for a, *_ in two)
                    gain = (n_two / sum(s for _, s, *_ in two)) / (n_one / sum(s for _, s in one))
                    right = sum(r for *_, r in two) / sum(d for *_, d, _ in two)
                    print(f"    {length} at a time: {right:.0%} right, {gain:.2f} × the speed", flush=True)


def times(engine: Engine, n_tokens: int, rng: np.random.Generator) -> float:
    """Seconds to compute so many tokens at once, in the middle."""
    engine.rewind(0)
    greedy(engine, [5] * 64)
    found = []
    for _ in range(N_TIMED):
        tokens = rng.integers(5, engine.n_vocab - 1, n_tokens).tolist()
        started = time.perf_counter()
        greedy(engine, tokens)
        found.append(time.perf_counter() - started)
        engine.rewind(64)
    return statistics.median(found)


def study_confidence(opened: Opened) -> None:
    """Of each token in each layer the fewest experts that have the share `mass` of what all chosen have."""
    paths, arch, own = opened.model.paths, opened.anatomy.arch, opened.anatomy.n_expert_used
    kept: list[float] = []
    mass = 1.0

    def see(node: Node) -> None:
        weights = node.read().copy()
        shares = weights[0, :, :, 0] / weights[0, :, :, 0].sum(axis=1, keepdims=True)
        before = np.cumsum(shares, axis=1) - shares
        keep = before < mass
        kept.append(float(keep.mean() * own))
        weights[0, :, :, 0] *= keep
        node.write(weights)

    base = settings(None, 512)
    with Engine(paths, base, arch) as engine, Engine(paths, base, arch) as other:
        tokens = engine.vocabulary.tokenize(quality_text_path().read_text("utf-8"), add_special=True)
        chunks = make_chunks(tokens, 512, None)
        engine.use_watch(Watch(see, names=("ffn_moe_weights",)))
        for wanted in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
            mass = wanted
            kept.clear()
            scores = measure_quality(TextReader(engine), chunks, LiveReference(TextReader(other)))
            assert scores.compared is not None
            kld = scores.compared.kld.mean()
            print(f"  share {mass:.1f}: {np.mean(kept):.2f} experts a token, KLD {kld:.4f}")


def study_switch(opened: Opened) -> None:
    """How long a context of n tokens takes to be brought to another one by copying its state."""
    paths, arch, lib = opened.model.paths, opened.anatomy.arch, library()
    with Engine(paths, settings(None), arch) as one, Engine(paths, settings(1), arch) as two:
        for n in (64, 512):
            one.rewind(0)
            greedy_s = times(one, 1, np.random.default_rng(1))
            one.rewind(0)
            one.decode([5] * n)
            one.synchronize()
            started = time.perf_counter()
            size = lib.llama_state_seq_get_size(one.context, 0)
            data = (ctypes.c_uint8 * size)()
            lib.llama_state_seq_get_data(one.context, data, size, 0)
            assert lib.llama_state_seq_set_data(two.context, data, size, 0)
            took = time.perf_counter() - started
            as_tokens = took / greedy_s
            print(f"  {n} tokens, {size / 2**20:.2f} MiB: {1000 * took:.2f} ms, as {as_tokens:.1f} tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", default=["demo"])
    parser.add_argument("--draft", default="1")
    args = parser.parse_args()
    for name in args.models:
        opened = open_model(name)
        study_draft(opened, parse_numbers(args.draft, "--draft"))
        if name == "demo":
            study_confidence(opened)
        study_switch(opened)


if __name__ == "__main__":
    main()
