"""Documents held against the schemas that ship with moetool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

DATA = Path(__file__).parent.parent / "moetool" / "data"


def check_document(data: dict[str, Any]) -> None:
    """It is as the schema says that it names, and no field of it or of its lists is without a description."""
    name, _, version = data["schema"].removeprefix("moetool-").rpartition("-")
    schema = json.loads((DATA / f"{name}.schema.json").read_text())
    assert version == "1"
    jsonschema.validate(data, schema)
    described = schema["properties"]
    assert data.keys() == described.keys()
    for part, value in data.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            assert set().union(*value) <= described[part]["items"]["properties"].keys()


def parse_strictly(text: str) -> Any:
    """JSON as every reader takes it: `NaN` and `Infinity`, which Python reads and writes, are none of it."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)
