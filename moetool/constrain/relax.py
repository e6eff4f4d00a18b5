"""A schema weakened to what can be enforced while decoding; what was left out is named, and checked later.

Whatever the schema accepts, its weakened form accepts too. Knows nothing of the engine's messages.
"""

from __future__ import annotations

from typing import Any

from moetool.constrain.places import LISTS, MAPS, ONES
from moetool.constrain.refusal import Refusal

# Within these a weaker part makes the whole stronger (or says nothing of the document's own places).
_TURNING = frozenset({"not", "if", "contains", "propertyNames", "dependencies", "dependentSchemas"})
# Levels of a schema that are kept when no single keyword is in the way.
DEPTHS = (6, 3, 1, 0)


def without(schema: dict[str, Any], refusal: Refusal) -> dict[str, Any] | None:
    """`schema` without the keyword that a refusal names; None when it cannot be left out.

    At its place, or everywhere if the place is not one of this schema (it may be one of a rewritten form).
    """
    if refusal.keyword in {"", "$ref"}:
        return None
    for place in (refusal.place, None):
        found = _dropped(schema, refusal.keyword, place, "")
        if found != schema:
            return found if isinstance(found, dict) else None
    return None


def shallow(schema: dict[str, Any], depth: int) -> dict[str, Any]:
    """`schema` down to `depth` levels, of deeper parts their types only, and no references."""
    if depth == 0 or "$ref" in schema:
        return {"type": schema["type"]} if "type" in schema else {}
    kept: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in _TURNING or keyword in {"$defs", "definitions", "then", "else"}:
            continue
        # Weaker branches may overlap where the branches themselves do not.
        kept["anyOf" if keyword == "oneOf" and "anyOf" not in schema else keyword] = _children(
            keyword, value, lambda part, _step: shallow(part, depth - 1) if isinstance(part, dict) else part
        )
    return kept


def _dropped(schema: Any, keyword: str, place: str | None, here: str) -> Any:
    if not isinstance(schema, dict):
        return schema
    inside = {
        name: value
        if name in _TURNING
        else _children(
            name,
            value,
            lambda part, step, name=name: _dropped(part, keyword, place, f"{here}/{_escaped(name)}{step}"),
        )
        for name, value in schema.items()
    }
    one_of = schema.get("oneOf")
    if "oneOf" in inside and inside["oneOf"] != one_of:
        inside = _as_any_of(inside)
    if keyword not in inside or place not in {None, here or "/"}:
        return inside
    return _as_any_of(inside) if keyword == "oneOf" else _without_keyword(inside, keyword)


def _without_keyword(schema: dict[str, Any], keyword: str) -> dict[str, Any]:
    # The branches of a condition mean nothing without it.
    gone = {"if", "then", "else"} if keyword in {"if", "then", "else"} else {keyword}
    if keyword in {"minProperties", "maxProperties"}:
        gone = {"minProperties", "maxProperties"}
    return {name: value for name, value in schema.items() if name not in gone}


def _as_any_of(schema: dict[str, Any]) -> dict[str, Any]:
    """With `anyOf` for `oneOf`: what exactly one accepts, some accept."""
    branches = schema["oneOf"]
    rest = {name: value for name, value in schema.items() if name != "oneOf"}
    if "anyOf" in rest:
        return {**rest, "allOf": [*rest.get("allOf", []), {"anyOf": branches}]}
    return {**rest, "anyOf": branches}


def _children(keyword: str, value: Any, change: Any) -> Any:
    """`value` of a keyword with the schemas directly in it changed; `change` gets each, and its pointer."""
    if keyword in MAPS and isinstance(value, dict):
        return {name: change(part, f"/{_escaped(name)}") for name, part in value.items()}
    if keyword in LISTS and isinstance(value, list):
        return [change(part, f"/{i}") for i, part in enumerate(value)]
    return change(value, "") if keyword in ONES else value


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
