"""Constraints: what is refused and how it is said, and that nothing outside a grammar can be written."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_vocabulary import CONTROL, EOS, EOT, TOKENS, accepts, make_table, make_toy_tokenizer, random_text

from moetool.constrain import (
    Constraint,
    Matcher,
    Tokenizer,
    TokenTable,
    closing_bytes,
    make_matcher,
    make_tokenizer,
    parse_choice,
    parse_grammar,
    parse_regex,
    parse_schema,
)
from moetool.errors import ConstraintError, MoetoolError, NotFound, OutputInvalid

PERSON = {
    "title": "Person",
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_toy_tokenizer()


def schema_of(schema: Any, whitespace: str = "spaced") -> Constraint:
    return parse_schema(json.dumps(schema), whitespace)


def matches(tokenizer: Tokenizer, constraint: Constraint, text: str) -> bool:
    return accepts(make_matcher(tokenizer, constraint), text)


# -- what is refused, and how it is said -------------------------------------------------------------

REFUSED = [
    ({"type": "array", "contains": {"type": "string", "minLength": 2}}, "'contains' at the top"),
    ({"properties": {"a": {"type": "array", "uniqueItems": True}}}, "'uniqueItems' at /properties/a"),
    ({"properties": {"a": {"type": "string", "pattern": "(?=x)y"}}}, "look-around"),
    ({"properties": {"a": {"type": "string", "pattern": "(x"}}}, "unclosed group"),
    ({"$ref": "https://example.org/schema.json"}, "'https://example.org/schema.json', outside itself"),
    ({"$ref": "#/definitions/none"}, "'#/definitions/none', which it does not define"),
    ({"type": "integer", "minimum": 5, "maximum": 3}, "No document can satisfy the schema"),
    ({"type": "strin"}, "strin"),
    ({"enum": []}, "No document can satisfy"),
]


@pytest.mark.parametrize(("schema", "said"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_schema_is_refused_with_the_keyword_and_its_place(schema: Any, said: str) -> None:
    with pytest.raises(ConstraintError) as caught:
        schema_of(schema)
    assert said in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: parse_schema('{"type": '), "not JSON"),
    (lambda: parse_schema('{"a":' * 100_000), "not JSON"),
    (lambda: parse_regex("("), "unclosed group"),
    (lambda: parse_regex("(?<=a)b"), "look-around"),
    (lambda: parse_regex(r"a\bb"), "cannot be used"),
    (lambda: parse_choice([]), "at least one option"),
    (lambda: parse_choice(["a", ""]), "none may be empty"),
    (lambda: parse_grammar("root ::= other"), "'other' not found"),
    (lambda: parse_grammar('root ::= "open'), "Unexpected end"),
    (lambda: parse_grammar('rule ::= "a"'), "No 'root' rule"),
    (lambda: parse_grammar("start: other"), "other"),
    (lambda: parse_grammar("start: /(/"), "unclosed group"),
    (lambda: parse_grammar("jsn"), "no grammar 'jsn'"),
    (lambda: schema_of(PERSON, "loose"), "Unknown whitespace"),
]


@pytest.mark.parametrize(("call", "said"), BAD, ids=range(len(BAD)))
def test_what_cannot_be_compiled_is_said_in_one_sentence(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(ConstraintError) as caught:
        call()
    assert said in caught.value.message
    assert "\n" not in caught.value.message


def test_a_grammar_with_a_typing_error_is_guessed() -> None:
    with pytest.raises(ConstraintError) as caught:
        parse_grammar("markdown_table")
    assert "markdown-table" in caught.value.hint


def test_missing_files_are_not_found(tmp_path: Path) -> None:
    for call in (parse_schema, parse_grammar):
        with pytest.raises(NotFound, match=r"none\.gbnf"):
            call(str(tmp_path / "none.gbnf"))


def test_sources_may_be_files(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for name, text in (("a.gbnf", 'root ::= "x" "y"?'), ("a.lark", 'start: "x" | "xy"')):
        path = tmp_path / name
        path.write_text(text)
        assert matches(tokenizer, parse_grammar(str(path)), "xy")
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(PERSON))
    assert parse_schema(str(path)) == schema_of(PERSON)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConstraintError, match="cannot be read as text"):
        parse_schema(str(path))


def test_a_schema_cannot_ask_to_be_weakened() -> None:
    weak = {"x-guidance": {"lenient": True}, "type": "array", "contains": {"minLength": 1}}
    with pytest.raises(ConstraintError, match="contains"):
        schema_of(weak)


# -- what is accepted --------------------------------------------------------------------------------


def test_a_schema_is_written_as_models_write_json(tokenizer: Tokenizer) -> None:
    assert matches(tokenizer, schema_of(PERSON), '{"name": "Ada", "age": 36}')
    for text in ('{"name":"Ada","age":36}', '{"name": "Ada",  "age": 36}', '{"name": "Ada"}', "{}", ""):
        assert not matches(tokenizer, schema_of(PERSON), text)
    assert matches(tokenizer, schema_of(PERSON, "compact"), '{"name":"Ada","age":36}')


def test_a_constraint_says_what_it_is() -> None:
    person = schema_of(PERSON)
    assert (person.kind, person.whitespace, person.title) == ("schema", "spaced", "Person")
    assert json.loads(person.source) == PERSON
    assert parse_grammar("json").title == "json"
    assert parse_choice(["a", "b"]).kind == "choice"


@pytest.mark.parametrize(
    "options", [["yes", "no"], ['say "hi"', "back\\slash", "two\nlines", "é\u2028"], ["a", "ab"]]
)
def test_a_choice_is_exactly_one_of_them(tokenizer: Tokenizer, options: list[str]) -> None:
    constraint = parse_choice(options)
    for option in options:
        assert matches(tokenizer, constraint, option)
        assert not matches(tokenizer, constraint, option + "!")
        assert not matches(tokenizer, constraint, option[:-1] + "?")


def test_a_regex_holds_for_the_whole_text(tokenizer: Tokenizer) -> None:
    for pattern in ("[a-c]{2,3}", "^[a-c]{2,3}$"):
        assert matches(tokenizer, parse_regex(pattern), "abc")
        assert not matches(tokenizer, parse_regex(pattern), "a")
        assert not matches(tokenizer, parse_regex(pattern), "abca")


def test_gbnf_gives_back_what_a_rule_took_too_much_of(tokenizer: Tokenizer) -> None:
    constraint = parse_grammar('root ::= word "z" "!"\nword ::= [a-z]+')
    assert matches(tokenizer, constraint, "abzz!")
    assert not matches(tokenizer, constraint, "ab!")


def test_gbnf_means_what_it_means_to_llama_cpp(tokenizer: Tokenizer) -> None:
    for rule, text, other in (
        (r'"\u00e9abc"', "\u00e9abc", "\ue9abc"),
        (r'"\\u0041"', "\\u0041", "A"),
        (r'[\U0001F600-\U0001F64F"]+', '\U0001f601"', "U"),
        (r"[^\u00e9]", "a", "\u00e9"),
        (".", "\n", "ab"),
        ("[a&&b]+", "a&b", "c"),
        ("[+--]+", "+,-", "."),
        (r"[*\-]+", "*-", "+"),
        ('("a"?){3} "b"', "aab", "aaaab"),
        ('("a"{2})* "b" # ("a"?){3} [ "', "aab", "ab"),
    ):
        constraint = parse_grammar(f"root ::= {rule}")
        assert matches(tokenizer, constraint, text), rule
        assert not matches(tokenizer, constraint, other), rule


# -- the matcher -------------------------------------------------------------------------------------


def test_forced_tokens_are_what_must_follow(tokenizer: Tokenizer) -> None:
    matcher = make_matcher(tokenizer, schema_of(PERSON))
    forced = matcher.forced()
    # What follows, `": "`, is left to the model: it may stand in one token with letters of the name.
    assert b"".join(TOKENS[token] for token in forced) == b'{"name'
    for token in forced:
        assert matcher.accepts(token)
        matcher.commit(token)
    assert not matcher.forced()
    assert all(b'": "'.startswith(TOKENS[token]) for token in matcher.allowed())


def test_a_copy_goes_its_own_way(tokenizer: Tokenizer) -> None:
    first = make_matcher(tokenizer, parse_choice(["one", "only"]))
    first.commit(ord("o"))
    second = first.copy()
    second.commit(ord("n"))
    allowed = first.mask().copy()
    second.commit(ord("l"))
    assert second.allowed().tolist() == [ord("y")]
    assert (first.mask() == allowed).all()
    for token in b"ne":
        first.commit(token)
    assert first.is_complete()
    assert (first.closing(99), second.closing(99)) == (b"", b"y")


def test_an_answer_ends_where_the_grammar_says(tokenizer: Tokenizer) -> None:
    matcher = make_matcher(tokenizer, parse_grammar("number"))
    for token in b"12":
        assert not matcher.is_stopped()
        matcher.commit(token)
    assert matcher.is_complete()
    assert matcher.accepts(EOS)
    assert matcher.accepts(EOT)
    matcher.commit(ord("."))
    assert not matcher.is_complete()
    assert not matcher.accepts(EOS)
    matcher.rollback(1)
    assert matcher.is_complete()
    matcher.commit(EOT)
    assert matcher.is_stopped()


def test_a_token_outside_the_grammar_cannot_be_committed(tokenizer: Tokenizer) -> None:
    matcher = make_matcher(tokenizer, parse_choice(["yes"]))
    with pytest.raises(OutputInvalid, match="left its grammar"):
        matcher.commit(ord("x"))


def test_control_tokens_are_never_allowed(tokenizer: Tokenizer) -> None:
    spelled = parse_regex(".*")
    matcher = make_matcher(tokenizer, spelled)
    assert CONTROL not in matcher.allowed()
    assert not matcher.accepts(CONTROL)
    as_text = make_matcher(tokenizer, parse_choice(["<|tool|> and <|im_end|>"]))
    assert not {CONTROL, EOT} & set(as_text.forced())
    assert b"".join(TOKENS[token] for token in as_text.forced()) == b"<|tool|> and <|im_end|>"


def test_odd_tokens_are_refused_and_do_no_harm(tokenizer: Tokenizer) -> None:
    matcher = make_matcher(tokenizer, parse_regex(".*"))
    for token in (-1, len(TOKENS), 10**9, TOKENS.index(b"")):
        assert not matcher.accepts(token)
    assert matcher.is_complete()


def test_a_grammar_that_needs_tokens_this_model_lacks_is_refused(tokenizer: Tokenizer) -> None:
    assert matches(tokenizer, parse_grammar('start: "a" (<|tool|>)?'), "a")
    with pytest.raises(ConstraintError, match="This model cannot follow"):
        make_matcher(tokenizer, parse_grammar("start: <|python|>"))


@pytest.mark.parametrize("text", ['{"name": "', '{"name": "A", "age": 3', '{"name": "A", "age": 3}'])
def test_every_way_to_ask_gives_the_same_tokens(tokenizer: Tokenizer, text: str) -> None:
    matcher = make_matcher(tokenizer, schema_of(PERSON))
    for token in text.encode():
        matcher.commit(token)
    allowed = matcher.allowed().tolist()
    bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
    assert allowed == np.flatnonzero(bits).tolist()
    assert allowed == [token for token in range(len(TOKENS)) if matcher.accepts(token)]


def test_masks_prepared_in_advance_are_the_same() -> None:
    matchers = [
        make_matcher(make_tokenizer(make_table(), fast_masks=fast), schema_of(PERSON)) for fast in (0, 1)
    ]
    for token in b'{"name": "Ada':
        assert (matchers[0].mask() == matchers[1].mask()).all()
        for matcher in matchers:
            matcher.commit(token)


def test_a_tokenizer_that_puts_a_space_in_front_is_understood() -> None:
    plain = make_table()

    def with_space(data: bytes) -> list[int]:
        return list(plain.tokenize(b" " + data))

    table = TokenTable(plain.tokens, plain.special, plain.ends, with_space)
    matcher = make_matcher(make_tokenizer(table), parse_choice(["the thing"]))
    assert b"".join(TOKENS[token] for token in matcher.forced()) == b"the thing"


def test_a_vocabulary_that_cannot_say_it_forces_nothing() -> None:
    table = TokenTable([b"yes", b"y", b"<end>"], frozenset({2}), (2,), lambda _data: [1])
    matcher = make_matcher(make_tokenizer(table), parse_choice(["yes"]))
    assert matcher.forced() == ()
    assert matcher.accepts(0)


# -- cut off and closed ------------------------------------------------------------------------------

CLOSABLE = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "long": {"type": "string", "minLength": 4},
        "code": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
        "n": {"type": "integer", "minimum": 100},
        "when": {"type": "string", "format": "date"},
        "kind": {"enum": ["alpha", "beta", "gamma"]},
        "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 2},
    },
    "required": ["text", "long", "code", "n", "when", "kind", "list"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("length", [0, 5, 20, 40, 80, 160])
def test_a_document_that_is_cut_off_can_be_closed(tokenizer: Tokenizer, length: int) -> None:
    for seed in range(3):
        matcher = make_matcher(tokenizer, schema_of(CLOSABLE))
        text = random_text(matcher, random.Random(f"{length} {seed}"), length)
        closing = matcher.closing(4000)
        assert closing is not None
        assert set(json.loads(text + closing)) == set(CLOSABLE["required"])
        assert matcher.is_sentence(text + closing)
        assert not matcher.is_sentence((text + closing)[:-1])


def test_closing_leaves_the_answer_alone(tokenizer: Tokenizer) -> None:
    matcher = make_matcher(tokenizer, schema_of(PERSON))
    before = matcher.allowed().tolist()
    assert matcher.closing(3) is None
    assert matcher.closing(100) is not None
    assert matcher.allowed().tolist() == before


def test_a_recursive_schema_is_closed_not_continued() -> None:
    node = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["next"],
    }
    assert closing_bytes(schema_of(node), b'{"next": {"next": ', 100) == b"null}}"


def test_grammars_can_be_closed_too() -> None:
    assert closing_bytes(parse_grammar("list"), b"- one\n- tw", 20) == b"\n"
    assert closing_bytes(parse_grammar("json"), b'{"a": ["b', 20) == b'"]}'
    assert closing_bytes(parse_grammar("yes-no"), b"maybe", 20) is None


# -- whatever a model samples ------------------------------------------------------------------------


def integers_from(low: int, span: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": low + span}


NAMES = st.sampled_from(["name", "id", "tags", "ünit", 'qu"ote', "a b"])
LEAVES = st.one_of(
    st.just({"type": "string"}),
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 8)),
    st.just({"type": "string", "pattern": "^[a-z]{2,5}$"}),
    st.just({"type": "string", "format": "date"}),
    st.builds(integers_from, st.integers(-99, 99), st.integers(0, 50)),
    st.just({"type": "number"}),
    st.just({"type": ["boolean", "null"]}),
    st.just({"enum": ["x", 1, None, True, {"k": []}]}),
    st.just({"const": "só"}),
)


def objects(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda properties, n, closed: {
            "type": "object",
            "properties": properties,
            "required": list(properties)[:n],
            **({"additionalProperties": False} if closed else {}),
        },
        st.dictionaries(NAMES, children, max_size=4),
        st.integers(0, 4),
        st.booleans(),
    )


def arrays(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda items, low, more: {"type": "array", "items": items, "minItems": low, "maxItems": low + more},
        children,
        st.integers(0, 2),
        st.integers(0, 2),
    )


def choices(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(lambda left, right: {"anyOf": [left, right]}, children, children)


SCHEMAS = st.recursive(LEAVES, lambda c: st.one_of(objects(c), arrays(c), choices(c)), max_leaves=6)


@given(SCHEMAS, st.integers(0, 2**32))
@settings(max_examples=80, deadline=None)
def test_random_tokens_under_any_schema_are_valid_json(schema: Any, seed: int) -> None:
    constraint = schema_of(schema)
    matcher = make_matcher(_TOKENIZER, constraint)
    text = random_text(matcher, random.Random(seed), 120)
    if not matcher.is_complete():
        closing = closing_bytes(constraint, text, 2000)
        assert closing is not None
        text += closing
    document = json.loads(text)
    assert is_valid(schema, document)
    assert not re.search(rb"\s\s", re.sub(rb'"([^"\\]|\\.)*"', b'""', text))


_TOKENIZER = make_toy_tokenizer()


def is_valid(schema: Any, value: Any) -> bool:
    """A validator for just the schemas generated above, on purpose not the engine's."""
    if "anyOf" in schema:
        return any(is_valid(part, value) for part in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return any(_same(value, option) for option in schema.get("enum", [schema.get("const")]))
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return any(_CHECKS[kind](schema, value) for kind in kinds)


def _same(left: Any, right: Any) -> bool:
    return type(left) is type(right) and left == right


def _is_string(schema: Any, value: Any) -> bool:
    pattern = {"date": r"\d{4}-\d\d-\d\d"}.get(schema.get("format", ""), schema.get("pattern", ""))
    fits = isinstance(value, str) and len(value) <= schema.get("maxLength", len(value))
    return fits and re.search(pattern, value) is not None


def _is_integer(schema: Any, value: Any) -> bool:
    return type(value) is int and schema["minimum"] <= value <= schema["maximum"]


def _is_array(schema: Any, value: Any) -> bool:
    fits = isinstance(value, list) and schema["minItems"] <= len(value) <= schema["maxItems"]
    return fits and all(is_valid(schema["items"], item) for item in value)


def _is_object(schema: Any, value: Any) -> bool:
    if not isinstance(value, dict) or not set(schema["required"]) <= set(value):
        return False
    known = schema["properties"]
    open_ended = schema.get("additionalProperties", True)
    return all(is_valid(known[k], v) if k in known else open_ended for k, v in value.items())


_CHECKS: dict[str, Callable[[Any, Any], bool]] = {
    "string": _is_string,
    "integer": _is_integer,
    "number": lambda _schema, value: type(value) in (int, float),
    "boolean": lambda _schema, value: isinstance(value, bool),
    "null": lambda _schema, value: value is None,
    "array": _is_array,
    "object": _is_object,
}


@pytest.mark.parametrize("call", [parse_schema, parse_grammar, parse_regex])
@given(st.text(max_size=40))
@settings(max_examples=40, deadline=None)
def test_no_text_breaks_a_parser(call: Callable[[str], Constraint], text: str) -> None:
    try:
        constraint = call(text)
    except MoetoolError as error:
        assert "\n" not in error.message
        return
    assert isinstance(make_matcher(_TOKENIZER, constraint), Matcher)
