#!/usr/bin/env python3
"""Does constrained output ever break its schema? Random schemas with prompts through `moetool run`.

    scripts/check_constrained.py --count 200

Each is a process as a shell would start it. Printed with exit code 0 must mean: one JSON document that a
validator accepts. An answer that does not end (a long string at a high temperature) must print nothing and
exit with 4.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections import Counter
from typing import Any

import jsonschema

WORDS = ["name", "age", "city", "price", "tags", "open", "kind", "items", "note", "rank"]
PROMPTS = [
    "Extract name, age and city as JSON: Ada Lovelace, 36, London.",
    "Describe a shop as JSON.",
    "What is 17 + 25?",
    "List the fruits as JSON: apples, pears and plums.",
    "Hello!",
]


def random_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema of scalars, enums, bounded arrays, and objects with required and optional members."""
    makers = [_string, _integer, _number, _boolean, _enum]
    if depth < 3:
        makers += [_array, _object, _object, _any_of]
    return rng.choice(makers if depth else [_object])(rng, depth)


def _string(rng: random.Random, _depth: int) -> dict[str, Any]:
    bounds = rng.choice(
        [{}, {"maxLength": 12}, {"minLength": 2, "maxLength": 20}, {"pattern": "^[a-z]{2,8}$"}]
    )
    return {"type": "string", **bounds}


def _integer(rng: random.Random, _depth: int) -> dict[str, Any]:
    low = rng.randrange(-50, 50)
    return {"type": "integer", **rng.choice([{}, {"minimum": low, "maximum": low + rng.randrange(100)}])}


def _number(rng: random.Random, _depth: int) -> dict[str, Any]:
    return {"type": "number", **rng.choice([{}, {"minimum": 0, "maximum": 1}])}


def _boolean(_rng: random.Random, _depth: int) -> dict[str, Any]:
    return {"type": "boolean"}


def _enum(rng: random.Random, _depth: int) -> dict[str, Any]:
    return {"enum": rng.sample([*WORDS, 1, 2.5, True, None], rng.randrange(1, 5))}


def _array(rng: random.Random, depth: int) -> dict[str, Any]:
    low = rng.randrange(3)
    return {"type": "array", "items": random_schema(rng, depth + 1), "minItems": low, "maxItems": low + 2}


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(WORDS, rng.randrange(1, 5))
    return {
        "type": "object",
        "properties": {name: random_schema(rng, depth + 1) for name in names},
        "required": rng.sample(names, rng.randrange(len(names) + 1)),
        "additionalProperties": False,
    }


def _any_of(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [random_schema(rng, depth + 1) for _ in range(2)]}


def ask(schema: dict[str, Any], prompt: str, seed: int, temperature: float) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one `moetool run`."""
    command = [sys.executable, "-m", "moetool", "run", "demo", prompt, "--schema", json.dumps(schema)]
    command += ["--seed", str(seed), "--temp", str(temperature)]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def verdict(schema: dict[str, Any], code: int, out: str) -> str:
    """What this outcome counts as; everything that starts with WRONG is a failure of the promise."""
    if code == 4:
        return "WRONG: printed although incomplete" if out else "did not end: nothing printed, exit 4"
    if code != 0:
        return f"WRONG: exit {code}"
    try:
        jsonschema.validate(json.loads(out), schema)
    except ValueError:
        return "WRONG: not JSON"
    except jsonschema.ValidationError:
        return "WRONG: against the schema"
    return "valid"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=1.0)
    args = parser.parse_args()
    rng, counts = random.Random(args.seed), Counter[str]()
    for number in range(args.count):
        schema, prompt = random_schema(rng), rng.choice(PROMPTS)
        code, out, err = ask(schema, prompt, args.seed + number, args.temperature)
        result = verdict(schema, code, out)
        counts[result] += 1
        if result.startswith("WRONG"):
            print(result, json.dumps(schema), prompt, repr(out[:200]), err[-300:], sep="\n  ")
    for result, count in counts.most_common():
        print(f"{count:5}  {result}")
    sys.exit(any(result.startswith("WRONG") for result in counts))


if __name__ == "__main__":
    main()
