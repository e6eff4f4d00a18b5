"""The shipped grammars say in their comments what they accept and reject; here they are held to it."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from toy_vocabulary import accepts, make_toy_tokenizer, random_text

from moetool.assets import grammar_dir
from moetool.constrain import Tokenizer, grammar_names, make_matcher, parse_grammar

FILES = sorted(grammar_dir().glob("*.gbnf"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_toy_tokenizer()


def examples(path: Path, kind: str) -> list[str]:
    """The JSON strings after `# accepts:` or `# rejects:`."""
    return [json.loads(text) for text in re.findall(rf"(?m)^# {kind}: (.*)$", path.read_text())]


def test_there_are_enough_and_all_are_found_by_name() -> None:
    assert len(FILES) >= 12
    assert grammar_names() == sorted(path.stem for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_grammar_keeps_its_word(path: Path, tokenizer: Tokenizer) -> None:
    constraint = parse_grammar(path.stem)
    accepted, rejected = examples(path, "accepts"), examples(path, "rejects")
    assert accepted
    assert rejected
    for text in accepted:
        assert accepts(make_matcher(tokenizer, constraint), text), f"should accept {text!r}"
    for text in rejected:
        assert not accepts(make_matcher(tokenizer, constraint), text), f"should reject {text!r}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_grammar_begins_with_what_it_is(path: Path) -> None:
    first = path.read_text().split("\n", 1)[0]
    assert re.fullmatch(r"# [A-Z].{10,}", first)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_grammar_runs_away_in_whitespace(path: Path, tokenizer: Tokenizer) -> None:
    """A model that writes whitespace whenever it may still has to write something else after a while."""
    for seed in range(3):
        matcher = make_matcher(tokenizer, parse_grammar(path.stem))
        text = random_text(matcher, random.Random(seed), 400, prefer=b" \n\t\r").decode("utf-8", "replace")
        outside_strings = re.sub(r'"([^"\\]|\\.)*("|$)', '""', text)
        assert not re.search(r"\s{23}", outside_strings)
