"""Write the text that `moetool bench --quality` reads when no other is given: moetool/data/quality.txt.

Held-out items of the demo model's tasks (no word of theirs, no pair of numbers is in its corpus), as plain
text without control tokens, so that any model can read it. Always the same bytes.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from demo_source import Source
from eval_demo import tasks

ITEMS = 26  # of each task


def make_text(seed: str) -> str:
    """All items in one random order, a blank line between two."""
    kinds = [task for task in tasks() if not task.distance and task.unseen]
    items = []
    for number in range(ITEMS):
        for task in kinds:
            doc = task.make(Source(random.Random(f"{seed}-{task.name}-{number}"), unseen=True))
            items.append("".join(f"user\n{turn.user}\nassistant\n{turn.answer}\n" for turn in doc.turns))
    random.Random(seed).shuffle(items)
    return "\n".join(items)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    target = Path(__file__).parent.parent / "moetool" / "data" / "quality.txt"
    parser.add_argument("--out", type=Path, default=target, help="default: the shipped file")
    parser.add_argument("--seed", default="quality", help="another word: other items of the same tasks")
    args = parser.parse_args()
    args.out.write_text(make_text(args.seed), "utf-8")


if __name__ == "__main__":
    main()
