"""A JSON Schema as a tree of places: what is a keyword, what is only a name, and where each one stands.

Knows the shape of schemas (draft 4 to 2020-12). Knows no engine, no file and no instance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Keywords whose value is a map from names to schemas, a list of schemas, or one schema.
MAPS = frozenset(
    {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"}
)
LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
ONES = frozenset(
    {"items", "additionalItems", "additionalProperties", "not", "if", "then", "else"}
    | {"contains", "propertyNames", "unevaluatedItems", "unevaluatedProperties"}
)


def iter_schemas(schema: object, pointer: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every object schema inside `schema`, itself first, each with its JSON pointer."""
    if not isinstance(schema, dict):
        return
    yield pointer, schema
    for keyword, value in schema.items():
        for step, child in _children(keyword, value):
            yield from iter_schemas(child, f"{pointer}/{_escaped(keyword)}{step}")


def _children(keyword: str, value: object) -> Iterator[tuple[str, object]]:
    if keyword in MAPS and isinstance(value, dict):
        yield from ((f"/{_escaped(name)}", child) for name, child in value.items())
    elif keyword in LISTS and isinstance(value, list):
        yield from ((f"/{i}", child) for i, child in enumerate(value))
    elif keyword in ONES:
        yield "", value


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def places_of(schema: object, keyword: str, value: object = None) -> list[str]:
    """Pointers of the schemas that use `keyword` (with `value`, where one is given)."""
    return [
        pointer
        for pointer, part in iter_schemas(schema)
        if keyword in part and (value is None or part[keyword] == value)
    ]
