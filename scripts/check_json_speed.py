#!/usr/bin/env python3
"""How fast JSON is written under a schema, beside unconstrained text of the same model.

    scripts/check_json_speed.py dense.gguf moe.gguf --pairs 5

Each document is generated in alternation with as many tokens of free text after the same prompt; the gain is
the ratio of their decoding speeds, first token and prompt apart. Tokens that the schema leaves no choice of
are decoded as one batch, which is the gain; masks and the second draw are the cost. Any model will do, a
synthetic one is the worst case for the cost: it never wants what the schema asks for, so every choice takes a
mask. Give it a real tokenizer (synthetic_model.py --vocab-of), or forced text falls into single letters. Its
strings never end by themselves, so the schemas bound them. `choice` is the median time of one choice outside
llama_decode: draw, check, mask, draw again, commit. Exits 1 where a target is missed.
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
from moetool.constrain import Constraint, Tokenizer, TokenTable, make_matcher, make_tokenizer, parse_schema
from moetool.engine.model import Engine
from moetool.generate import Generation, Limits, Stats
from moetool.gguf import open_header
from moetool.machine.cpu import read_linux_cores
from moetool.settings import Sampling, Settings

PROMPT = "Describe the order as JSON."
CHOICE_LIMIT_US = 150.0


def _object(**properties: Any) -> dict[str, Any]:
    """All of them required, no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _number(least: int, most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


def _text(length: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": length}


def _one_of(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


YES_NO = {"type": "boolean"}
LINE = _object(
    product_code=_number(1000, 9999), quantity=_number(1, 99), unit_of_measure=_one_of("piece", "box")
)

# name -> (is most of the document its structure?, schema)
SCHEMAS: dict[str, tuple[bool, dict[str, Any]]] = {
    "summary": (False, _object(title=_text(30), summary=_text(160))),
    "person": (False, _object(name=_text(24), age=_number(0, 150), city=_text(20), email=_text(24))),
    "review": (
        False,
        _object(
            sentiment=_one_of("positive", "neutral", "negative"),
            score=_number(1, 10),
            reasons={"type": "array", "items": _text(20), "minItems": 2, "maxItems": 2},
        ),
    ),
    "tool call": (
        True,
        _object(
            function=_one_of("create_calendar_event", "send_email_message", "search_documents"),
            arguments=_object(
                start_hour=_number(0, 23),
                duration_minutes=_number(5, 240),
                is_all_day_event=YES_NO,
                reminder_minutes_before=_number(0, 60),
            ),
        ),
    ),
    "order": (
        True,
        _object(
            order_number=_number(10000, 99999),
            delivery_country=_one_of("Germany", "France", "Italy"),
            order_lines={"type": "array", "items": LINE, "minItems": 3, "maxItems": 3},
            payment_method=_one_of("credit_card", "bank_transfer", "invoice"),
        ),
    ),
    "settings": (
        True,
        _object(
            enable_notifications=YES_NO,
            enable_automatic_updates=YES_NO,
            preferred_language=_one_of("English", "German", "French"),
            maximum_download_size_megabytes=_number(1, 999),
            connection_timeout_seconds=_number(1, 60),
            log_level=_one_of("debug", "information", "warning", "error"),
            share_anonymous_usage_statistics=YES_NO,
        ),
    ),
    "inventory": (
        True,
        _object(
            warehouse=_object(
                warehouse_identifier=_number(1, 99),
                region=_one_of("north", "south", "east", "west"),
                is_temperature_controlled=YES_NO,
            ),
            current_stock_quantity=_number(0, 9999),
            minimum_stock_quantity=_number(0, 99),
            replenishment_status=_one_of("not_required", "ordered", "delayed"),
        ),
    ),
}


# --- measuring ----------------------------------------------------------------------------------------------


class Timed:
    """An engine and a matcher as a generation sees them, with the time that choosing a token takes."""

    def __init__(self, engine: Engine, matcher: Any) -> None:
        self.engine, self.matcher = engine, matcher
        self.n_ctx = engine.n_ctx
        self.choices_us: list[float] = []
        self._spent = 0.0
        self._is_choosing = False

    @property
    def n_past(self) -> int:
        return self.engine.n_past

    def decode(self, tokens: Sequence[int]) -> None:
        if self._is_choosing:
            self.choices_us.append(self._spent * 1e6)
        self._spent, self._is_choosing = 0.0, False
        self.engine.decode(tokens)

    def sample(self, mask: Any = None) -> int:
        self._is_choosing = True
        return self._timed(self.engine.sample, mask)

    def _timed(self, call: Any, *arguments: Any) -> Any:
        started = time.perf_counter()
        result = call(*arguments)
        self._spent += time.perf_counter() - started
        return result

    def piece(self, token: int) -> bytes:
        return self.engine.piece(token)

    def is_end(self, token: int) -> bool:
        return self.engine.is_end(token)

    def __getattr__(self, name: str) -> Any:
        """The matcher's methods; masks are timed as a part of `sample`."""
        method = getattr(self.matcher, name)
        if name == "apply_mask":
            return method
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
    document: str


def measure_model(engine: Engine, tokenizer: Tokenizer, n_pairs: int) -> Iterator[Row]:
    prompt = engine.vocabulary.tokenize(PROMPT)
    for name, (is_heavy, schema) in SCHEMAS.items():
        constraint = parse_schema(json.dumps(schema))
        write(engine, tokenizer, prompt, constraint, None)  # warms up
        pairs, choices = [], []
        for number in range(n_pairs):
            order = (True, False) if number % 2 else (False, True)
            found: dict[bool, tuple[Stats, str, list[float]]] = {}
            for is_json in order:
                n_tokens = pairs[-1][0].generated_tokens if pairs else 64
                found[is_json] = write(
                    engine, tokenizer, prompt, constraint if is_json else None, None if is_json else n_tokens
                )
            pairs.append((found[True][0], found[False][0]))
            choices += found[True][2]
            document = found[True][1]
        json.loads(document)
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
            document=document,
        )


def write(
    engine: Engine, tokenizer: Tokenizer, prompt: list[int], constraint: Constraint | None, n_most: int | None
) -> tuple[Stats, str, list[float]]:
    """One greedy answer from an empty context: what it took, its text, and the time of each choice."""
    engine.rewind(0)
    if constraint is None:
        generation = Generation(engine, prompt, Limits(n_most))
        timed = None
    else:
        timed = Timed(engine, make_matcher(tokenizer, constraint))
        generation = Generation(timed, prompt, Limits(n_most), timed)
    for _ in generation:
        pass
    assert generation.stats is not None
    return generation.stats, generation.text, timed.choices_us if timed else []


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
    parser.add_argument("--documents", action="store_true", help="show what was written")
    args = parser.parse_args()
    met = True
    print(
        "model            schema     tokens forced  JSON tok/s  free tok/s  gain (from – to)       choice µs"
    )
    for path in args.models:
        anatomy = make_anatomy(open_header(path))
        needed = 1.25 if anatomy.n_expert else 1.5
        settings = Settings(n_ctx=1024, n_threads=args.threads, n_threads_batch=args.threads)
        with Engine([path], settings, anatomy.arch) as engine:
            engine.use_sampling(Sampling(temperature=0))
            tokenizer = make_tokenizer(make_table(engine), fast_masks=False)
            for row in measure_model(engine, tokenizer, args.pairs):
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
        f"  {gain:4.2f} x ({min(row.gains):.2f} – {max(row.gains):.2f}) >= {needed:.2f} {row.choice_us:8.0f}"
        f"  {'met' if is_met else 'MISSED'}",
        flush=True,
    )
    return is_met


if __name__ == "__main__":
    sys.exit(main())
