"""Rewritten schemas accept exactly what the original accepts, as an independent validator sees it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_vocabulary import accepts, make_toy_tokenizer

from moetool.constrain import find_refusal, make_matcher, parse_schema
from moetool.constrain.negation import Inexpressible, Negation, not_strings
from moetool.constrain.rewrite import RULES, rewritten

TOKENIZER = make_toy_tokenizer()


def spellings(value: Any) -> Iterator[str]:
    """The JSON texts of a value, with properties in every order."""
    if isinstance(value, dict):
        for order in itertools.permutations(value):
            parts = [[f"{json.dumps(name)}: {text}" for text in spellings(value[name])] for name in order]
            yield from ("{" + ", ".join(chosen) + "}" for chosen in itertools.product(*parts))
    elif isinstance(value, list):
        for chosen in itertools.product(*map(spellings, value)):
            yield "[" + ", ".join(chosen) + "]"
    else:
        yield json.dumps(value)


def accepted(schema: Any, value: Any) -> bool:
    constraint = parse_schema(json.dumps(schema))
    return any(accepts(make_matcher(TOKENIZER, constraint), text) for text in spellings(value))


EXAMPLES: list[tuple[Any, list[Any], list[Any]]] = [
    ({"type": "string", "format": "no-such-format"}, ["x"], [1]),
    ({"type": "string", "format": "json-pointer"}, ["", "/a/b~0"], ["a", "/~2"]),
    ({"not": {"type": ["string", "number"]}}, [None, [], {}], ["x", 1, 1.5]),
    ({"type": "string", "not": {"enum": ["ab", "a", "é"]}}, ["", "b", "abc", "ba"], ["ab", "a", "é"]),
    ({"type": "integer", "not": {"enum": [1, 3]}}, [0, 2, 4], [1, 3, "x"]),
    ({"not": {"const": [False]}}, [[], [True], [False, False], 0], [[False]]),
    ({"not": {"const": {"a": 1}}}, [{}, {"a": 2}, {"a": 1, "b": 1}, "a"], [{"a": 1}]),
    ({"not": {"required": ["a"]}}, [{}, {"b": 1}], [{"a": 1}, 3]),
    ({"type": "object", "not": {"required": ["a", "b"]}}, [{}, {"a": 1}], [{"a": 1, "b": 1}]),
    ({"not": {"not": {"type": "null"}}}, [None], [0]),
    ({"not": {"anyOf": [{"type": "string"}, {"minimum": 3}]}}, [2, 2.5], ["x", 3, None]),
    ({"not": {"minLength": 2}}, ["", "a"], ["ab", 3]),
    ({"not": {"maxItems": 1}}, [[1, 2]], [[], [1], "x"]),
    ({"not": {"properties": {"a": {"type": "null"}}}}, [{"a": 1}], [{"a": None}, {}, 3]),
    ({"oneOf": [{"type": "string"}, {"type": "string", "minLength": 2}]}, ["", "a"], ["ab", 1]),
    ({"oneOf": [{"minimum": 3}, {"maximum": 5}]}, [2, 6], [3, 4, 5, "x"]),
    (
        {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        [{"a": 1}, {"b": 1}, {"b": 1, "c": 1}],
        [{}, {"a": 1, "b": 1}, 3],
    ),
    ({"dependencies": {"a": ["b"]}}, [{}, {"b": 1}, {"a": 1, "b": 1}, 3], [{"a": 1}]),
    (
        {"dependentSchemas": {"a": {"properties": {"b": {"type": "null"}}}}, "type": "object"},
        [{"a": 1}, {"b": 3}, {"a": 1, "b": None}],
        [{"a": 1, "b": 3}],
    ),
    (
        {
            "type": "object",
            "if": {"required": ["a"]},
            "then": {"required": ["b"]},
            "else": {"required": ["c"]},
        },
        [{"a": 1, "b": 1}, {"c": 1}],
        [{"a": 1}, {"b": 1}, {}],
    ),
    ({"type": "object", "propertyNames": {"pattern": "^x"}}, [{}, {"x1": 1}], [{"y": 1}, {"x": 1, "y": 1}]),
    ({"type": "object", "propertyNames": {"enum": ["a", "b-c"]}}, [{"a": 1}, {"b-c": 1}], [{"c": 1}]),
    ({"type": "array", "uniqueItems": True, "items": {"enum": [1, 2]}}, [[], [2, 1]], [[1, 1], [3]]),
    ({"type": "array", "uniqueItems": True, "maxItems": 1}, [[], [5]], [[1, 2]]),
    (
        {
            "type": "object",
            "properties": {"a": {}, "b": {}, "c": {}},
            "additionalProperties": False,
            "minProperties": 2,
            "maxProperties": 2,
        },
        [{"a": 1, "c": 2}, {"b": 1, "c": 1}],
        [{}, {"a": 1}, {"a": 1, "b": 1, "c": 1}],
    ),
    ({"$ref": "#/odd/place", "odd": {"place": {"type": "string", "format": "odd"}}}, ["x"], [1]),
]


@pytest.mark.parametrize(("schema", "valid", "invalid"), EXAMPLES, ids=lambda value: str(value)[:50])
def test_what_the_engine_lacks_is_enforced_all_the_same(
    schema: Any, valid: list[Any], invalid: list[Any]
) -> None:
    for value in valid:
        assert accepted(schema, value), f"should accept {value}"
    for value in invalid:
        assert not accepted(schema, value), f"should reject {value}"


STILL_REFUSED = [
    {"not": {"type": "integer"}},
    {"not": {"pattern": "^a"}},
    {"not": {"items": {"type": "string"}}},
    {"not": {"multipleOf": 2}},
    {"oneOf": [{"type": "array", "items": {"type": "string"}}, {"type": "array", "minItems": 1}]},
    {"type": "array", "uniqueItems": True},
    {"type": "string", "format": "regex"},
    {"type": "string", "format": "iri"},
    {"not": {"$ref": "#"}},
    {"type": "object", "propertyNames": {"pattern": "^x"}, "properties": {"x": {}, "y": {}}},
    {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "minProperties": 2},
]


@pytest.mark.parametrize("schema", STILL_REFUSED, ids=str)
def test_what_has_no_exact_counterpart_is_refused(schema: Any) -> None:
    assert find_refusal(schema) is not None


def test_keywords_with_impossible_values_are_left_alone() -> None:
    for keyword in RULES:
        for value in (None, 3, "x", [], [3], {"a": 3}, True):
            rewritten({keyword: value}, keyword)


def test_negating_strings_needs_no_look_around() -> None:
    pattern = not_strings(["ab", "a", "[]", ""])["pattern"]
    assert "(?!" not in pattern
    assert not accepted({"type": "string", "pattern": pattern}, "[]")
    assert accepted({"type": "string", "pattern": pattern}, "[")


def test_a_negation_gives_up_rather_than_guess() -> None:
    with pytest.raises(Inexpressible):
        Negation(lambda _reference: {}, frozenset()).of({"unevaluatedProperties": False})


# -- against a validator -----------------------------------------------------------------------------

VALUES = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 2, 3, 1.5, "", "a", "b", "ab"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=2)
    ),
    max_leaves=3,
)
NAMES = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=2, unique=True)
SMALL = st.integers(0, 3)
KINDS = ["null", "boolean", "number", "integer", "string", "array", "object"]
SIMPLE = st.one_of(
    st.builds(
        lambda t: {"type": t}, st.sampled_from(["null", "boolean", "number", "integer", "string", "array"])
    ),
    st.builds(lambda values: {"enum": values}, st.lists(VALUES, min_size=1, max_size=2)),
    st.builds(lambda value: {"const": value}, VALUES),
    st.builds(
        lambda key, n: {key: n},
        st.sampled_from(
            ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength"]
            + ["minItems", "maxItems", "minProperties", "maxProperties"]
        ),
        SMALL,
    ),
    st.builds(lambda names: {"type": "object", "required": names}, NAMES),
    st.builds(lambda names: {"required": names}, NAMES),
    st.builds(lambda names: {"properties": dict.fromkeys(names, {}), "additionalProperties": False}, NAMES),
    st.sampled_from([True, False, {}]),
)


def beside(left: Any, right: Any) -> Any:
    """The keywords of both in one schema."""
    both = isinstance(left, dict) and isinstance(right, dict)
    return {**left, **right} if both else left


def combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    two = st.lists(inner, min_size=2, max_size=2)
    return st.one_of(
        st.builds(lambda a: {"not": a}, inner),
        st.builds(lambda parts: {"oneOf": parts}, two),
        st.builds(lambda parts: {"anyOf": parts}, two),
        st.builds(lambda parts: {"allOf": parts}, two),
        st.builds(
            lambda a, b: {**a, **b} if isinstance(a, dict) and isinstance(b, dict) else a, inner, inner
        ),
        st.builds(lambda a, b, c: {"if": a, "then": b, "else": c}, inner, inner, inner),
        st.builds(lambda name, a: {"type": "object", "properties": {name: a}}, st.sampled_from("ab"), inner),
        st.builds(lambda name, a: {"dependentSchemas": {name: a}}, st.sampled_from("ab"), inner),
        st.builds(lambda name, names: {"dependentRequired": {name: names}}, st.sampled_from("ab"), NAMES),
        st.builds(lambda a: {"type": "array", "items": a, "uniqueItems": True}, inner),
        st.builds(lambda parts: {"type": "array", "prefixItems": parts}, two),
    )


@given(st.recursive(SIMPLE, combined, max_leaves=5), st.lists(VALUES, min_size=4, max_size=8))
@settings(max_examples=60, deadline=None)
def test_random_schemas_agree_with_a_validator(schema: Any, values: list[Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="the independent validator")
    if not isinstance(schema, dict) or find_refusal(schema):
        return
    validator = jsonschema.Draft202012Validator(schema)
    for value in values:
        assert accepted(schema, value) == validator.is_valid(value), (schema, value)
