#!/usr/bin/env python3
"""Does constrained output ever break its schema? Random schemas with prompts through `moetool run`.

    scripts/check_constrained.py --count 200
    scripts/check_constrained.py --count 1000 --temperature 1.5 --schemas schemas.jsonl

Each is a process as a shell would start it. Printed with exit code 0 must mean: one JSON document that a
validator accepts. An answer that does not end (a long string at a high temperature) must print nothing and
exit with 4. With --schemas (one JSON object a line, with a "schema") they are drawn from that file, and the
model is loaded once: each answer goes through what `run` calls after loading (cli/one_shot.py: answer_once),
under some --max-tokens, and its document and exit code are read from there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
from referencing import Registry

from moetool.cli.answer import Request, load_engine
from moetool.cli.boundary import Reported
from moetool.cli.one_shot import answer_once
from moetool.cli.opening import open_model, plan_for, read_this_machine
from moetool.cli.task import Task
from moetool.cli.wishing import Flags, make_wishes
from moetool.constrain import parse_schema
from moetool.errors import ConstraintError
from moetool.generate import Limits
from moetool.settings import Sampling

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


def answers_in_process(args: argparse.Namespace) -> Iterator[tuple[Any, str, int, str, str]]:
    """Schema, prompt, exit code, what would be printed, and the error, of each answer."""
    rng = random.Random(args.seed)
    rows = [json.loads(line)["schema"] for line in args.schemas.read_text(encoding="utf-8").splitlines()]
    opened = open_model("demo")
    plan = plan_for(opened, read_this_machine(), make_wishes(Flags()))
    with load_engine(opened, plan, lambda: False) as engine:
        for number in range(args.count):
            schema, prompt = rng.choice(rows), rng.choice(PROMPTS)
            limits = Limits(rng.choice([5, 40, 160]))
            try:
                task = Task(parse_schema(json.dumps(schema)))
            except ConstraintError as error:
                yield schema, prompt, error.exit_code, "", error.message
                continue
            request = Request(prompt, "", False, task, limits, as_json=True, quiet=True)
            sampling = Sampling(temperature=args.temperature, seed=args.seed + number)
            engine.use_sampling(sampling)
            document = captured(lambda: answer_once(engine, opened, plan, request, sampling))  # noqa: B023
            code = document["exit_code"]
            errors = "; ".join(error["message"] for error in document["errors"])
            yield schema, prompt, code, document["data"]["text"] if code == 0 else "", errors


def captured(answer: Callable[[], None]) -> Any:
    """The document that `answer` prints."""
    stdout = io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.suppress(Reported):
        answer()
    return json.loads(stdout.getvalue())


def answers_of_processes(args: argparse.Namespace) -> Iterator[tuple[Any, str, int, str, str]]:
    """Schema, prompt, exit code, stdout and stderr, of each answer."""
    rng = random.Random(args.seed)
    for number in range(args.count):
        schema, prompt = random_schema(rng), rng.choice(PROMPTS)
        yield schema, prompt, *ask(schema, prompt, args.seed + number, args.temperature)


def verdict(schema: dict[str, Any], code: int, out: str) -> str:
    """What this outcome counts as; everything that starts with WRONG is a failure of the promise."""
    if code == 4:
        return "WRONG: printed although incomplete" if out else "did not end: nothing printed, exit 4"
    if code == 2:
        return "refused: the schema cannot be enforced, exit 2"
    if code != 0:
        return f"WRONG: exit {code}"
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind(schema, registry=Registry()).validate(json.loads(out))
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
    parser.add_argument("--schemas", type=Path, help="draw schemas from this file, in one process")
    args = parser.parse_args()
    counts = Counter[str]()
    answers = answers_in_process(args) if args.schemas else answers_of_processes(args)
    for schema, prompt, code, out, err in answers:
        result = verdict(schema, code, out)
        counts[result] += 1
        if result.startswith("WRONG"):
            print(result, json.dumps(schema)[:2000], prompt, repr(out[:200]), err[-300:], sep="\n  ")
    for result, count in counts.most_common():
        print(f"{count:5}  {result}")
    sys.exit(any(result.startswith("WRONG") for result in counts))


if __name__ == "__main__":
    main()
