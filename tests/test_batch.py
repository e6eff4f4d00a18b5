"""`moetool run --batch` on the demo model: in order, killed and gone on with, bad lines among good."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cli_fixture import Moetool, clean_environment

PEOPLE = [("Ada Lovelace", 36, "London"), ("Alan Turing", 41, "Paris"), ("Grace Hopper", 85, "Rome")]
PROMPTS = [
    *(f"Extract name, age and city as JSON: {name}, {age}, {city}." for name, age, city in PEOPLE),
    "What is 17 + 25?",
    "What is a mixture of experts?",
    "What is the capital of France?",
]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"type": "string"}},
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}


def write_prompts(path: Path, prompts: list[Any]) -> list[Any]:
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    return prompts


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def prompts(tmp_path: Path) -> list[str]:
    """prompts.jsonl, and what is in it."""
    return write_prompts(tmp_path / "prompts.jsonl", PROMPTS)


# With one thread a busy machine slows a test down, and not to a crawl.
BATCH = ("run", "demo", "--batch", "prompts.jsonl", "--threads", "1")


def test_answers_come_in_order_and_are_those_of_one_run_each(
    moetool: Moetool, moetool_here: Moetool, prompts: list[str]
) -> None:
    done = moetool(*BATCH, "--temp", "0")
    assert (done.code, done.err) == (0, "")
    lines = lines_of(done.out)
    assert [line["index"] for line in lines] == list(range(len(prompts)))
    assert not any(line["error"] for line in lines)
    for at in (0, 4):
        alone = moetool_here("run", "demo", prompts[at], "--temp", "0", "-o", "json").document["data"]
        for name in ("text", "finish_reason", "prompt_tokens", "generated_tokens", "closed", "thinking"):
            assert lines[at][name] == alone[name]


def test_how_many_are_answered_at_once_changes_nothing(moetool_here: Moetool, prompts: list[str]) -> None:
    flags = ("--temp", "0.5", "--seed", "3")
    found = [moetool_here(*BATCH, *flags, "--parallel", n).out for n in ("1", "2", "6", "9")]
    assert len(set(found)) == 1
    # One answer can be had again with its seed.
    line = lines_of(found[0])[4]
    again = moetool_here("run", "demo", prompts[4], "--temp", "0.5", "--seed", str(line["seed"]))
    assert again.out == line["text"] + "\n"
    other = moetool_here(*BATCH, "--temp", "0.5", "--seed", "4").out
    assert lines_of(other)[4]["seed"] != line["seed"]


def start(folder: Path, *arguments: str, **pipes: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "moetool", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=clean_environment(folder), stdin=subprocess.DEVNULL, **pipes
    )


def wait_for_lines(path: Path, n: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") >= n:
            return
        time.sleep(0.002)
    raise AssertionError(f"{path} has not got {n} lines")


def test_killed_again_and_again_it_comes_to_the_same_bytes(tmp_path: Path, moetool_here: Moetool) -> None:
    people = [f"Extract name, age and city as JSON: {PEOPLE[n % 3][0]}, {n}, Oslo." for n in range(20, 50)]
    write_prompts(tmp_path / "prompts.jsonl", people)
    out = tmp_path / "answers.jsonl"
    flags = ("--out", "answers.jsonl", "--temp", "0", "--parallel", "2")
    for n_lines in (1, 15):
        process = start(tmp_path, *BATCH, *flags)
        wait_for_lines(out, n_lines)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert n_lines <= out.read_bytes().count(b"\n") < len(people)
    torn = out.read_bytes()
    n_kept = torn.count(b"\n")
    out.write_bytes(torn + b'{"index": %d, "settings_' % n_kept)
    done = moetool_here(*BATCH, *flags)
    assert done.code == 0
    assert done.err == f"{n_kept} of 30 answers are in answers.jsonl already.\n"
    assert out.read_bytes().startswith(torn)
    assert out.read_text() == moetool_here(*BATCH, *flags[2:]).out
    assert [json.loads(line["text"])["age"] for line in lines_of(out.read_text())] == list(range(20, 50))


def test_ctrl_c_leaves_what_can_be_gone_on_with(tmp_path: Path, moetool_here: Moetool) -> None:
    write_prompts(tmp_path / "prompts.jsonl", [f"Once upon a time {n}" for n in range(20)])
    flags = ("--out", "answers.jsonl", "--raw", "--temp", "2", "-n", "150", "-np", "2")
    process = start(tmp_path, *BATCH, *flags, stderr=subprocess.PIPE)
    wait_for_lines(tmp_path / "answers.jsonl", 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    kept = (tmp_path / "answers.jsonl").read_bytes()
    n_kept = kept.count(b"\n")
    assert err.decode() == (
        f"error: Interrupted: {n_kept} of 20 answers are in answers.jsonl.\n"
        "hint:  the same command goes on from there\n"
    )
    assert moetool_here(*BATCH, *flags).code == 0
    whole = (tmp_path / "answers.jsonl").read_bytes()
    assert whole.startswith(kept)
    assert [line["index"] for line in lines_of(whole.decode())] == list(range(20))


def test_every_line_is_valid_under_its_schema(moetool_here: Moetool, tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    for flags in (["--temp", "1.5"], ["--temp", "1.5", "-n", "9"]):
        done = moetool_here(*BATCH, "--schema", json.dumps(PERSON), *flags, "--seed", "1")
        assert done.code == 0
        lines = lines_of(done.out)
        for line in lines:
            jsonschema.validate(json.loads(line["text"]), PERSON)
        assert all(line["forced_tokens"] for line in lines)
    assert any(line["closed"] and line["text"].endswith(line["closing"]) for line in lines)


def test_other_constraints_hold_for_each(moetool_here: Moetool, tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS[:2])
    lines = lines_of(moetool_here(*BATCH, "--choice", "red,green", "--temp", "1").out)
    assert {line["text"] for line in lines} <= {"red", "green"}
    endless = json.dumps({"type": "array", "items": {"type": "integer"}, "minItems": 90000})
    done = moetool_here(*BATCH, "--schema", endless, "-n", "5")
    assert done.code == 4
    for line in lines_of(done.out):
        assert (line["text"], line["error"]["code"]) == (None, "output-invalid")
        assert line["partial"].startswith("[")


def test_an_invalid_answer_is_tried_anew(moetool_here: Moetool, tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", ["Two"] * 6)
    letter = {"type": "string", "pattern": "^[ab]$"}
    unlike = {"type": "array", "items": letter, "minItems": 2, "maxItems": 2, "uniqueItems": True}
    flags = ["--schema", json.dumps(unlike), "--schema-mode", "best-effort", "--temp", "2"]
    done = moetool_here(*BATCH, *flags, "--retries", "30", "-np", "3")
    lines = lines_of(done.out)
    assert done.code == 0
    assert all(sorted(json.loads(line["text"])) == ["a", "b"] for line in lines)
    assert any(line["retries"] for line in lines)
    assert "Checked only at the end" in done.err
    assert moetool_here(*BATCH, *flags[:-1], "0", "--retries", "2").code == 2


def test_a_bad_line_stops_no_other(moetool_here: Moetool, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    long = "word " * 400
    path.write_text(
        f'"What is 17 + 25?"\n{{"prompt": \n{{"id": 3, "prompt": "{long}"}}\n\n"What is 2 + 3?"\n'
    )
    done = moetool_here(*BATCH, "--ctx", "256", "--out", "answers.jsonl")
    assert (done.code, done.out) == (4, "")
    assert done.err.startswith("error: 2 of 4 prompts have no answer.\n")
    lines = lines_of((tmp_path / "answers.jsonl").read_text())
    assert [line["text"] for line in lines] == ["17 + 25 = 42.", None, None, "2 + 3 = 5."]
    assert [bool(line["error"]) for line in lines] == [False, True, True, False]
    assert lines[2]["error"]["code"] == "context-full"
    assert "Line 2 cannot be asked: it is not JSON" in lines[1]["error"]["message"]
    assert lines[2]["id"] == 3
    # All of it is done: it is said again, and nothing is computed.
    again = moetool_here(*BATCH, "--ctx", "256", "--out", "answers.jsonl", "-o", "json")
    assert again.code == again.document["exit_code"] == 4
    assert (again.document["data"]["kept"], again.document["data"]["failed"]) == (4, 2)
    assert again.document["errors"][0]["code"] == "unanswered"


def test_only_what_was_made_from_the_same_is_gone_on_with(
    moetool_here: Moetool, tmp_path: Path, prompts: list[str]
) -> None:
    out = tmp_path / "answers.jsonl"
    flags = ("--out", "answers.jsonl", "-n", "8")
    assert moetool_here(*BATCH, *flags).code == 0
    content = out.read_bytes()
    for other in (["--temp", "0.1"], ["--seed", "1"], ["-n", "9"], ["--regex", "a"], ["--system", "x"]):
        done = moetool_here(*BATCH, *flags, *other)
        assert done.code == 2
        assert "made with another model or other options" in done.err
    # What only changes the speed does not matter.
    assert moetool_here(*BATCH, *flags, "--parallel", "1", "--threads", "2").code == 0
    write_prompts(tmp_path / "prompts.jsonl", [*prompts[:4], "Something else?", prompts[5]])
    done = moetool_here(*BATCH, *flags)
    assert done.code == 2
    assert "its line 5 answers another one" in done.err
    for mine in ("prompts.jsonl", "notes.txt"):
        (tmp_path / "notes.txt").write_text("my notes")
        before = (tmp_path / mine).read_bytes()
        assert moetool_here(*BATCH, "--out", mine).code == 2
        assert (tmp_path / mine).read_bytes() == before
    assert out.read_bytes() == content
    # More prompts are only more to do.
    write_prompts(tmp_path / "prompts.jsonl", [*prompts, "What is 2 + 3?"])
    assert moetool_here(*BATCH, *flags).code == 0
    assert out.read_bytes().startswith(content)
    assert len(lines_of(out.read_text())) == 7


def test_prompts_from_stdin_and_none_at_all(moetool_here: Moetool, tmp_path: Path) -> None:
    done = moetool_here("run", "demo", "--batch", "-", "-t", "1", stdin='"What is 17 + 25?"\n')
    assert (done.code, lines_of(done.out)[0]["text"]) == (0, "17 + 25 = 42.")
    done = moetool_here("run", "demo", "--batch", "-", "--out", "none.jsonl", stdin="\n")
    assert (done.code, done.out, done.err) == (0, "", "There are no prompts.\n")
    assert (tmp_path / "none.jsonl").read_bytes() == b""


def test_a_reader_that_has_enough_ends_it(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS * 20)
    pipe = f"{sys.executable} -m moetool {' '.join(BATCH)} -np 1 | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", pipe], cwd=tmp_path, env=clean_environment(tmp_path), capture_output=True, check=False
    )
    line, code = done.stdout.decode().splitlines()
    assert (json.loads(line)["index"], code, done.stderr) == (0, "141", b"")


def test_the_document_tells_what_was_done(moetool_here: Moetool, prompts: list[str]) -> None:
    done = moetool_here(*BATCH, "--out", "answers.jsonl", "-o", "json", "-np", "3")
    data = done.document["data"]
    assert (data["prompts"], data["kept"], data["failed"], data["parallel"]) == (6, 0, 0, 3)
    assert data["out"] == "answers.jsonl"
    assert data["generated_tok_s"] == pytest.approx(data["generated_tokens"] / data["seconds"])


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["--out", "a.jsonl"], 2, "--batch"),
        (["Hello", "--parallel", "2"], 2, "--batch"),
        (["Hello", "--batch", "prompts.jsonl"], 2, "--batch has the prompts"),
        (["--batch", "prompts.jsonl", "-f", "prompts.jsonl"], 2, "--batch has the prompts"),
        (["--batch", "prompts.jsonl", "--session", "a"], 2, "no --session"),
        (["--batch", "prompts.jsonl", "-o", "json"], 2, "add --out FILE"),
        (["--batch", "512"], 5, "--batch-size"),
        (["--batch", "."], 5, "directory"),
        (["--batch", "prompts.jsonl", "--out", "no/where.jsonl"], 5, "folder no"),
        (["--batch", "prompts.jsonl", "--schema", "{"], 2, "JSON"),
    ],
)
def test_what_cannot_be_meant_is_said(
    moetool_here: Moetool, prompts: list[str], arguments: list[str], code: int, what: str
) -> None:
    done = moetool_here("run", "demo", *arguments)
    assert done.code == code
    assert what in done.err + done.out
