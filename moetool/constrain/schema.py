"""JSON Schema: what is enforced exactly, and what is refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from moetool.constrain.constraint import Constraint, read_source, require_text
from moetool.constrain.library import compile_error, first_line, llguidance
from moetool.constrain.negation import Inexpressible
from moetool.constrain.refusal import Refusal, explain, hint_for, keywords_in
from moetool.constrain.relax import DEPTHS, shallow, without
from moetool.constrain.rewrite import RULES, found_at, rewritten, with_definitions
from moetool.errors import ConstraintError

# Between items and after keys. Models write JSON with one space there; a bound on whitespace is also what
# keeps a model from filling its context with newlines.
SEPARATORS = {"spaced": (", ", ": "), "compact": (",", ":")}
# A rewriting may bring another keyword to light.
MAX_PASSES = 16
MAX_LEFT_OUT = 32


def parse_schema(text_or_path: str, whitespace: str = "spaced") -> Constraint:
    """A constraint from a JSON Schema, given inline (it starts with `{`) or as a path.

    Strict: a keyword that cannot be enforced while decoding raises ConstraintError with its name and place;
    nothing is weakened, and no `$ref` leaves the document. A missing file raises NotFound.
    """
    schema = _schema_of(_inline_or_file(text_or_path))
    grammar, refusal, _ = _compiled(schema, whitespace)
    if refusal:
        raise ConstraintError(refusal.reason, hint_for(refusal))
    return _constraint(schema, grammar, whitespace)


def parse_schema_loosely(
    text_or_path: str, whitespace: str = "spaced"
) -> tuple[Constraint, tuple[Refusal, ...]]:
    """Like `parse_schema`, but what cannot be enforced while decoding is left out, and returned.

    The constraint's `source` is the whole schema: a `Judge` of it tells whether a document is valid. Raises
    ConstraintError for schemas that no document satisfies, and for references to what is not there.
    """
    schema = _schema_of(_inline_or_file(text_or_path))
    left_out: list[Refusal] = []
    current = schema
    for _ in range(MAX_LEFT_OUT):
        grammar, refusal, tried = _compiled(current, whitespace)
        if refusal is None:
            return _constraint(schema, grammar, whitespace), tuple(left_out)
        _raise_on_hopeless(refusal, schema)
        weaker = without(current, refusal) or without(tried, refusal)
        if weaker is None:
            break
        left_out.append(refusal)
        current = weaker
    return _shallow_constraint(schema, whitespace)


def _raise_on_hopeless(refusal: Refusal, schema: dict[str, Any]) -> None:
    if refusal.keyword == "$ref" and not _is_defined(refusal.value, schema):
        raise ConstraintError(refusal.reason, hint_for(refusal))
    if refusal.is_unsatisfiable:
        raise ConstraintError(refusal.reason, hint_for(refusal))


def _is_defined(reference: str, schema: dict[str, Any]) -> bool:
    try:
        found_at(schema, reference)
    except (Inexpressible, LookupError, ValueError, TypeError):
        return False
    return True


def _shallow_constraint(schema: dict[str, Any], whitespace: str) -> tuple[Constraint, tuple[Refusal, ...]]:
    """Of a schema that as a whole is too much, the upper levels."""
    for depth in DEPTHS:
        grammar, refusal, _ = _compiled(shallow(schema, depth), whitespace)
        if refusal is None:
            where = f"Below the upper {depth + 1} levels" if depth else "Below the top level"
            said = f"{where} of the schema only types are enforced; the whole is too much."
            return _constraint(schema, grammar, whitespace), (Refusal("", "/", said),)
    raise ConstraintError("Nothing of the schema can be enforced.", _HINT)


def _constraint(schema: dict[str, Any], grammar: str, whitespace: str) -> Constraint:
    title = schema.get("title")
    return Constraint(
        kind="schema",
        source=json.dumps(schema, ensure_ascii=False),
        grammar=grammar,
        whitespace=whitespace,
        title=title if isinstance(title, str) else "JSON schema",
    )


def find_refusal(schema: dict[str, Any], whitespace: str = "spaced") -> Refusal | None:
    """Why `schema` cannot be enforced exactly, or None when it can."""
    return _compiled(schema, whitespace)[1]


def _compiled(schema: dict[str, Any], whitespace: str) -> tuple[str, Refusal | None, dict[str, Any]]:
    """The grammar of `schema`, after as many exact rewritings as it takes, or why there is none; and the
    rewritten schema."""
    current = schema
    for _ in range(MAX_PASSES):
        grammar = _schema_grammar(current, whitespace)
        error = compile_error(grammar)
        if not error:
            return grammar, None, current
        before, current = current, _rewritten_for(error, current)
        if current == before:
            break
    return "", explain(schema, current, error), current


def _rewritten_for(error: str, schema: dict[str, Any]) -> dict[str, Any]:
    keywords = [keyword for keyword in keywords_in(error) if keyword in RULES]
    if "not" in keywords:
        # One branch may be what another forbids by `not`: seen only as long as the `not` is there.
        keywords.insert(0, "oneOf")
    if keywords:
        schema = with_definitions(schema)
    for keyword in keywords:
        schema = rewritten(schema, keyword)
    return schema


def _inline_or_file(text_or_path: str) -> str:
    text = text_or_path.strip()
    if not text:
        raise ConstraintError("The schema is empty.", _HINT)
    return (
        text if text.startswith(("{", "[")) or text in {"true", "false"} else read_source(Path(text_or_path))
    )


_HINT = "Give a JSON Schema as a file or as text in single quotes."


def _schema_of(text: str) -> dict[str, Any]:
    require_text(text, "schema")
    try:
        schema = json.loads(text, parse_constant=_refuse_number, parse_float=_finite)
        # Escapes may stand for half a character.
        json.dumps(schema, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ConstraintError("The schema has half a character in it (\\ud800 to \\udfff).", _HINT) from error
    except (ValueError, RecursionError) as error:
        problem = first_line(str(error)) if isinstance(error, ValueError) else "nested too deeply"
        raise ConstraintError(f"The schema is not JSON: {problem}.", _HINT) from error
    if schema is True:
        return {}
    if schema is False:
        raise ConstraintError("No document can satisfy the schema false.", _HINT)
    if not isinstance(schema, dict):
        raise ConstraintError('A JSON Schema is an object, such as {"type": "object"}.', _HINT)
    return schema


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse_number(digits)


def _refuse_number(digits: str) -> float:
    raise ValueError(f"{digits} is not a number that JSON has")


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
    try:
        grammar: str = llguidance().LLMatcher.grammar_from_json_schema(json.dumps(own), overrides=options)
    # Rust's JSON is stricter than Python's, about the size of numbers for one.
    except ValueError as error:
        raise ConstraintError(f"The schema cannot be read: {first_line(str(error))}.", _HINT) from error
    return grammar
