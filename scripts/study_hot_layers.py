#!/usr/bin/env python3
"""Are some layers' experts hotter than others', so that a placement should prefer them?

    scripts/study_hot_layers.py [MODEL]

Every layer reads as many experts for a token as every other: in decoding layers differ by bytes alone, which
the plan knows. Where several tokens are computed at once (a prompt, several sequences, a draft to check) each
expert is read once however many of them chose it: a layer whose router repeats itself reads less there. This
counts how much less, over the shipped text, beside routers that choose evenly and at random.
"""

from __future__ import annotations

import sys

import numpy as np

from moetool.assets import quality_text_path
from moetool.cli.opening import open_model
from moetool.engine.model import Engine
from moetool.engine.watch import Node, Watch
from moetool.settings import Settings

BATCHES = (1, 2, 8, 32, 128)
N_TOKENS = 8192
CHUNK = 512


def read_ids(name: str) -> tuple[dict[int, np.ndarray], int]:
    """Layer -> the experts of each token, [tokens, used]; and how many experts there are."""
    opened = open_model(name)
    found: dict[int, list[np.ndarray]] = {}

    def see(node: Node) -> None:
        found.setdefault(int(node.name.rpartition("-")[2]), []).append(node.rows().copy())

    # One output a token: in the last layer llama.cpp leaves out tokens whose logits nobody wants.
    settings = Settings(n_ctx=CHUNK, n_batch=CHUNK, n_ubatch=CHUNK, n_outputs_max=CHUNK, n_threads=2)
    with Engine(opened.model.paths, settings, opened.anatomy.arch) as engine:
        from moetool.engine.reading import TextReader

        text = quality_text_path().read_text("utf-8")
        tokens = engine.vocabulary.tokenize(text, add_special=True)[:N_TOKENS]
        engine.use_watch(Watch(see, names=("ffn_moe_topk",)))
        for start in range(0, len(tokens) - CHUNK + 1, CHUNK):
            for _ in TextReader(engine).read(tokens[start : start + CHUNK], 0, CHUNK):
                pass
    return {layer: np.concatenate(rows) for layer, rows in found.items()}, opened.anatomy.n_expert


def distinct(ids: np.ndarray, batch: int) -> float:
    """Experts that a batch of neighbouring tokens reads, in the mean."""
    n = len(ids) // batch * batch
    return float(np.mean([len(np.unique(part)) for part in ids[:n].reshape(-1, batch * ids.shape[1])]))


def main() -> None:
    by_layer, n_expert = read_ids(sys.argv[1] if len(sys.argv) > 1 else "demo")
    n_used = next(iter(by_layer.values())).shape[1]
    print(
        "experts read by a batch of so many tokens, by layer; evenly; share of the hotter half of the layers"
    )
    for batch in BATCHES:
        read = {layer: distinct(ids, batch) for layer, ids in sorted(by_layer.items())}
        even = n_expert * (1 - (1 - n_used / n_expert) ** batch)
        hottest = sorted(read.values(), reverse=True)
        share = sum(hottest[: len(hottest) // 2]) / sum(hottest)
        print(f"{batch:5}: {', '.join(f'{n:.2f}' for n in read.values())}; {even:.2f}; {share:.1%}")


if __name__ == "__main__":
    main()
