"""JSON Schema: what is enforced exactly, and what is refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moetool.constrain.constraint import Constraint, read_source
from moetool.constrain.library import compile_error, first_line, llguidance
from moetool.constrain.places import places_of
from moetool.errors import ConstraintError

# Between items and after keys. Models write JSON with one space there; a bound on whitespace is also what
# keeps a model from filling its context with newlines.
SEPARATORS = {"spaced": (", ", ": "), "compact": (",", ":")}


@dataclass(frozen=True)
class Refusal:
    """Why a schema cannot be enforced: the keyword, the JSON pointer of the schema that uses it, and why."""

    keyword: str
    place: str
    reason: str


def parse_schema(text_or_path: str, whitespace: str = "spaced") -> Constraint:
    """A constraint from a JSON Schema, given inline (it starts with `{`) or as a path.

    Strict: a keyword that cannot be enforced while decoding raises ConstraintError with its name and place;
    nothing is weakened, and no `$ref` leaves the document. A missing file raises NotFound.
    """
    schema = _schema_of(_inline_or_file(text_or_path))
    refusal = find_refusal(schema, whitespace)
    if refusal:
        raise ConstraintError(refusal.reason, _schema_hint(refusal))
    title = schema.get("title")
    return Constraint(
        kind="schema",
        source=json.dumps(schema, ensure_ascii=False),
        grammar=_schema_grammar(schema, whitespace),
        whitespace=whitespace,
        title=title if isinstance(title, str) else "JSON schema",
    )


def find_refusal(schema: dict[str, Any], whitespace: str = "spaced") -> Refusal | None:
    """Why `schema` cannot be enforced exactly, or None when it can."""
    error = compile_error(_schema_grammar(schema, whitespace))
    return _explain(schema, error) if error else None


def _inline_or_file(text_or_path: str) -> str:
    inline = text_or_path.lstrip().startswith("{")
    return text_or_path if inline else read_source(Path(text_or_path))


def _schema_of(text: str) -> dict[str, Any]:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConstraintError(
            f"The schema is not JSON: {first_line(str(error)) or 'nested too deeply'}.",
            "Give a JSON Schema as a file or as text in single quotes.",
        ) from error
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise ConstraintError('A JSON Schema is an object, such as {"type": "object"}.')
    return schema


def _schema_grammar(schema: dict[str, Any], whitespace: str) -> str:
    if whitespace not in SEPARATORS:
        raise ConstraintError(f"Unknown whitespace {whitespace!r}: use {' or '.join(SEPARATORS)}.")
    item, key = SEPARATORS[whitespace]
    # Overrides win over the schema's own "x-guidance", so that no schema can ask to be weakened.
    options = {
        "whitespace_flexible": False,
        "item_separator": item,
        "key_separator": key,
        "lenient": False,
        "coerce_one_of": False,
    }
    own = {k: v for k, v in schema.items() if k != "x-guidance"}
    grammar: str = llguidance().LLMatcher.grammar_from_json_schema(json.dumps(own), overrides=options)
    return grammar


def _explain(schema: dict[str, Any], error: str) -> Refusal:
    """The engine's message as a refusal with a keyword and a place."""
    for pattern, keyword_group, reason in _REFUSALS:
        found = re.search(pattern, error, re.DOTALL)
        if found:
            keyword, value = keyword_group(found)
            place = next(iter(places_of(schema, keyword, value)), "")
            return Refusal(keyword, place or "/", reason.format(*found.groups(), place=place or "the top"))
    return Refusal("", "/", f"The schema cannot be compiled: {first_line(error)}.")


# What the engine says -> (keyword, its value or None), and the sentence for the user.
_REFUSALS: tuple[tuple[str, Callable[[re.Match[str]], tuple[str, object]], str], ...] = (
    (
        r'Unimplemented keys: \["([^"]+)"',
        lambda m: (m[1], None),
        "The schema uses {0!r} at {place}, which cannot be enforced while decoding.",
    ),
    (
        r"oneOf constraints are not supported",
        lambda m: ("oneOf", None),
        "The schema uses 'oneOf' at {place} with branches that may overlap, which cannot be enforced.",
    ),
    (
        r"Unknown format: (.*)",
        lambda m: ("format", m[1].strip()),
        "The schema asks for the format {0!r} at {place}, which is not known.",
    ),
    (
        r"regex parse error:\n\s*(.*?)\n.*error: (.*)",
        lambda m: ("pattern", None),
        "The schema uses the pattern {0!r}, which cannot be used: {1}.",
    ),
    (
        r"Resource '([^']*)' is not present",
        lambda m: ("$ref", m[1]),
        "The schema refers to {0!r}, outside itself; nothing is fetched.",
    ),
    (
        r"Pointer '([^']*)' does not exist",
        lambda m: ("$ref", "#" + m[1]),
        "The schema refers to '#{0}', which it does not define.",
    ),
    (
        r"Unsatisfiable schema: (.*)",
        lambda m: ("", None),
        "No document can satisfy the schema: {0}.",
    ),
)


def _schema_hint(refusal: Refusal) -> str:
    if refusal.keyword in {"pattern", "$ref", ""}:
        return "Correct the schema."
    return f"Remove {refusal.keyword!r} from the schema, or say the same with other keywords."
