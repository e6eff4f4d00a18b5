"""Constraints that cannot be meant or followed: one sentence each, before any model is loaded."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_vocabulary import make_table

from moetool.constrain import (
    Constraint,
    make_matcher,
    make_tokenizer,
    parse_choice,
    parse_grammar,
    parse_regex,
    parse_schema,
    split_choice,
)
from moetool.errors import ConstraintError, NotFound

Parse = Callable[[str], Constraint]

UNFOLLOWABLE: list[tuple[Parse, str, str]] = [
    (parse_schema, '{"$ref": "#"}', "no text at all"),
    (parse_schema, '{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}', "no text at all"),
    (
        parse_schema,
        '{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}',
        "has no end",
    ),
    (parse_schema, '{"type": "string", "pattern": "^(a{1000}){1000}$"}', "too large"),
    (parse_schema, "false", "No document"),
    (parse_grammar, "root ::= root", "no text at all"),
    (parse_grammar, "root ::= a\na ::= b\nb ::= a", "no text at all"),
    (parse_grammar, 'root ::= "a" root', "has no end"),
    (parse_regex, "a{1000000}", "too large"),
    (parse_regex, "[^\\x00-\\u{10FFFF}]", "no text at all"),
]


@pytest.mark.parametrize(("parse", "text", "said"), UNFOLLOWABLE)
def test_what_no_answer_can_follow_is_refused(parse: Parse, text: str, said: str) -> None:
    with pytest.raises(ConstraintError, match=said) as caught:
        parse(text)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
@pytest.mark.parametrize("keyword", ["const", "maximum"])
def test_numbers_that_json_does_not_have_are_refused(keyword: str, number: str) -> None:
    with pytest.raises(ConstraintError, match="not a number that JSON has"):
        parse_schema(f'{{"{keyword}": {number}}}')


@pytest.mark.parametrize("parse", [parse_schema, parse_grammar, parse_regex, lambda t: parse_choice([t])])
def test_bytes_that_are_no_text_are_refused(parse: Parse) -> None:
    with pytest.raises(ConstraintError, match="not UTF-8"):
        parse('{"const": "root ::= \udcff"}')


def test_half_a_character_behind_an_escape_is_refused() -> None:
    with pytest.raises(ConstraintError, match="half a character"):
        parse_schema('{"const": "\\ud800"}')


@pytest.mark.parametrize(("parse", "what"), [(parse_schema, "schema"), (parse_grammar, "grammar")])
def test_nothing_is_not_a_folder(parse: Parse, what: str, tmp_path: Path) -> None:
    with pytest.raises(ConstraintError, match=f"The {what} is empty"):
        parse(" ")
    (tmp_path / "empty.gbnf").touch()
    with pytest.raises(ConstraintError, match="empty.gbnf is empty"):
        parse(str(tmp_path / "empty.gbnf"))
    with pytest.raises((ConstraintError, NotFound)):
        parse(str(tmp_path))


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "person.json"
    path.write_bytes(b'\xef\xbb\xbf{"type": "object"}')
    assert parse_schema(str(path)).source == '{"type": "object"}'


def test_a_pipe_is_a_file(tmp_path: Path) -> None:
    """As a shell's <(…) hands one over."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=('root ::= "yes" | "no"',))
    writer.start()
    assert parse_grammar(str(path)).title == "pipe"
    writer.join()


@pytest.mark.parametrize(
    ("parse", "text"), [(parse_schema, "3"), (parse_schema, "[]"), (parse_grammar, 'root ::= root "a"')]
)
def test_what_is_no_constraint_comes_with_what_to_do(parse: Parse, text: str) -> None:
    with pytest.raises((ConstraintError, NotFound)) as caught:
        parse(text)
    assert caught.value.hint


def test_true_is_any_document() -> None:
    assert parse_schema("true").source == "{}"


def test_the_nearest_grammars_are_named_and_few() -> None:
    with pytest.raises(ConstraintError) as caught:
        parse_grammar("jsn")
    assert caught.value.hint.startswith("Nearest of the 20 by name: json, ")
    assert caught.value.hint.count(",") == 3
    with pytest.raises(NotFound) as missing:
        parse_grammar("grammars/mark-down.gbnf")
    assert "markdown-table" in missing.value.hint


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("red,green", ["red", "green"]),
        (" red ,  green", ["red", "green"]),
        ('"Rome, Italy","say ""hi""", 5" disk', ["Rome, Italy", 'say "hi"', '5" disk']),
    ],
)
def test_options_are_split_as_csv(text: str, options: list[str]) -> None:
    assert split_choice(text) == options


@pytest.mark.parametrize("text", ["", ",", "red,,green", '"red'])
def test_an_option_that_is_missing_or_open_is_refused(text: str) -> None:
    with pytest.raises(ConstraintError) as caught:
        parse_choice(split_choice(text))
    assert "in quotes" in caught.value.hint


def test_options_count_once_and_may_be_many() -> None:
    assert parse_choice(["red", "green", "red"]).source == '["red", "green"]'
    options = [f"opt{i}" for i in range(5000)]
    matcher = make_matcher(make_tokenizer(make_table()), parse_choice(options))
    for byte in b"opt4999":
        matcher.commit(byte)
    assert matcher.is_complete()
    assert matcher.is_stopped()
