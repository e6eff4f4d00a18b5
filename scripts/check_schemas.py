"""How many real schemas are enforced, and how exactly: `python scripts/check_schemas.py FILE [--limit N]`.

FILE has one JSON object a line: {"id", "schema", "tests": [{"valid", "data"}]}. A valid document counts as
accepted when it can be written with its properties in some order: a grammar fixes an order, which is the
schema's, and JSON gives it no meaning. What is accepted only after reordering is counted apart. With
`--mode best-effort` a document counts as accepted when it can be written under what is enforced and the final
validation passes it, as in `moetool run --schema-mode best-effort`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moetool.constrain import (
    Constraint,
    Judge,
    Matcher,
    Refusal,
    Tokenizer,
    TokenTable,
    find_refusal,
    make_matcher,
    make_tokenizer,
    parse_schema,
    parse_schema_loosely,
)
from moetool.errors import ConstraintError

MAX_STEPS = 4_000


@dataclass(frozen=True)
class Verdict:
    """What became of one schema: "right", "refused", "wrongly accepted" or "wrongly rejected"."""

    name: str
    outcome: str
    keyword: str
    reason: str
    reordered: bool


def main() -> None:
    """Print the counts, the refusals by keyword, and every schema that is not right when asked."""
    arguments = read_arguments()
    tokenizer = make_byte_tokenizer()
    started = time.process_time()
    compiled = strictly if arguments.mode == "strict" else loosely
    verdicts = [judge(tokenizer, row, compiled) for row in read_rows(arguments.file, arguments.limit)]
    show(verdicts, time.process_time() - started)
    if arguments.list:
        for verdict in verdicts:
            if verdict.outcome != "right":
                print(f"{verdict.outcome:<18}{verdict.name}: {verdict.reason}")


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--limit", type=int, default=None, help="only the first N schemas")
    parser.add_argument("--mode", choices=["strict", "best-effort"], default="strict")
    parser.add_argument("--list", action="store_true", help="name every schema that is not right")
    return parser.parse_args()


def read_rows(path: Path, limit: int | None) -> Iterator[dict[str, Any]]:
    """The schemas with their tests."""
    with path.open(encoding="utf-8") as lines:
        for _, line in zip(range(limit if limit is not None else 1 << 60), lines, strict=False):
            yield json.loads(line)


# A schema -> its constraint and the judge of finished documents, if there is one; or why it is refused.
Compiled = tuple[Constraint, Judge | None] | Refusal


def strictly(schema: Any) -> Compiled:
    """As `--schema-mode strict` takes it."""
    return find_refusal(schema) or (parse_schema(json.dumps(schema)), None)


def loosely(schema: Any) -> Compiled:
    """As `--schema-mode best-effort` takes it."""
    try:
        constraint, _ = parse_schema_loosely(json.dumps(schema))
        return constraint, Judge(constraint)
    except ConstraintError as error:
        return Refusal("", "/", error.message)


def judge(tokenizer: Tokenizer, row: dict[str, Any], compiled: Callable[[Any], Compiled]) -> Verdict:
    """Compile one schema and try its documents."""
    found = compiled(row["schema"])
    if isinstance(found, Refusal):
        return Verdict(row["id"], "refused", found.keyword or "(other)", found.reason, reordered=False)
    constraint, last = found
    reordered = False
    for test in row["tests"]:
        accepted = make_matcher(tokenizer, constraint), Writer(tokenizer, constraint)
        as_it_stands = writes(accepted[0], json.dumps(test["data"], ensure_ascii=False))
        in_some_order = as_it_stands or accepted[1].can_write(test["data"])
        if last is not None and last.faults(json.dumps(test["data"])):
            as_it_stands = in_some_order = False
        reordered |= in_some_order and not as_it_stands
        if in_some_order != test["valid"]:
            outcome = "wrongly accepted" if in_some_order else "wrongly rejected"
            return Verdict(row["id"], outcome, "", json.dumps(test["data"])[:200], reordered=reordered)
    return Verdict(row["id"], "right", "", "", reordered=reordered)


def writes(matcher: Matcher, text: str) -> bool:
    """Whether `text` is a whole document."""
    for token in encoded(text):
        if not matcher.accepts(token):
            return False
        matcher.commit(token)
    return matcher.is_complete()


class Writer:
    """Writes a value under a matcher, trying the properties of objects in every order that is allowed."""

    def __init__(self, tokenizer: Tokenizer, constraint: Constraint) -> None:
        self._matcher = make_matcher(tokenizer, constraint)
        self._steps = MAX_STEPS

    def can_write(self, value: Any) -> bool:
        """Whether some order of properties is accepted."""
        return any(self._matcher.is_complete() for _ in self._ways(value))

    def _ways(self, value: Any) -> Iterator[None]:
        """Yields once for each way to write `value`, with the matcher after it; takes it back in between."""
        if isinstance(value, dict):
            yield from self._object(list(value.items()), "{")
        elif isinstance(value, list):
            yield from self._array(value, "[")
        else:
            yield from self._text(json.dumps(value, ensure_ascii=False))

    def _text(self, text: str) -> Iterator[None]:
        self._steps -= 1
        written = 0
        for token in encoded(text) if self._steps > 0 else b"":
            if not self._matcher.accepts(token):
                break
            self._matcher.commit(token)
            written += 1
        else:
            if self._steps > 0:
                yield
        if written:
            self._matcher.rollback(written)

    def _object(self, left: list[tuple[str, Any]], before: str) -> Iterator[None]:
        if not left:
            yield from self._text("{}" if before == "{" else "}")
        for i, (name, value) in enumerate(left):
            for _ in self._text(f"{before}{json.dumps(name, ensure_ascii=False)}: "):
                for _ in self._ways(value):
                    yield from self._object(left[:i] + left[i + 1 :], ", ")

    def _array(self, left: list[Any], before: str) -> Iterator[None]:
        if not left:
            yield from self._text("[]" if before == "[" else "]")
            return
        for _ in self._text(before):
            for _ in self._ways(left[0]):
                yield from self._array(left[1:], ", ")


def encoded(text: str) -> bytes:
    """As bytes; each is a token."""
    return text.encode("utf-8", "surrogatepass")


def make_byte_tokenizer() -> Tokenizer:
    """A vocabulary of single bytes."""
    tokens = [bytes([i]) for i in range(256)] + [b"<end>"]
    return make_tokenizer(TokenTable(tokens, frozenset({256}), (256,), list), fast_masks=False)


def show(verdicts: list[Verdict], seconds: float) -> None:
    """The table."""
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    print(f"{len(verdicts)} schemas in {seconds:.1f} s of CPU time")
    for outcome in ("right", "refused", "wrongly accepted", "wrongly rejected"):
        print(f"  {outcome:<18}{outcomes[outcome]:>5}")
    reordered = sum(verdict.reordered for verdict in verdicts if verdict.outcome == "right")
    print(f"  right only with properties in the schema's order: {reordered}")
    print("refused by keyword")
    for keyword, n in Counter(v.keyword for v in verdicts if v.outcome == "refused").most_common():
        print(f"  {keyword:<18}{n:>5}")


if __name__ == "__main__":
    main()
