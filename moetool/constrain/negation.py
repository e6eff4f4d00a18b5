"""The complement of a JSON Schema, as a JSON Schema: exactly the documents that the first one rejects.

Each keyword that restricts documents has its negation in a table; a schema's negation is the `anyOf` of
those. What JSON Schema cannot say without `not` raises Inexpressible, so that nothing is ever approximated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

TYPES = ("null", "boolean", "number", "string", "array", "object")
# These restrict documents in ways that have no negation here. What no table names is an annotation.
UNANSWERED = frozenset(
    {"pattern", "multipleOf", "propertyNames", "unevaluatedItems", "unevaluatedProperties", "$dynamicRef"}
    | {"$recursiveRef", "extends", "disallow", "divisibleBy"}
)
MAX_BRANCHES = 256

Schema = Any
Resolve = Callable[[str], Schema]


class Inexpressible(Exception):
    """The complement needs a keyword that cannot be enforced; the text names what stands in the way."""


class Negation:
    """Negates schemas of one document. `resolve` finds what a `$ref` points to, or raises Inexpressible.

    `formats` are those that are enforced; any other is an annotation.
    """

    def __init__(self, resolve: Resolve, formats: frozenset[str]) -> None:
        self._resolve = resolve
        self._formats = formats
        self._open: list[str] = []

    def of(self, schema: Schema) -> Schema:
        """The schema of what `schema` rejects."""
        if isinstance(schema, bool):
            return not schema
        if not isinstance(schema, dict):
            raise Inexpressible("a schema that is not an object")
        return any_of([self._keyword(name, schema) for name in schema])

    def _keyword(self, name: str, schema: dict[str, Any]) -> Schema:
        value = schema[name]
        if name == "$ref":
            return self._reference(value)
        if name in _OF_SCHEMAS:
            return _OF_SCHEMAS[name](self, value)
        if name in _OF_SIBLINGS:
            return _OF_SIBLINGS[name](self, schema)
        if name in _OF_VALUES:
            return _OF_VALUES[name](value)
        if name in UNANSWERED or (name == "format" and value in self._formats):
            raise Inexpressible(name)
        return False

    def _reference(self, target: str) -> Schema:
        if target in self._open:
            raise Inexpressible("$ref")
        self._open.append(target)
        try:
            return self.of(self._resolve(target))
        finally:
            self._open.pop()

    def double(self, schema: Schema) -> Schema:
        """What `not` rejects is what its schema accepts."""
        if isinstance(schema, dict) and schema.get("$ref") in self._open:
            raise Inexpressible("$ref")  # a schema that is its own opposite
        return True if schema == {} else schema

    def all_of(self, parts: Sequence[Schema]) -> Schema:
        """Some part rejects."""
        return any_of([self.of(part) for part in parts])

    def any_of(self, parts: Sequence[Schema]) -> Schema:
        """Every part rejects."""
        return all_of([self.of(part) for part in parts])

    def one_of(self, parts: Sequence[Schema]) -> Schema:
        """None accepts, or two do."""
        pairs = [all_of([a, b]) for i, a in enumerate(parts) for b in parts[i + 1 :]]
        return any_of([self.any_of(parts), *pairs])

    def properties(self, parts: dict[str, Schema]) -> Schema:
        """An object that has one of them, with a value that its schema rejects."""
        return any_of([self._property(name, part) for name, part in parts.items()])

    def _property(self, name: str, part: Schema) -> Schema:
        bad = self.of(part)
        return bad and {"type": "object", "properties": {name: bad}, "required": [name]}

    def prefix_items(self, parts: Sequence[Schema]) -> Schema:
        """An array with an item, at one of these places, that its schema rejects."""
        return any_of([self._item(i, self.of(part)) for i, part in enumerate(parts)])

    def _item(self, at: int, bad: Schema) -> Schema:
        return bad and {"type": "array", "minItems": at + 1, "prefixItems": [*[True] * at, bad]}

    def items(self, schema: dict[str, Any]) -> Schema:
        """An array with an item that `items` rejects: where it rejects all that follows a prefix, or none."""
        part = schema["items"]
        if isinstance(part, list):
            return self.prefix_items(part)
        return self._one_more_than(schema.get("prefixItems", []), self.of(part))

    def additional_items(self, schema: dict[str, Any]) -> Schema:
        """The same for `additionalItems`, which speaks only after a list in `items`."""
        listed = schema.get("items")
        if not isinstance(listed, list):
            return False
        return self._one_more_than(listed, self.of(schema["additionalItems"]))

    def _one_more_than(self, listed: Sequence[Schema], bad: Schema) -> Schema:
        if isinstance(bad, bool):
            return bad and {"type": "array", "minItems": len(listed) + 1}
        raise Inexpressible("items")

    def contains(self, schema: dict[str, Any]) -> Schema:
        """An array of which no item is accepted."""
        if "minContains" in schema or "maxContains" in schema:
            raise Inexpressible("contains")
        return {"type": "array", "items": self.of(schema["contains"])}

    def pattern_properties(self, parts: dict[str, Schema]) -> Schema:
        """Where some name matches and its value is rejected: only where no value is."""
        if any(self.of(part) is not False for part in parts.values()):
            raise Inexpressible("patternProperties")
        return False

    def additional_properties(self, schema: dict[str, Any]) -> Schema:
        """An object with a name besides those listed, where nothing else may stand and few are listed."""
        bad = self.of(schema["additionalProperties"])
        if bad is False:
            return False
        names = list(schema.get("properties", {}))
        if bad is not True or schema.get("patternProperties") or len(names) > 4:
            raise Inexpressible("additionalProperties")
        subsets = ([n for i, n in enumerate(names) if chosen >> i & 1] for chosen in range(1 << len(names)))
        return any_of([_more_than(present, names) for present in subsets])

    def dependencies(self, needs: dict[str, Any]) -> Schema:
        """An object with a name, and without what that name needs."""
        return self.of(dependencies(needs))

    def condition(self, schema: dict[str, Any]) -> Schema:
        """`if` with what stands beside it: the branch that applies rejects."""
        yes, no = schema.get("then", True), schema.get("else", True)
        when = schema["if"]
        return any_of([all_of([when, self.of(yes)]), all_of([self.of(when), self.of(no)])])


def any_of(parts: Sequence[Schema]) -> Schema:
    """`anyOf` in its simplest form; bool where it accepts or rejects everything."""
    useful = [part for part in parts if part is not False]
    if any(part is True or part == {} for part in useful):
        return True
    if len(useful) > MAX_BRANCHES:
        raise Inexpressible("too many branches")
    return {"anyOf": useful} if len(useful) > 1 else useful[0] if useful else False


def all_of(parts: Sequence[Schema]) -> Schema:
    """`allOf` in its simplest form; bool where it accepts or rejects everything."""
    useful = [part for part in parts if part is not True and part != {}]
    if any(part is False for part in useful):
        return False
    return {"allOf": useful} if len(useful) > 1 else useful[0] if useful else True


def dependencies(needs: dict[str, Any]) -> Schema:
    """What `dependencies` says: each name is absent, or what it needs is there."""
    return all_of([_dependency(name, need) for name, need in needs.items()])


def _dependency(name: str, need: Any) -> Schema:
    if isinstance(need, str):
        need = [need]
    # What is no object has no names.
    absent = {"properties": {name: False}}
    if isinstance(need, list):
        return any_of([absent, {"type": "object", "required": [name, *need]}]) if need else True
    return any_of([absent, all_of([{"type": "object", "required": [name]}, need])])


def not_types(value: str | list[str]) -> Schema:
    """The types that are not among these."""
    named = {value} if isinstance(value, str) else set(value)
    if "integer" in named and "number" not in named:
        raise Inexpressible("type")  # numbers with a fraction cannot be told
    rest = [name for name in TYPES if name not in named]
    return {"type": rest} if rest else False


def not_values(values: Sequence[Any]) -> Schema:
    """Everything that equals none of `values`."""
    by_type: dict[str, list[Any]] = {}
    for value in values:
        by_type.setdefault(type_of(value), []).append(value)
    others = not_types(list(by_type)) if by_type else True
    return any_of([others, *(_NOT_VALUES[kind](same) for kind, same in by_type.items())])


def type_of(value: Any) -> str:
    """The JSON type of a value, integers being numbers."""
    kinds = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string"}
    return kinds.get(type(value)) or ("array" if isinstance(value, list) else "object")


def not_strings(texts: Sequence[str]) -> Schema:
    """Strings other than these, as a pattern."""
    return {"type": "string", "pattern": f"^(?:{_other_than(sorted(set(texts)))})$"}


def _other_than(endings: Sequence[str]) -> str:
    """A regular expression of what is not in `endings`, which share the letters before."""
    letters = sorted({ending[0] for ending in endings if ending})
    inner = [
        f"{escaped(letter)}(?:{_other_than([e[1:] for e in endings if e[:1] == letter])})"
        for letter in letters
    ]
    another = f"[^{''.join(map(escaped, letters))}]" if letters else r"[\s\S]"
    stop = [] if "" in endings else [""]
    return "|".join([*inner, another + r"[\s\S]*", *stop])


def escaped(letter: str) -> str:
    """A letter as itself in a regular expression, inside and outside brackets."""
    return letter if letter.isalnum() else f"\\u{{{ord(letter):x}}}"


def _not_numbers(values: Sequence[float]) -> Schema:
    ordered = sorted(set(values))
    gaps = [
        {"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": high}
        for low, high in zip(ordered, ordered[1:], strict=False)
    ]
    ends = (
        {"type": "number", "exclusiveMaximum": ordered[0]},
        {"type": "number", "exclusiveMinimum": ordered[-1]},
    )
    return any_of([ends[0], *gaps, ends[1]])


def _not_array(value: Sequence[Any]) -> Schema:
    n = len(value)
    lengths = [{"type": "array", "minItems": n + 1}, *([{"type": "array", "maxItems": n - 1}] if n else [])]
    exact = {"type": "array", "minItems": n, "maxItems": n}
    changed = [{**exact, "prefixItems": [*[True] * i, not_values([item])]} for i, item in enumerate(value)]
    return any_of([*lengths, *changed])


def _not_object(value: dict[str, Any]) -> Schema:
    names = list(value)
    missing = [_without(name) for name in names]
    changed = [
        {"type": "object", "properties": {name: not_values([item])}, "required": [name]}
        for name, item in value.items()
    ]
    return any_of([*missing, *changed, _more_than(names, names)])


def _without(name: str) -> Schema:
    return {"type": "object", "properties": {name: False}}


def _more_than(present: Sequence[str], listed: Sequence[str]) -> Schema:
    """Objects with all of `present`, nothing else of `listed`, and at least one other name."""
    return {
        "type": "object",
        "properties": {name: name in present for name in listed},
        "required": list(present),
        "minProperties": len(present) + 1,
    }


def _each(negate: Callable[[Any], Schema]) -> Callable[[Sequence[Any]], Schema]:
    return lambda values: all_of([negate(value) for value in values])


def _not_unique(value: bool) -> Schema:
    if value:
        raise Inexpressible("uniqueItems")
    return False


def _fewer(kind: str, keyword: str) -> Callable[[int], Schema]:
    return lambda n: {"type": kind, keyword: n - 1} if n > 0 else False


def _more(kind: str, keyword: str) -> Callable[[int], Schema]:
    return lambda n: {"type": kind, keyword: n + 1}


def _bound(keyword: str) -> Callable[[float], Schema]:
    def negate(value: float) -> Schema:
        if isinstance(value, bool):
            raise Inexpressible(keyword)  # draft 4 wrote the strictness apart
        return {"type": "number", keyword: value}

    return negate


def _beside_strictness(keyword: str, strict: str) -> Callable[[Negation, dict[str, Any]], Schema]:
    def negate(_negation: Negation, schema: dict[str, Any]) -> Schema:
        if isinstance(schema.get("exclusive" + keyword.title()), bool):
            raise Inexpressible(keyword)
        return {"type": "number", strict: schema[keyword]}

    return negate


_NOT_VALUES: dict[str, Callable[[Any], Schema]] = {
    "null": lambda _values: False,
    "boolean": lambda values: {"enum": [not values[0]]} if len(set(values)) == 1 else False,
    "number": _not_numbers,
    "string": not_strings,
    "array": _each(_not_array),
    "object": _each(_not_object),
}
_OF_VALUES: dict[str, Callable[[Any], Schema]] = {
    "type": not_types,
    "enum": not_values,
    "const": lambda value: not_values([value]),
    "required": lambda names: any_of([_without(name) for name in names]),
    "minLength": _fewer("string", "maxLength"),
    "maxLength": _more("string", "minLength"),
    "minItems": _fewer("array", "maxItems"),
    "maxItems": _more("array", "minItems"),
    "minProperties": _fewer("object", "maxProperties"),
    "maxProperties": _more("object", "minProperties"),
    "uniqueItems": _not_unique,
    "exclusiveMinimum": _bound("maximum"),
    "exclusiveMaximum": _bound("minimum"),
}
_OF_SCHEMAS: dict[str, Callable[[Negation, Any], Schema]] = {
    "not": Negation.double,
    "allOf": Negation.all_of,
    "anyOf": Negation.any_of,
    "oneOf": Negation.one_of,
    "properties": Negation.properties,
    "prefixItems": Negation.prefix_items,
    "patternProperties": Negation.pattern_properties,
    "dependencies": Negation.dependencies,
    "dependentRequired": Negation.dependencies,
    "dependentSchemas": Negation.dependencies,
}
_OF_SIBLINGS: dict[str, Callable[[Negation, dict[str, Any]], Schema]] = {
    "contains": Negation.contains,
    "items": Negation.items,
    "additionalItems": Negation.additional_items,
    "additionalProperties": Negation.additional_properties,
    "if": Negation.condition,
    # They mean nothing without `if`, which speaks for them.
    "then": lambda _negation, _schema: False,
    "else": lambda _negation, _schema: False,
    "minimum": _beside_strictness("minimum", "exclusiveMaximum"),
    "maximum": _beside_strictness("maximum", "exclusiveMinimum"),
}
