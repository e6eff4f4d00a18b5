"""Every way a command line can be wrong: one sentence and a hint on stderr, the documented exit code, no
traceback, nothing on stdout. And the same failures as a document."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_fixture import Moetool

from moetool.assets import demo_model_path

Make = Callable[[Path], list[str]]


def _written(folder: Path, name: str, data: bytes) -> str:
    (folder / name).write_bytes(data)
    return name


def missing_file(folder: Path) -> list[str]:
    return ["run", "./nowhere.gguf", "Hello"]


def not_gguf(folder: Path) -> list[str]:
    return ["run", "./" + _written(folder, "text.gguf", b"This is a text, not a model.\n" * 9), "Hello"]


def truncated_header(folder: Path) -> list[str]:
    data = demo_model_path().read_bytes()[:2000]
    return ["run", "./" + _written(folder, "cut.gguf", data), "Hello"]


def truncated_data(folder: Path) -> list[str]:
    data = demo_model_path().read_bytes()
    return ["run", "./" + _written(folder, "half.gguf", data[: len(data) // 2]), "Hello"]


def unknown_architecture(folder: Path) -> list[str]:
    data = demo_model_path().read_bytes().replace(b"qwen3moe", b"qwen3mob")
    return ["run", "./" + _written(folder, "arch.gguf", data), "Hello"]


def lying_counts(folder: Path) -> list[str]:
    data = struct.pack("<4sIQQ", b"GGUF", 3, 1 << 60, 1 << 60)
    return ["inspect", "./" + _written(folder, "lies.gguf", data)]


def unknown_short_name(folder: Path) -> list[str]:
    return ["run", "llama-that-is-not-here", "Hello"]


def not_pulled(folder: Path) -> list[str]:
    return ["run", "some/model-GGUF:Q4_K_M", "Hello"]


def hub_is_not_there(folder: Path) -> list[str]:
    return ["pull", "some/model-GGUF"]


def too_long_a_prompt(folder: Path) -> list[str]:
    return ["run", "demo", "word " * 3000]


def a_full_context(folder: Path) -> list[str]:
    return ["run", "demo", "Count", "--regex", "[a-z]{3000}", "--ctx", "256"]


def nothing_fits(folder: Path) -> list[str]:
    return ["run", "demo", "Hello", "--ctx", "900000000"]


def no_prompt(folder: Path) -> list[str]:
    return ["run", "demo"]


def unknown_option(folder: Path) -> list[str]:
    return ["run", "demo", "Hello", "--temprature", "1"]


def unknown_command(folder: Path) -> list[str]:
    return ["runn", "demo"]


def no_number(folder: Path) -> list[str]:
    return ["run", "demo", "Hello", "--top-p", "nan"]


def bad_number(folder: Path) -> list[str]:
    return ["run", "demo", "Hello", "--ctx", "many"]


def bad_cache_type(folder: Path) -> list[str]:
    return ["run", "demo", "Hello", "--kv", "q9_9"]


def too_many_experts(folder: Path) -> list[str]:
    return ["run", "demo", "Hello", "--experts", "99"]


def experts_for_each_layer(folder: Path) -> list[str]:
    return ["run", "demo", "Hello", "--experts", "2,1,1,2"]


def schema_that_is_no_json(folder: Path) -> list[str]:
    return ["run", "demo", "Hello", "--schema", "{nope"]


def schema_beyond_the_engine(folder: Path) -> list[str]:
    return ["run", "demo", "Hello", "--schema", '{"type": "array", "uniqueItems": true}']


def unknown_grammar(folder: Path) -> list[str]:
    return ["run", "demo", "Hello", "--grammar", "jsn"]


def machine_file_missing(folder: Path) -> list[str]:
    return ["plan", "demo", "--machine", "nowhere.json"]


def a_choice_among_one(folder: Path) -> list[str]:
    return ["plan", "demo", "--min-tok-s", "20"]


# what is done -> exit code, error code, words of the message, words of the hint
def size_without_a_unit(tmp_path: Path) -> list[str]:
    return ["plan", "demo", "--vram", "10"]


CASES: list[tuple[Make, int, str, str, str]] = [
    (size_without_a_unit, 2, "usage", "10 bytes", "--vram 12G"),
    (missing_file, 5, "not-found", "nowhere.gguf", ""),
    (not_gguf, 1, "bad-header", "not GGUF", "download"),
    (truncated_header, 1, "bad-header", "", "download"),
    (truncated_data, 1, "bad-header", "missing", "download"),
    (unknown_architecture, 1, "engine", "qwen3mob", ""),
    (lying_counts, 1, "bad-header", "", ""),
    (unknown_short_name, 5, "not-found", "not on this disk", ""),
    (not_pulled, 5, "not-found", "not on this disk", "moetool pull"),
    (hub_is_not_there, 1, "hub", "", ""),
    (too_long_a_prompt, 1, "context-full", "do not fit", "--ctx"),
    (a_full_context, 4, "output-invalid", "broke off", "--max-tokens"),
    (nothing_fits, 3, "does-not-fit", "GiB", "--ctx"),
    (no_prompt, 2, "usage", "no prompt", "moetool run demo"),
    (unknown_option, 2, "usage", "--temprature", "--help"),
    (unknown_command, 2, "usage", "runn", "--help"),
    (bad_number, 2, "usage", "many", "8192"),
    (no_number, 2, "usage", "--top-p cannot be nan", "number"),
    (bad_cache_type, 2, "usage", "q9_9", "q8_0"),
    (too_many_experts, 2, "usage", "8 experts", "1 to 8"),
    (experts_for_each_layer, 2, "usage", "one number for all layers", "nemotron_h"),
    (schema_that_is_no_json, 2, "constraint", "not JSON", ""),
    (schema_beyond_the_engine, 2, "constraint", "'uniqueItems'", "best-effort"),
    (unknown_grammar, 2, "constraint", "jsn", "json"),
    (machine_file_missing, 5, "not-found", "nowhere.json", ""),
    (a_choice_among_one, 2, "usage", "among the quants of a repo", "leave it out"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].__name__)
def test_one_sentence_a_hint_and_the_exit_code(
    case: tuple[Make, int, str, str, str], moetool_here: Moetool, tmp_path: Path
) -> None:
    make, exit_code, error_code, message, hint = case
    arguments = make(tmp_path)
    done = moetool_here(*arguments)
    assert done.code == exit_code, done.err
    assert done.out == ""
    lines = done.err.rstrip("\n").split("\n")
    assert lines[0].startswith("error: ")
    assert lines[0].endswith((".", "?", "!"))
    assert message in lines[0]
    assert hint in done.err
    assert len(lines) <= 2, done.err
    again = moetool_here(*arguments, "--output", "json")
    document = again.document
    assert (again.code, again.err) == (exit_code, "")
    assert document["status"] == "error"
    assert document["exit_code"] == exit_code
    assert document["errors"][0]["code"] == error_code
    # Free memory is not the same twice.
    assert _without_numbers(document["errors"][0]["message"]).rstrip(".!?") in _without_numbers(lines[0])


@pytest.mark.parametrize("make", [truncated_data, unknown_command])
def test_a_process_says_the_same(make: Make, moetool: Moetool, moetool_here: Moetool, tmp_path: Path) -> None:
    arguments = make(tmp_path)
    assert moetool(*arguments) == moetool_here(*arguments)


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+\.\d", "#", text)


def test_commands_answer_with_one_document_each(moetool_here: Moetool) -> None:
    for command in ("plan", "inspect", "list", "doctor"):
        done = moetool_here(command, "-o", "json")
        assert done.code == 0, done.err
        document = json.loads(done.out)
        assert (document["command"], document["status"], document["errors"]) == (command, "ok", [])
        assert document["data"]
