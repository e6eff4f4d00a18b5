"""The corpus of the demo model: which tasks, how much of each, and how a conversation becomes tokens.

The corpus has no files: documents are generated on the fly from (seed, rank, step), so any step can be made
again, and a stopped training goes on where it was. Try ``python scripts/demo_corpus.py`` to read a few.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from demo_extract import extraction, extraction_any
from demo_facts import fact, question, yes_no
from demo_source import Doc, Source
from demo_tasks import arithmetic, bare_arithmetic, chain, copying, lookup, order, small

if TYPE_CHECKING:
    from tokenizers import Tokenizer

START, END = "<|im_start|>", "<|im_end|>"
PAD = "<|endoftext|>"
PROMPT_WEIGHT = 0.1  # loss weight of prompt tokens: they teach word shapes, answers teach the task

# Shares of the training tokens. Arithmetic is the last skill to appear, hence its large part.
SHARES = {
    "extract": 0.23,
    "lookup": 0.20,
    "arithmetic": 0.16,
    "chain": 0.10,
    "order": 0.07,
    "fact": 0.06,
    "qa": 0.07,
    "copy": 0.06,
    "small": 0.05,
}
# The last part of the training: what is hardest gets most. Bare results, long lists and unknown words.
POLISH_SHARES = {
    "extract": 0.26,
    "extract-the": 0.03,
    "lookup": 0.26,
    "bare": 0.12,
    "arithmetic": 0.05,
    "chain": 0.05,
    "order": 0.05,
    "fact": 0.03,
    "yes-no": 0.03,
    "qa": 0.04,
    "copy": 0.05,
    "small": 0.03,
}
SYSTEMS = (
    "You are a helpful assistant.",
    "You are the demo model of moetool.",
    "Answer briefly.",
    "Be concise.",
    "You are a careful assistant. Answer only what is asked.",
    "Answer the question of the user.",
)

Encoded = tuple[list[int], list[float]]  # token ids and the loss weight of each


def _lookup(source: Source, budget: int) -> Doc:
    """A look-up list that fits a sequence of ``budget`` tokens with its questions."""
    questions = source.number(2, min(12, budget // 50))
    high = int(0.85 * (budget - 40 - 26 * questions))  # a turn costs about 26 tokens
    return lookup(source, source.number(16 if source.chance(0.5) else high // 2, high), questions)


TASKS: dict[str, Callable[[Source, int], Doc]] = {
    "extract": lambda source, _: extraction_any(source),
    "lookup": _lookup,
    "arithmetic": lambda source, _: arithmetic(source),
    "chain": lambda source, _: chain(source),
    "order": lambda source, _: order(source),
    "fact": lambda source, _: fact(source),
    "qa": lambda source, _: question(source),
    "copy": lambda source, _: copying(source),
    "small": lambda source, _: small(source),
}
POLISH_TASKS: dict[str, Callable[[Source, int], Doc]] = {
    **TASKS,
    "extract-the": lambda source, _: extraction(source, articles=True),
    "bare": lambda source, _: bare_arithmetic(source),
    "yes-no": lambda source, _: yes_no(source),
}


def make_doc(source: Source, kind: str, budget: int) -> Doc:
    """A document of a kind; some get a system message, some short ones become one conversation of several."""
    doc = POLISH_TASKS[kind](source, budget)
    if kind != "lookup" and source.chance(0.12):
        other = source.pick([name for name in TASKS if name != "lookup"])
        doc = replace(doc, turns=doc.turns + TASKS[other](source, budget).turns)
    return replace(doc, system=source.pick(SYSTEMS)) if source.chance(0.1) else doc


def render(doc: Doc) -> list[tuple[str, float]]:
    """Text parts of a conversation with their loss weights, in the words of the chat template."""
    parts = [(f"{START}system\n{doc.system}{END}\n", PROMPT_WEIGHT)] if doc.system else []
    for turn in doc.turns:
        parts.append((f"{START}user\n{turn.user}{END}\n{START}assistant\n", PROMPT_WEIGHT))
        parts.append((f"{turn.answer}{END}", doc.weight))
        parts.append(("\n", PROMPT_WEIGHT))
    return parts


def prompt_text(doc: Doc) -> str:
    """The prompt of the last turn: all that the model sees before its answer."""
    return "".join(text for text, _ in render(doc)[:-2])


class Stream:
    """Packed training sequences, reproducible from (seed, rank, step)."""

    def __init__(self, tokenizer: Tokenizer, pieces: Sequence[str], seed: int, rank: int = 0) -> None:
        self.tokenizer, self.pieces, self.seed, self.rank = tokenizer, pieces, seed, rank
        self._odds: dict[tuple[int, bool], dict[str, float]] = {}

    def encode(self, doc: Doc) -> Encoded:
        """Token ids and loss weights of a document."""
        parts = render(doc)
        ids: list[int] = []
        weights: list[float] = []
        encodings = self.tokenizer.encode_batch([text for text, _ in parts], add_special_tokens=False)
        for (_, weight), encoding in zip(parts, encodings, strict=True):
            ids += encoding.ids
            weights += [weight] * len(encoding.ids)
        return ids, weights

    def odds(self, length: int, polish: bool) -> dict[str, float]:
        """How often each kind is drawn, so that the *tokens* have the wanted shares."""
        if (length, polish) not in self._odds:
            source = Source(random.Random(f"odds-{length}"), self.pieces)
            shares = POLISH_SHARES if polish else SHARES
            sizes = {
                kind: sum(len(self.encode(make_doc(source, kind, length))[0]) for _ in range(60))
                for kind in shares
            }
            self._odds[length, polish] = {kind: share / sizes[kind] for kind, share in shares.items()}
        return self._odds[length, polish]

    def docs(self, step: int, length: int, polish: bool) -> Iterator[Encoded]:
        """Endless documents of one step, none longer than ``length``."""
        rng = random.Random(f"{self.seed}-{self.rank}-{step}")
        source, odds = Source(rng, self.pieces), self.odds(length, polish)
        while True:
            kind = rng.choices(list(odds), list(odds.values()))[0]
            ids, weights = self.encode(make_doc(source, kind, length))
            yield ids[:length], weights[:length]

    def batch(
        self, step: int, rows: int, length: int, polish: bool = False
    ) -> tuple[list[list[int]], list[list[float]]]:
        """``rows`` sequences of ``length + 1`` tokens (inputs and targets overlap) and their weights."""
        docs = self.docs(step, length + 1, polish)
        waiting = [next(docs) for _ in range(24)]
        pad = self.tokenizer.token_to_id(PAD)
        all_ids, all_weights = [], []
        for _ in range(rows):
            ids: list[int] = []
            weights: list[float] = []
            while True:
                room = length + 1 - len(ids)
                fits = next((i for i, doc in enumerate(waiting) if len(doc[0]) <= room), None)
                if fits is None:
                    break
                doc_ids, doc_weights = waiting.pop(fits)
                waiting.append(next(docs))
                ids += doc_ids
                weights += doc_weights
            missing = length + 1 - len(ids)
            all_ids.append(ids + [pad] * missing)
            all_weights.append(weights + [0.0] * missing)
        return all_ids, all_weights


def sample_texts(count: int, seed: int) -> Iterator[str]:
    """Plain texts of the corpus with syllable words: what the tokenizer is trained on."""
    source = Source(random.Random(f"texts-{seed}"))
    source.open_share = 0.15  # merges are for real words; invented ones are made of the pieces later
    kinds = list(SHARES)
    for _ in range(count):
        doc = make_doc(source, source.pick(kinds), 128)
        yield "\n".join(f"{turn.user}\n{turn.answer}" for turn in doc.turns)


if __name__ == "__main__":
    demo = Source(random.Random(0))
    for name in SHARES:
        for _ in range(3):
            print("".join(text for text, _ in render(make_doc(demo, name, 128))), flush=True)  # noqa: T201
