"""Keywords that the engine does not know, said with those it knows. Exactly: the same documents are valid.

`rewritten(schema, keyword)` replaces one keyword at all its places, where that can be done, and leaves the
others. Property order stays as it is written, because that is the order in which documents are generated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import combinations, permutations
from typing import Any
from urllib.parse import unquote as unquoted

from moetool.constrain.negation import (
    TYPES,
    Inexpressible,
    Negation,
    Schema,
    all_of,
    any_of,
    dependencies,
    escaped,
    type_of,
)
from moetool.constrain.places import LISTS, MAPS, ONES, iter_schemas

# The engine enforces these.
FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
)
# Formats that the specification defines and the engine does not: as patterns, where those are regular.
PATTERNS = {
    "json-pointer": r"^(?:/(?:[^~/]|~[01])*)*$",
    "relative-json-pointer": r"^(?:0|[1-9][0-9]*)(?:#|(?:/(?:[^~/]|~[01])*)*)$",
}
DEFINED = frozenset(
    {"idn-email", "idn-hostname", "iri", "iri-reference", "uri-reference", "uri-template", "regex"}
    | set(PATTERNS)
)
MAX_LISTINGS = 400


def with_definitions(root: dict[str, Any]) -> dict[str, Any]:
    """`root` with what its references point to in odd places moved to `$defs`, where it is rewritten too."""
    known = {pointer for pointer, _ in iter_schemas(root)}
    wanted = {part["$ref"] for _, part in iter_schemas(root) if isinstance(part.get("$ref"), str)}
    odd = sorted(ref for ref in wanted if ref.startswith("#/") and unquoted(ref[1:]) not in known)
    for reference in odd:
        name = f"moved-{len(root.get('$defs', {}))}"
        root = _renamed(root, reference, f"#/$defs/{name}")
        root = {**root, "$defs": {**root.get("$defs", {}), name: found_at(root, reference)}}
    return root


def _renamed(value: Any, reference: str, new: str) -> Any:
    if isinstance(value, dict):
        return {
            k: new if k == "$ref" and v == reference else _renamed(v, reference, new)
            for k, v in value.items()
        }
    return [_renamed(part, reference, new) for part in value] if isinstance(value, list) else value


def found_at(root: Any, reference: str) -> Any:
    """What `#/…` points to; Inexpressible for every other reference, LookupError where there is nothing."""
    if not reference.startswith("#") or (len(reference) > 1 and reference[1] != "/"):
        raise Inexpressible("$ref")
    for step in unquoted(reference).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        root = root[int(name)] if isinstance(root, list) else root[name]
    return root


def rewritten(root: dict[str, Any], keyword: str) -> dict[str, Any]:
    """`root` with `keyword` replaced wherever that is possible without changing what is valid."""
    schema: dict[str, Any] = _Rewrite(root, keyword).of(root)
    return schema


class _Rewrite:
    """One pass over one schema for one keyword."""

    def __init__(self, root: dict[str, Any], keyword: str) -> None:
        self._root = root
        self._keyword = keyword
        self._rule = RULES[keyword]
        self.negation = Negation(self.resolve, FORMATS)

    def of(self, schema: Schema) -> Schema:
        """`schema` with its parts rewritten first, then itself."""
        if not isinstance(schema, dict):
            return schema
        # Inside the keyword itself nothing is rewritten: a rule reads it as it stands.
        inside = {k: v if k == self._keyword else self._inside(k, v) for k, v in schema.items()}
        if self._keyword not in inside:
            return inside
        rest = {name: value for name, value in inside.items() if name != self._keyword}
        try:
            return _merged(rest, self._rule(self, inside))
        # Inexpressible, or a keyword with a value that it cannot have: the engine's own refusal says more.
        except (Inexpressible, TypeError, ValueError, LookupError, AttributeError, RecursionError):
            return inside

    def _inside(self, name: str, value: Any) -> Any:
        if name in MAPS and isinstance(value, dict):
            return {key: self.of(part) for key, part in value.items()}
        if name in LISTS and isinstance(value, list):
            return [self.of(part) for part in value]
        return self.of(value) if name in ONES else value

    def resolve(self, reference: str) -> Schema:
        """What a reference points to; Inexpressible where it leaves the schema."""
        return found_at(self._root, reference)

    # -- what the rules ask ------------------------------------------------------------------------

    def expanded(self, schema: Schema) -> dict[str, Any]:
        """`schema`, or what it refers to when it is nothing but a reference."""
        for _ in range(16):
            if not isinstance(schema, dict) or "$ref" not in schema:
                break
            schema = self.resolve(schema["$ref"])
        return schema if isinstance(schema, dict) else {}

    def types(self, schema: Schema) -> set[str]:
        """The types of value that `schema` may accept."""
        if schema is False:
            return set()
        whole = self.expanded(schema)
        kinds = set(TYPES)
        if "type" in whole:
            named = [whole["type"]] if isinstance(whole["type"], str) else whole["type"]
            kinds &= {"number" if name == "integer" else name for name in named}
        for values in (whole.get("enum"), [whole["const"]] if "const" in whole else None):
            if values is not None:
                kinds &= {type_of(value) for value in values}
        for part in whole.get("allOf", []):
            kinds &= self.types(part)
        for group in ("anyOf", "oneOf"):
            if group in whole:
                kinds &= set().union(*(self.types(part) for part in whole[group]))
        return kinds

    def disjoint(self, left: Schema, right: Schema) -> bool:
        """Whether it is plain that no document is valid under both."""
        shared = self.types(left) & self.types(right)
        if not shared or self._opposite(left, right) or self._opposite(right, left):
            return True
        if shared != {"object"}:
            return False
        a, b = self.expanded(left), self.expanded(right)
        return _closed_to(a, b) or _closed_to(b, a) or self._told_apart(a, b)

    def _opposite(self, left: Schema, right: Schema) -> bool:
        """Whether `left` demands something that `right` forbids by `not`."""
        demanded = [self.expanded(part) for part in self._conjuncts(left)]
        return any(self.expanded(part["not"]) in demanded for part in self._conjuncts(right) if "not" in part)

    def _conjuncts(self, schema: Schema) -> list[dict[str, Any]]:
        """`schema` and the parts of its `allOf`, all of which hold."""
        whole = self.expanded(schema)
        return [whole, *(self.expanded(part) for part in whole.get("allOf", []))]

    def _told_apart(self, a: dict[str, Any], b: dict[str, Any]) -> bool:
        """Whether both need a property for which they list different values."""
        shared = set(a.get("required", [])) & set(b.get("required", []))
        return any(self._unlike(a, b, name) for name in shared)

    def _unlike(self, a: dict[str, Any], b: dict[str, Any], name: str) -> bool:
        left = self.expanded(a.get("properties", {}).get(name, True))
        right = self.expanded(b.get("properties", {}).get(name, True))
        values = _listed(left), _listed(right)
        if values[0] is not None and values[1] is not None:
            return not values[0] & values[1]
        return not self.types(left) & self.types(right)


def _closed_to(closed: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether `other` needs a property that `closed` does not let in."""
    if closed.get("additionalProperties") is not False or closed.get("patternProperties"):
        return False
    return bool(set(other.get("required", [])) - set(closed.get("properties", {})))


