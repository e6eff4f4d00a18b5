#!/usr/bin/env python3
"""Does the map of `moetool sparsity --layers` mean anything? Held against text that it was not made from.

    scripts/check_layers.py [MODEL] [--keep N]

The map is made from every other item of the shipped text (which is then taken the other way round). On the
items between them, and on moetool's README, experts are dropped in the half of the layers that costs less by
the map, and in the half that costs more: the first should cost less divergence, beyond both intervals.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from moetool.assets import quality_text_path
from moetool.cli.answer import load_engine
from moetool.cli.lab_texts import lab_texts, reading_plan
from moetool.cli.opening import Opened, open_model, read_this_machine
from moetool.engine.fewer_experts import FewerExperts
from moetool.eval import Quality
from moetool.lab.layer_map import ALL_LAYERS, LayerMap, layer_cost
from moetool.plan import Wishes

README = Path(__file__).parent.parent / "README.md"
MOST_CHUNKS = 1000


def read_halves() -> tuple[str, str]:
    """The shipped text's items, in turn."""
    items = quality_text_path().read_text("utf-8").split("\n\n")
    return "\n\n".join(items[0::2]), "\n\n".join(items[1::2])


def check(opened: Opened, keep: int, mapped: str, others: dict[str, str]) -> bool:
    """Make the map of one text, and try it on the others; whether it held on all of them."""
    layers = [layer.index for layer in opened.anatomy.layers if layer.ffn == "moe" and not layer.mtp]
    plan = reading_plan(opened, read_this_machine(measure="unknown"), Wishes())
    fewer = FewerExperts(is_softmaxed=opened.anatomy.routing.is_softmaxed)
    texts = {"map": mapped, **others}
    with (
        load_engine(opened, plan, lambda: False) as engine,
        lab_texts(opened, texts, MOST_CHUNKS, lambda: False, lambda: None) as lab,
    ):
        engine.use_watch(fewer.watch)
        n_tokens = lab.read_first(engine)["map"].n_tokens

        def read(chosen: list[int]) -> dict[str, Quality]:
            fewer.keep = dict.fromkeys(chosen, keep)
            return lab.read(engine)

        by_layer = {layer: read([layer]) for layer in layers}
        costs = tuple(layer_cost(layer, found["map"]) for layer, found in by_layer.items())
        together = layer_cost(ALL_LAYERS, read(layers)["map"])
        found = LayerMap(opened.anatomy.n_expert_used, keep, n_tokens, costs, together)
        print("map:", ", ".join(f"layer {c.layer} {c.kld.value:.4f}" for c in costs))
        halves = [read(list(half)) for half in (found.tolerant, found.sensitive)]
    holds = True
    for name in others:
        less, more = (layer_cost(ALL_LAYERS, half[name]).kld for half in halves)
        holds &= less.high < more.low
        print(
            f"  {name}: layers {found.tolerant} {less.value:.4f} [{less.low:.4f} – {less.high:.4f}], "
            f"layers {found.sensitive} {more.value:.4f} [{more.low:.4f} – {more.high:.4f}]"
        )
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--keep", type=int, default=0)
    args = parser.parse_args()
    opened = open_model(args.model)
    keep = args.keep or opened.anatomy.n_expert_used // 2
    first, second = read_halves()
    foreign = {"README": README.read_text("utf-8")}
    holds = [
        check(opened, keep, one, {"other items": other, **foreign})
        for one, other in ((first, second), (second, first))
    ]
    print("The map holds." if all(holds) else "The map does not hold.")
    return 0 if all(holds) else 1


if __name__ == "__main__":
    raise SystemExit(main())
