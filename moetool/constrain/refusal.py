"""What the engine says about a schema, as a refusal that names the keyword and where it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from moetool.constrain.library import reason
from moetool.constrain.places import places_of


@dataclass(frozen=True)
class Refusal:
    """Why a schema cannot be enforced: the keyword, the JSON pointer of the schema that uses it, and why;
    the keyword's value where that is what is wrong; and whether no document at all would be valid."""

    keyword: str
    place: str
    reason: str
    value: str = ""
    is_unsatisfiable: bool = False


def keywords_in(error: str) -> list[str]:
    """The keywords that the engine's message names as its reason."""
    unknown = re.search(r"Unimplemented keys: (\[.*\])", error)
    if unknown:
        return [str(name) for name in json.loads(unknown[1])]
    return [keyword for said, keyword in _NAMED if said in error]


_NAMED = (
    ("oneOf constraints", "oneOf"),
    ("Unknown format", "format"),
    ("min/maxProperties only", "minProperties"),
    ("min/maxProperties only", "maxProperties"),
)


def explain(schema: dict[str, Any], tried: dict[str, Any], error: str) -> Refusal:
    """The engine's message about `tried` as a refusal of `schema`, with a keyword and a place."""
    for pattern, keyword_group, sentence in REFUSALS:
        found = re.search(pattern, error, re.DOTALL)
        if found:
            keyword, value = keyword_group(found)
            places = places_of(tried, keyword, value) or places_of(schema, keyword, value)
            place = next(iter(places), "")
            said = sentence.format(*found.groups(), place=place or "the top")
            unsatisfiable = pattern.startswith("Unsatisfiable")
            return Refusal(keyword, place or "/", said, str(value or ""), is_unsatisfiable=unsatisfiable)
    return Refusal("", "/", f"The schema cannot be followed: {reason(error)}.")


# What the engine says -> (keyword, its value or None), and the sentence for the user.
REFUSALS: tuple[tuple[str, Callable[[re.Match[str]], tuple[str, object]], str], ...] = (
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
        r"(lookarounds not supported)[^\n]* in regex /(.*)/",
        lambda m: ("pattern", m[2]),
        "The schema uses the pattern {1!r}, which cannot be used: {0}.",
    ),
    (
        r"min/maxProperties only supported",
        lambda m: ("minProperties", None),
        "The schema uses 'minProperties' or 'maxProperties' at {place} where properties may be left out.",
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


def hint_for(refusal: Refusal) -> str:
    """What to do about it."""
    if refusal.keyword in {"pattern", "$ref", ""}:
        return "Correct the schema."
    return f"--schema-mode best-effort checks {refusal.keyword!r} at the end; or say it with other keywords."
