#!/usr/bin/env python3
"""Predicted speed beside measured speed, by number of experts a token: check_sparsity.py MODEL …

    scripts/check_sparsity.py demo moe-4g.gguf --experts 1,4,8,16 --budget 120

What is predicted is corrected by what was measured with the model's own number, as `moetool sparsity` does,
and by no other run: the measurements of this script go to a folder of their own. The weights of
scripts/synthetic_model.py will do: no text is read.
"""

from __future__ import annotations

import argparse
import os
import tempfile

from moetool.bench.matrix import parse_numbers
from moetool.cli.opening import open_model, read_this_machine
from moetool.cli.pacing import measure_speed
from moetool.frontier import counts_that_matter
from moetool.lab.sparsity import make_frontier
from moetool.plan import Wishes


def check(name: str, counts: tuple[int, ...], budget_s: float) -> None:
    opened = open_model(name)
    own = opened.anatomy.n_expert_used
    counts = counts or counts_that_matter(own, opened.anatomy.routing.most)
    machine = read_this_machine(measure="again")
    paced = measure_speed(opened, machine, Wishes(), sorted({*counts, own}), budget_s)
    frontier = make_frontier(opened.anatomy, paced.rows, {})
    print(f"{name}: {opened.anatomy.quant}, {own} of {opened.anatomy.n_expert} experts")
    print("experts  decode tok/s  predicted  error   prompt tok/s  predicted  error")
    for point in frontier.points:
        cells = [f"{point.experts:7}"]
        for measured, predicted in (
            (point.decode_tok_s, point.predicted_decode_tok_s),
            (point.prompt_tok_s, point.predicted_prompt_tok_s),
        ):
            error = f"{predicted / measured - 1:+6.1%}" if predicted else "?"
            cells.append(f"{measured:12.2f}  {predicted or 0:9.2f}  {error}")
        print("  ".join(cells), flush=True)
    for note in paced.notes:
        print(note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--experts", default="")
    parser.add_argument("--budget", type=float, default=120.0)
    args = parser.parse_args()
    counts = parse_numbers(args.experts, "--experts") if args.experts else ()
    for name in args.models:
        with tempfile.TemporaryDirectory() as home:
            os.environ["MOETOOL_HOME"] = home
            check(name, counts, args.budget)


if __name__ == "__main__":
    main()
