"""Best effort: what is left out while decoding is named, what is valid can be written, the judge sees all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from moetool.constrain import Constraint, Judge, parse_schema_loosely
from moetool.constrain.library import byte_matcher
from moetool.errors import ConstraintError

UNLIKE = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}


def accepts(constraint: Constraint, document: Any) -> bool:
    """Whether decoding could have written it."""
    matcher = byte_matcher(constraint.grammar)
    text = json.dumps(document, ensure_ascii=False).encode()
    return bool(matcher.consume_tokens(list(text)) and matcher.is_accepting())


def loosely(schema: Any) -> tuple[Constraint, list[tuple[str, str]]]:
    constraint, left_out = parse_schema_loosely(json.dumps(schema))
    return constraint, [(refusal.keyword, refusal.place) for refusal in left_out]


@pytest.mark.parametrize(
    ("schema", "left_out", "valid", "shut_out", "left_to_the_judge"),
    [
        (UNLIKE, [("uniqueItems", "/")], [1, 2], ["a"], [1, 1]),
        (
            {"type": "object", "properties": {"a": UNLIKE, "b": {"type": "array", "uniqueItems": False}}},
            [("uniqueItems", "/properties/a")],
            {"a": [1, 2], "b": [1, 1]},
            {"a": ["x"]},
            {"a": [1, 1]},
        ),
        (
            {"type": "array", "items": {"type": "integer"}, "contains": {"const": 7}},
            [("contains", "/")],
            [1, 7],
            {},
            [1, 2],
        ),
        (
            # Without its `uniqueItems` the first branch overlaps the second: both, or neither, must go.
            {"oneOf": [UNLIKE, {"type": "array", "minItems": 2, "items": {"const": 1}}]},
            None,
            [1, 1],
            "x",
            [1, "x"],
        ),
        ({"type": "string", "pattern": "^(?!no).*$"}, [("pattern", "/")], "yes", 1, "no"),
        ({"not": UNLIKE}, [("not", "/")], [1, 1], None, [1, 2]),
    ],
)
def test_what_is_valid_can_be_written_and_what_is_not_is_judged(
    schema: Any, left_out: Any, valid: Any, shut_out: Any, left_to_the_judge: Any
) -> None:
    constraint, found = loosely(schema)
    assert found == left_out if left_out is not None else found
    judge = Judge(constraint)
    assert accepts(constraint, valid)
    assert judge.faults(json.dumps(valid)) == ()
    assert shut_out is None or not accepts(constraint, shut_out)
    assert judge.faults(json.dumps(left_to_the_judge))


def test_a_schema_that_can_be_enforced_whole_leaves_nothing_out() -> None:
    assert loosely({"type": "object", "properties": {"a": {"type": "integer"}}})[1] == []


def test_of_a_schema_that_is_too_much_the_upper_levels_are_enforced() -> None:
    knot: Any = {"type": "object", "properties": {"a": {"$ref": "#", "maxProperties": 1}}}
    constraint, left_out = parse_schema_loosely(json.dumps(knot))
    assert left_out
    assert accepts(constraint, {"a": {}})
    assert not accepts(constraint, [])


def test_faults_name_their_places() -> None:
    constraint, _ = loosely({"type": "object", "properties": {"tags": UNLIKE}})
    [fault] = Judge(constraint).faults('{"tags": [1, 1]}')
    assert fault.startswith("$.tags: ")
    assert "non-unique" in fault
    assert Judge(constraint).faults("{")[0].startswith("not JSON")


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"$ref": "http://127.0.0.1:9/schema.json"}, "nothing is fetched"),
        ({"$ref": "#/definitions/gone"}, "does not define"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "No document"),
    ],
)
def test_what_nothing_can_satisfy_is_refused_all_the_same(schema: Any, said: str) -> None:
    with pytest.raises(ConstraintError, match=said):
        loosely(schema)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "array", "uniqueItems": "yes"}, "cannot|validated"),
        ({"type": "string", "pattern": "\\p{L}"}, "cannot be checked"),
    ],
)
def test_a_schema_that_the_judge_cannot_follow_is_refused(schema: Any, said: str) -> None:
    with pytest.raises(ConstraintError, match=said):
        Judge(loosely(schema)[0])


def test_the_judge_fetches_nothing() -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/a.json"}}}
    constraint = Constraint("schema", json.dumps(schema), "", "", "")
    with pytest.raises(ConstraintError, match="cannot be resolved"):
        Judge(constraint).faults('{"a": 1}')


def test_a_pattern_that_takes_for_ever_is_not_waited_for() -> None:
    slow = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(?!x)(a|a)*$"}}}
    constraint, left_out = loosely(slow)
    assert left_out
    [fault] = Judge(constraint, patience_s=0.05).faults(json.dumps({"a": "a" * 60 + "!"}))
    assert "more than 0.05 s" in fault
    assert Judge(constraint, patience_s=0.05).faults('{"a": "aaa"}') == ()
