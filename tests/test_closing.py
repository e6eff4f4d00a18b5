"""Answers of the demo model that --max-tokens cuts off: what is whole is valid, wherever the cut falls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from moetool.assets import demo_model_path
from moetool.cli.answer import grammar_maker
from moetool.cli.task import Task
from moetool.constrain import parse_schema
from moetool.engine.model import Engine
from moetool.generate import Generation, Limits, Stats
from moetool.prompt import keep_prefix, plain_tokens
from moetool.settings import Sampling, Settings

SCHEMAS: dict[str, Any] = {
    "person": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"type": "string"}},
        "required": ["name", "age", "city"],
        "additionalProperties": False,
    },
    "nested": {
        "type": "object",
        "properties": {
            "when": {"type": "string", "format": "date-time"},
            "items": {"type": "array", "minItems": 2, "items": {"enum": ["é", 1, None, {"k": [1]}]}},
        },
        "required": ["when", "items"],
    },
    "either": {"anyOf": [{"type": "string", "minLength": 9}, {"type": "number"}, {"type": "array"}]},
    "pattern": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
    "anything": {},
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine([demo_model_path()], Settings(n_ctx=512, n_threads=1), "qwen3moe") as loaded:
        yield loaded


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_answer_cut_anywhere_is_valid(engine: Engine, name: str) -> None:
    for limit in (1, 2, 3, 5, 8, 13, 21):
        text, stats = answer(engine, SCHEMAS[name], limit)
        assert stats.complete
        assert stats.generated_tokens <= limit
        assert text.endswith(stats.closing)
        jsonschema.Draft202012Validator(SCHEMAS[name]).validate(json.loads(text))


def test_an_answer_that_nothing_short_closes_is_not_whole(engine: Engine) -> None:
    long = {"type": "array", "items": {"type": "string", "minLength": 9}, "minItems": 900}
    _, stats = answer(engine, long, 5)
    assert (stats.complete, stats.closing) == (False, "")


def answer(engine: Engine, schema: Any, limit: int) -> tuple[str, Stats]:
    engine.use_sampling(Sampling(temperature=1.5, seed=limit))
    prompt = keep_prefix(engine, plain_tokens(engine.vocabulary, "Describe Ada as JSON:"))
    matcher = grammar_maker(engine, Task(parse_schema(json.dumps(schema))))()
    generation = Generation(engine, prompt, Limits(limit), matcher)
    list(generation)
    assert generation.stats is not None
    return generation.text, generation.stats
