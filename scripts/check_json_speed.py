#!/usr/bin/env python3
"""How fast JSON is written under a schema, beside unconstrained text of the same model.

    scripts/check_json_speed.py dense.gguf moe.gguf --pairs 5

Each document is generated in alternation with as many tokens of free text after the same prompt; the gain is
the ratio of their decoding speeds, first token and prompt apart. Tokens that the schema leaves no choice of
are decoded as one batch, which is the gain; asking the grammar is the cost. Any model will do, a
synthetic one is the worst case for the cost: it never wants what the schema asks for, so every choice takes a
mask. Give it a real tokenizer (synthetic_model.py --vocab-of), or forced text falls into single letters. Its
strings never end by themselves, so the schemas bound them. `choice` is the median time of one choice: draw,
check, mask; `all` is that and following the grammar, by token. With --wanted the model wants what it has
written the first time, as a trained one does: no choice takes a mask. Exits 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moetool.anatomy import make_anatomy
from moetool.bench.documents import PROMPT, SCHEMAS
from moetool.constrain import Constraint, Tokenizer, TokenTable, make_matcher, make_tokenizer, parse_schema
from moetool.engine.model import Engine
from moetool.generate import Generation, Limits, Stats
from moetool.gguf import open_header
from moetool.machine.cpu import read_linux_cores
from moetool.settings import Sampling, Settings

CHOICE_LIMIT_US = 150.0


# --- measuring ----------------------------------------------------------------------------------------------


class Timed:
    """An engine and a matcher as a generation sees them, with the time that choosing tokens takes. The model
    wants `wanted`."""

    def __init__(self, engine: Engine, matcher: Any, wanted: Sequence[int] = ()) -> None:
        self.engine, self.matcher, self.wanted = engine, matcher, wanted
        self.n_ctx = engine.n_ctx
        self.written: list[int] = []
        self.choices_us: list[float] = []
        self.all_us = 0.0

    @property
    def n_past(self) -> int:
        return self.engine.n_past

    def decode(self, tokens: Sequence[int]) -> None:
        self.engine.decode(tokens)

    def sample(self, rule: Any = None) -> int:
        if len(self.written) < len(self.wanted):
            self.engine.logits()[self.wanted[len(self.written)]] = 100.0
        before_us = self.all_us
        token: int = self._timed(self.engine.sample, rule and self.matcher)
        self.choices_us.append(self.all_us - before_us)
        return token

    def commit(self, token: int) -> None:
        self.written.append(token)
        self._timed(self.matcher.commit, token)

    def _timed(self, call: Any, *arguments: Any) -> Any:
        started = time.perf_counter()
        result = call(*arguments)
        self.all_us += (time.perf_counter() - started) * 1e6
        return result

    def piece(self, token: int) -> bytes:
        return self.engine.piece(token)

    def is_end(self, token: int) -> bool:
        return self.engine.is_end(token)

    def __getattr__(self, name: str) -> Any:
        """The matcher's methods."""
        method = getattr(self.matcher, name)
        return lambda *arguments: self._timed(method, *arguments)


@dataclass(frozen=True)
class Row:
    """One schema with one model: medians over pairs, the gain with its extremes, and a document."""

    schema: str
    is_heavy: bool
    n_tokens: int
    n_forced: int
    json_tok_s: float
    free_tok_s: float
    gains: tuple[float, ...]
    choice_us: float
    token_us: float
    document: str


def measure_model(engine: Engine, tokenizer: Tokenizer, n_pairs: int, *, is_wanted: bool) -> Iterator[Row]:
    prompt = engine.vocabulary.tokenize(PROMPT)
    for name, (is_heavy, schema) in SCHEMAS.items():
        constraint = parse_schema(json.dumps(schema))

        def write_json(
            wanted: Sequence[int] = (), constraint: Constraint = constraint
        ) -> tuple[Generation, Timed]:
            timed = Timed(engine, make_matcher(tokenizer, constraint), wanted)
            return write(engine, timed, prompt, None, timed), timed

        first = write_json()[1].written  # warms up
        pairs: list[tuple[Stats, Stats]] = []
        choices: list[float] = []
        for number in range(n_pairs):
            if number % 2:
                answer, timed = write_json(first if is_wanted else ())
            free = write(engine, engine, prompt, pairs[-1][0].generated_tokens if pairs else 64)
            if not number % 2:
                answer, timed = write_json(first if is_wanted else ())
            assert answer.stats is not None
            assert free.stats is not None
            pairs.append((answer.stats, free.stats))
            choices += timed.choices_us
        json.loads(answer.text)
        rates = [(of_json.decode_tok_s or 0.0, free.decode_tok_s or 1.0) for of_json, free in pairs]
        yield Row(
            schema=name,
            is_heavy=is_heavy,
            n_tokens=pairs[-1][0].generated_tokens,
            n_forced=pairs[-1][0].forced_tokens,
            json_tok_s=statistics.median(rate for rate, _ in rates),
            free_tok_s=statistics.median(rate for _, rate in rates),
            gains=tuple(of_json / free for of_json, free in rates),
            choice_us=statistics.median(choices),
            token_us=timed.all_us / pairs[-1][0].generated_tokens,
            document=answer.text,
        )


def write(
    engine: Engine, decoder: Any, prompt: list[int], n_most: int | None, grammar: Any = None
) -> Generation:
    """One greedy answer from an empty context."""
    engine.rewind(0)
    generation = Generation(decoder, prompt, Limits(n_most), grammar)
    for _ in generation:
        pass
    return generation


def make_table(engine: Engine) -> TokenTable:
    vocabulary = engine.vocabulary
    return TokenTable(
        tokens=vocabulary.all_pieces(),
        special=vocabulary.special_tokens(),
        ends=vocabulary.end_tokens(),
        tokenize=lambda data: vocabulary.tokenize(data.decode("utf-8", "surrogateescape")),
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=read_linux_cores().n_threads)
    parser.add_argument("--wanted", action="store_true", help="the model wants what it writes")
    parser.add_argument("--documents", action="store_true", help="show what was written")
    args = parser.parse_args()
    met = True
    print(
        "model            schema     tokens forced  JSON tok/s  free tok/s"
        "  gain (from – to)       choice µs  all µs"
    )
    for path in args.models:
        anatomy = make_anatomy(open_header(path))
        needed = 1.25 if anatomy.n_expert else 1.5
        settings = Settings(n_ctx=1024, n_threads=args.threads, n_threads_batch=args.threads)
        with Engine([path], settings, anatomy.arch) as engine:
            engine.use_sampling(Sampling(temperature=0))
            tokenizer = make_tokenizer(make_table(engine), fast_masks=False)
            for row in measure_model(engine, tokenizer, args.pairs, is_wanted=args.wanted):
                met = show(path.stem, row, needed if row.is_heavy else 1.0) and met
                if args.documents:
                    print(f"    {row.document}")
    return 0 if met else 1


def show(model: str, row: Row, needed: float) -> bool:
    gain = statistics.median(row.gains)
    is_met = gain >= needed and row.choice_us <= CHOICE_LIMIT_US
    print(
        f"{model:16} {row.schema:10} {row.n_tokens:6} {row.n_forced:6}"
        f" {row.json_tok_s:11.1f} {row.free_tok_s:11.1f}"
        f"  {gain:4.2f} x ({min(row.gains):.2f} – {max(row.gains):.2f}) >= {needed:.2f}"
        f" {row.choice_us:8.0f} {row.token_us:7.0f}"
        f"  {'met' if is_met else 'MISSED'}",
        flush=True,
    )
    return is_met


if __name__ == "__main__":
    sys.exit(main())
