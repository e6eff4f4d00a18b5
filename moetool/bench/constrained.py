"""What a grammar costs, and gains: JSON under a schema beside as many tokens of free text, in alternation.

Tokens that the schema leaves no choice of are decoded as one batch, which is the gain; masks and second draws
are the cost.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from moetool.constrain import Constraint, parse_schema
from moetool.generate import Decoder, Generation, Grammar, Limits, Rule, Stats

# Free text of the first pair is this long; later ones are as long as the document.
_FREE_TOKENS = 64


class Writer(Decoder, Protocol):
    """What writing needs of an engine."""

    def rewind(self, n_past: int) -> int: ...


class _Timed:
    """An engine and a grammar as a generation sees them, with the time that each choice takes."""

    def __init__(self, engine: Writer, grammar: Grammar) -> None:
        self.engine, self.grammar = engine, grammar
        self.n_ctx = engine.n_ctx
        self.choices_us: list[float] = []

    @property
    def n_past(self) -> int:
        return self.engine.n_past

    def decode(self, tokens: Sequence[int]) -> None:
        self.engine.decode(tokens)

    def sample(self, rule: Rule | None = None) -> int:
        started = time.perf_counter()
        token = self.engine.sample(rule and self.grammar)
        self.choices_us.append((time.perf_counter() - started) * 1e6)
        return token

    def piece(self, token: int) -> bytes:
        return self.engine.piece(token)

    def is_end(self, token: int) -> bool:
        return self.engine.is_end(token)

    def __getattr__(self, name: str) -> Any:
        """The grammar's methods."""
        return getattr(self.grammar, name)


@dataclass(frozen=True)
class ConstrainedRow:
    """One schema: tokens of the document and how many were forced, speeds without prompt and first token (the
    middle of all pairs), how many times as fast the document was in each pair, and the median time of one
    choice, in microseconds: draw, check, and what it takes to draw again."""

    schema: str
    is_structure: bool
    n_tokens: int
    n_forced: int
    json_tok_s: float
    free_tok_s: float
    gains: tuple[float, ...]
    choice_us: float
    document: str

    @property
    def gain(self) -> float:
        """The middle of the pairs."""
        return statistics.median(self.gains)


def measure_constrained(
    engine: Writer,
    prompt: Sequence[int],
    make_matcher: Callable[[Constraint], Grammar],
    schemas: Mapping[str, tuple[bool, dict[str, Any]]],
    n_pairs: int,
    on_pair: Callable[[], None] = lambda: None,
) -> tuple[ConstrainedRow, ...]:
    """A row for each schema. The engine draws as it is set; greedily, all pairs write the same."""
    rows = []
    for name, (is_structure, schema) in schemas.items():
        constraint = parse_schema(json.dumps(schema))
        _write(engine, prompt, None, make_matcher(constraint))  # warms up
        pairs: list[tuple[Stats, Stats]] = []
        choices: list[float] = []
        document = ""
        for number in range(n_pairs):
            n_free = pairs[-1][0].generated_tokens if pairs else _FREE_TOKENS
            free = _write(engine, prompt, n_free, None) if number % 2 == 0 else None
            of_json = _write(engine, prompt, None, make_matcher(constraint))
            free = free or _write(engine, prompt, n_free, None)
            pairs.append((of_json.stats, free.stats))
            choices += of_json.choices_us
            document = of_json.text
            on_pair()
        rows.append(_row(name, pairs, choices, document, is_structure=is_structure))
    return tuple(rows)


def _row(
    name: str,
    pairs: Sequence[tuple[Stats, Stats]],
    choices: Sequence[float],
    document: str,
    *,
    is_structure: bool,
) -> ConstrainedRow:
    rates = [(of_json.decode_tok_s or 0.0, free.decode_tok_s or 1.0) for of_json, free in pairs]
    return ConstrainedRow(
        schema=name,
        is_structure=is_structure,
        n_tokens=pairs[-1][0].generated_tokens,
        n_forced=pairs[-1][0].forced_tokens,
        json_tok_s=statistics.median(rate for rate, _ in rates),
        free_tok_s=statistics.median(rate for _, rate in rates),
        gains=tuple(of_json / free for of_json, free in rates),
        choice_us=statistics.median(choices) if choices else 0.0,
        document=document,
    )


@dataclass(frozen=True)
class _Written:
    stats: Stats
    text: str
    choices_us: tuple[float, ...]


def _write(engine: Writer, prompt: Sequence[int], n_most: int | None, matcher: Grammar | None) -> _Written:
    """One answer from an empty context: what it took, its text, and the time of each choice."""
    engine.rewind(0)
    timed = _Timed(engine, matcher) if matcher is not None else None
    generation = Generation(timed or engine, list(prompt), Limits(n_most), timed)
    for _ in generation:
        pass
    assert generation.stats is not None  # the iteration has ended
    return _Written(generation.stats, generation.text, tuple(timed.choices_us) if timed else ())
