"""What constraining costs per token, over a real vocabulary: `python scripts/bench_constrain.py MODEL.gguf`.

Any GGUF with a vocabulary will do; its weights are not loaded. Each text below is replayed through a matcher
token by token, as a model that wants to write it would sample it, and every call is timed on its own, in CPU
time, so that other work on the machine does not show. `check first` is what a loop pays that asks for a mask
only when the sampled token is refused: here never.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from moetool.constrain import (
    Constraint,
    Tokenizer,
    TokenTable,
    make_matcher,
    make_tokenizer,
    parse_grammar,
    parse_schema,
)

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string"}},
        "kind": {"enum": ["alpha", "beta", "gamma"]},
        "email": {"type": "string", "format": "email"},
    },
    "required": ["name", "age", "tags", "kind", "email"],
    "additionalProperties": False,
}
PERSON_TEXT = json.dumps(
    {
        "name": "Ada Lovelace, Countess of London, author of the first \"program\"",
        "age": 36,
        "tags": ["mathematics", "poetical science", "Analytical Engine", "übung"],
        "kind": "beta",
        "email": "ada@example.org",
    },
    ensure_ascii=False,
)  # fmt: skip
TABLE_TEXT = "| name | year |\n| --- | --- |\n" + "| Ada Lovelace of London | 1815 |\n" * 6
LIST_TEXT = "- a mixture of experts\n- an attention layer, with its cache\n- the router\n" * 3
SQL_TEXT = "SELECT name, size_gb FROM models WHERE active_b <= 3.5 AND name LIKE 'Qwen%' LIMIT 10;"


def main() -> None:
    """Print one row for each constraint, and what the tokenizer costs to build."""
    arguments = read_arguments()
    table = read_table(arguments.model)
    print(f"{len(table.tokens)} tokens; times are medians (and 99th percentiles) in µs")
    for fast in (False, True):
        seconds, tokenizer = timed(lambda fast=fast: make_tokenizer(table, fast_masks=fast))
        print(f"\nfast_masks={fast}: tokenizer built in {seconds:.2f} s")
        head = ("constraint", "tokens", "forced", "compile ms", "allowed", "accepts", "commit")
        print(
            ("{:<16}" + "{:>8}" * 2 + "{:>12}" + "{:>17}" * 5).format(*head, "mask + commit", "check first")
        )
        for name, constraint, text in cases():
            print(row(name, replay(tokenizer, constraint, text, arguments.repeat)))


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a GGUF file with a vocabulary")
    parser.add_argument("--repeat", type=int, default=5, help="replays of each text")
    return parser.parse_args()


def cases() -> list[tuple[str, Constraint, str]]:
    """What is replayed: a name, a constraint, and a text that it accepts."""
    return [
        ("schema", parse_schema(json.dumps(PERSON)), PERSON_TEXT),
        ("json", parse_grammar("json"), PERSON_TEXT),
        ("list", parse_grammar("list"), LIST_TEXT),
        ("markdown-table", parse_grammar("markdown-table"), TABLE_TEXT),
        ("sql-select", parse_grammar("sql-select"), SQL_TEXT),
    ]


def replay(tokenizer: Tokenizer, constraint: Constraint, text: str, repeat: int) -> dict[str, Any]:
    """Times in µs of every call, over `repeat` replays of `text`."""
    tokens = tokenizer.table.tokenize(text.encode())
    times: dict[str, list[float]] = {"allowed": [], "accepts": [], "commit": []}
    n_forced, compile_s = 0, 0.0
    for _ in range(repeat):
        compile_s, matcher = timed(lambda: make_matcher(tokenizer, constraint))
        n_forced = 0
        for token in tokens:
            n_forced += matcher.forced()[:1] == (token,)
            for name, call in (
                ("accepts", lambda matcher=matcher, token=token: matcher.accepts(token)),
                ("allowed", lambda matcher=matcher: matcher.allowed()),
                ("commit", lambda matcher=matcher, token=token: matcher.commit(token)),
            ):
                times[name].append(timed(call)[0] * 1e6)
        assert matcher.is_complete(), f"{constraint.title} does not accept its text"
    masked = [a + c for a, c in zip(times["allowed"], times["commit"], strict=True)]
    checked = [a + c for a, c in zip(times["accepts"], times["commit"], strict=True)]
    counts = {"tokens": len(tokens), "forced": n_forced, "compile_ms": compile_s * 1e3}
    return {**counts, **times, "masked": masked, "checked": checked}


def row(name: str, result: dict[str, Any]) -> str:
    """One line of the table."""
    cells = [
        f"{np.median(result[key]):8.1f} ({np.quantile(result[key], 0.99):6.0f})"
        for key in ("allowed", "accepts", "commit", "masked", "checked")
    ]
    start = f"{name:<16}{result['tokens']:>8}{result['forced']:>8}{result['compile_ms']:>12.1f}"
    return start + "".join(f"{cell:>17}" for cell in cells)


def read_table(path: Path) -> TokenTable:
    """The vocabulary of a GGUF file through llama.cpp."""
    from llama_cpp import llama_cpp

    from moetool.engine.vocabulary import Vocabulary

    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise SystemExit(f"{path} cannot be loaded")
    vocabulary = Vocabulary(llama_cpp.llama_model_get_vocab(model))
    return TokenTable(
        tokens=vocabulary.all_pieces(),
        special=vocabulary.special_tokens(),
        ends=vocabulary.end_tokens(),
        tokenize=lambda data: vocabulary.tokenize(data.decode("utf-8", "surrogateescape")),
    )


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of CPU time, and the result."""
    started = time.thread_time()
    result = call()
    return time.thread_time() - started, result


if __name__ == "__main__":
    main()