def _listed(schema: Mapping[str, Any]) -> set[str] | None:
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return None if values is None else {json.dumps(value, sort_keys=True) for value in values}


def _merged(rest: dict[str, Any], more: Schema) -> Schema:
    """`rest` and `more` together, with what `rest` says first."""
    if more is True or more == {}:
        return rest
    if more is False:
        return {**rest, "allOf": [*rest.get("allOf", []), False]}
    if not set(more) & set(rest):
        return {**rest, **more}
    return {**rest, "allOf": [*rest.get("allOf", []), more]}


# -- the rules: from a schema with the keyword to what has to be added to the rest ----------------------


def _without_format(_rewrite: _Rewrite, schema: dict[str, Any]) -> Schema:
    name = schema["format"]
    if name in PATTERNS:
        return {"pattern": PATTERNS[name]}
    if name in FORMATS or name in DEFINED:
        raise Inexpressible("format")
    # The specification: a format that is not known is an annotation.
    return True


def _without_not(rewrite: _Rewrite, schema: dict[str, Any]) -> Schema:
    return rewrite.negation.of(schema["not"])


def _without_condition(rewrite: _Rewrite, schema: dict[str, Any]) -> Schema:
    when = schema["if"]
    yes, no = schema.get("then", True), schema.get("else", True)
    if yes is True and no is True:
        return True
    return any_of([all_of([when, yes]), all_of([rewrite.negation.of(when), no])])


def _without_branch(_rewrite: _Rewrite, schema: dict[str, Any]) -> Schema:
    if "if" in schema:
        raise Inexpressible("if")
    return True


def _without_one_of(rewrite: _Rewrite, schema: dict[str, Any]) -> Schema:
    """Each branch, but for what another branch accepts too, where that is not ruled out anyway."""
    parts = schema["oneOf"]
    return any_of([all_of([part, *_others_reject(rewrite, parts, i)]) for i, part in enumerate(parts)])


def _others_reject(rewrite: _Rewrite, parts: list[Schema], at: int) -> list[Schema]:
    others = [part for i, part in enumerate(parts) if i != at]
    return [rewrite.negation.of(part) for part in others if not rewrite.disjoint(parts[at], part)]


def _without_names(_rewrite: _Rewrite, schema: dict[str, Any]) -> Schema:
    names = schema["propertyNames"]
    if names is True or names == {}:
        return True
    if set(schema) & {"patternProperties", "additionalProperties", "properties"}:
        raise Inexpressible("propertyNames")
    pattern = _name_pattern(names)
    return {"patternProperties": {pattern: True}, "additionalProperties": False}


def _name_pattern(names: dict[str, Any]) -> str:
    """The names that a schema accepts, as a pattern."""
    limits = {k: v for k, v in names.items() if k not in {"type", "title", "description"}}
    if names.get("type", "string") != "string" or len(limits) != 1:
        raise Inexpressible("propertyNames")
    if "pattern" in limits:
        return str(limits["pattern"])
    if "enum" in limits:
        return f"^(?:{'|'.join(''.join(map(escaped, name)) for name in limits['enum'])})$"
    if "maxLength" in limits:
        return rf"^[\s\S]{{0,{int(limits['maxLength'])}}}$"
    if "minLength" in limits:
        return rf"^[\s\S]{{{int(limits['minLength'])},}}$"
    raise Inexpressible("propertyNames")


def _without_unique(rewrite: _Rewrite, schema: dict[str, Any]) -> Schema:
    """Where there is at most one item, or few values to choose from."""
    if schema["uniqueItems"] is False or schema.get("maxItems", 2) <= 1:
        return True
    values = rewrite.expanded(schema.get("items", True)).get("enum")
    if values is None or "array" not in rewrite.types(schema):
        raise Inexpressible("uniqueItems")
    low, high = schema.get("minItems", 0), min(len(values), schema.get("maxItems", len(values)))
    listings = [
        list(p) for n in range(low, high + 1) for c in combinations(values, n) for p in permutations(c)
    ]
    return _only_arrays(schema, listings)


def _without_fewest(_rewrite: _Rewrite, schema: dict[str, Any]) -> Schema:
    """At least n of the few properties there can be: some set of n is there."""
    least = schema["minProperties"]
    if least <= len(set(schema.get("required", []))):
        return True
    names = _all_names(schema)
    return any_of([{"required": list(chosen)} for chosen in combinations(names, least)] or [False])


def _without_most(_rewrite: _Rewrite, schema: dict[str, Any]) -> Schema:
    """At most n of the few properties there can be: the others are not there, whichever they are."""
    names, most = _all_names(schema), schema["maxProperties"]
    left_out = combinations(names, max(0, len(names) - most))
    return any_of([{"properties": dict.fromkeys(absent, False)} if absent else True for absent in left_out])


def _all_names(schema: dict[str, Any]) -> list[str]:
    """The names that an object can have, where they are all known and it is an object."""
    closed = schema.get("additionalProperties") is False and not schema.get("patternProperties")
    if not closed or schema.get("type") != "object":
        raise Inexpressible("properties")
    return list(schema.get("properties", {}))


def _only_arrays(schema: dict[str, Any], listings: list[list[Any]]) -> Schema:
    if len(listings) > MAX_LISTINGS:
        raise Inexpressible("uniqueItems")
    others = [name for name in TYPES if name != "array"]
    return any_of(
        [{"enum": listings}, {"type": others}] if schema.get("type") != "array" else [{"enum": listings}]
    )


RULES: dict[str, Callable[[_Rewrite, dict[str, Any]], Schema]] = {
    "format": _without_format,
    "not": _without_not,
    "if": _without_condition,
    "then": _without_branch,
    "else": _without_branch,
    "dependencies": lambda _rewrite, schema: dependencies(schema["dependencies"]),
    "dependentRequired": lambda _rewrite, schema: dependencies(schema["dependentRequired"]),
    "dependentSchemas": lambda _rewrite, schema: dependencies(schema["dependentSchemas"]),
    "oneOf": _without_one_of,
    "propertyNames": _without_names,
    "uniqueItems": _without_unique,
    "minProperties": _without_fewest,
    "maxProperties": _without_most,
}
