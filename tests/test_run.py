"""`moetool run` on the demo model, as a shell uses it: real processes, real weights."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_fixture import Moetool, clean_environment
from terminal_fixture import on_a_terminal

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"type": "string"}},
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}
ADA = "Extract name, age and city as JSON: Ada Lovelace, 36, London."
ANSWER = '{"name": "Ada Lovelace", "age": 36, "city": "London"}\n'


def test_the_answer_and_nothing_else_is_on_stdout(moetool: Moetool) -> None:
    done = moetool("run", "demo", ADA)
    assert done.code == 0
    assert done.out == ANSWER
    assert done.err == ""


def test_a_schema_gives_exactly_one_valid_document(moetool_here: Moetool, tmp_path: Path) -> None:
    (tmp_path / "person.json").write_text(json.dumps(PERSON))
    done = moetool_here("run", "demo", ADA, "--schema", "person.json")
    assert done.code == 0
    assert json.loads(done.out) == {"name": "Ada Lovelace", "age": 36, "city": "London"}


def test_the_default_model_is_the_demo_when_nothing_is_pulled(moetool_here: Moetool) -> None:
    assert moetool_here("run", ADA).out == moetool_here("run", "demo", ADA).out


def test_argument_file_and_pipe_are_joined(moetool_here: Moetool, tmp_path: Path) -> None:
    (tmp_path / "task.txt").write_text("Extract name, age and city as JSON:")
    piped = moetool_here("run", "demo", "-f", "task.txt", stdin="Ada Lovelace, 36, London.\n")
    assert json.loads(piped.out)["name"] == "Ada Lovelace"
    assert piped.err == ""
    assert moetool_here("run", "demo", "-f", "-", stdin=ADA).out == piped.out
    (tmp_path / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    told = moetool_here("run", "demo", "-f", "latin.txt", "-n", "1").err
    assert told.startswith("latin.txt is not UTF-8 text at byte 2")


def test_the_whole_prompt_may_come_through_a_pipe(moetool: Moetool) -> None:
    assert moetool("run", "demo", stdin=ADA).out == ANSWER


def test_the_document_has_the_answer_the_plan_and_both_sides_of_the_promise(moetool_here: Moetool) -> None:
    done = moetool_here("run", "demo", ADA, "--output", "json")
    document = done.document
    assert (document["moetool"], document["command"], document["status"]) == (1, "run", "ok")
    assert document["exit_code"] == done.code == 0
    data = document["data"]
    assert json.loads(data["text"])["age"] == 36
    assert data["finish_reason"] == "stop"
    assert data["generated_tokens"] > 10
    assert data["plan"]["model"]["n_expert_used"] == 2
    predicted, measured = data["predicted"]["total_bytes"], data["measured"]["total_bytes"]
    assert abs(predicted - measured) < 4 << 20
    assert data["measured"]["decode_tok_s"] > 0


def test_a_seed_repeats_a_run_and_another_seed_does_not(moetool_here: Moetool) -> None:
    def once(seed: str) -> str:
        flags = ["--raw", "--temp", "3", "--top-k", "0", "--top-p", "1", "--min-p", "0", "-n", "12"]
        return moetool_here("run", "demo", "Once upon", *flags, "--seed", seed).out

    first = once("7")
    assert first == once("7")
    assert first != once("8")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--choice", "red,green,blue"], {"red", "green", "blue"}),
        (["--regex", "[0-9]{4}"], None),
        (["--grammar", "yes-no"], None),
        (["--grammar", 'root ::= "left" | "right"'], {"left", "right"}),
    ],
)
def test_other_constraints_hold(moetool_here: Moetool, flags: list[str], expected: set[str] | None) -> None:
    done = moetool_here("run", "demo", "Which one?", *flags)
    assert done.code == 0, done.err
    answer = done.out.strip()
    assert answer in expected if expected else len(answer) <= 5


def test_an_answer_cut_inside_its_schema_is_closed_and_says_so(moetool_here: Moetool) -> None:
    done = moetool_here("run", "demo", ADA, "--schema", json.dumps(PERSON), "-n", "5")
    assert done.code == 0
    document = json.loads(done.out)
    assert document["name"].startswith("A")
    assert (type(document["age"]), type(document["city"])) == (int, str)
    assert "Cut off at --max-tokens" in done.err
    assert done.out.rstrip("\n").endswith(done.err.rstrip("\n").rpartition("model's: ")[2])


def test_a_closed_answer_is_marked_in_its_document(moetool_here: Moetool) -> None:
    data = moetool_here("run", "demo", ADA, "--schema", json.dumps(PERSON), "-n", "5", "-o", "json").document[
        "data"
    ]
    assert (data["finish_reason"], data["closed"], data["generated_tokens"]) == ("length", True, 5)
    assert data["text"].endswith(data["closing"])
    whole = moetool_here("run", "demo", ADA, "--schema", json.dumps(PERSON), "-o", "json").document["data"]
    assert (whole["closed"], whole["closing"]) == (False, "")


ENDLESS = json.dumps({"type": "array", "items": {"type": "boolean"}, "minItems": 90000})


def test_an_answer_that_nothing_short_closes_is_not_printed(moetool_here: Moetool) -> None:
    done = moetool_here("run", "demo", ADA, "--schema", ENDLESS, "-n", "5")
    assert done.code == 4
    assert done.out == ""
    assert "broke off" in done.err
    assert "[" in done.err
    assert "hint:" in done.err


def test_a_broken_off_answer_in_a_document_is_marked_as_such(moetool_here: Moetool) -> None:
    done = moetool_here("run", "demo", ADA, "--schema", ENDLESS, "-n", "5", "-o", "json")
    document = done.document
    assert done.code == document["exit_code"] == 4
    assert document["errors"][0]["code"] == "output-invalid"
    assert (document["data"]["finish_reason"], document["data"]["closed"]) == ("length", False)


THREE_UNLIKE_BOOLEANS = json.dumps(
    {"type": "array", "items": {"type": "boolean"}, "minItems": 3, "maxItems": 3, "uniqueItems": True}
)
TWO_UNLIKE = json.dumps(
    {
        "type": "array",
        "items": {"type": "string", "pattern": "^[ab]$"},
        "minItems": 2,
        "maxItems": 2,
        "uniqueItems": True,
    }
)


def test_best_effort_names_what_it_leaves_to_the_end_and_then_holds_it(moetool_here: Moetool) -> None:
    refused = moetool_here("run", "demo", "List", "--schema", THREE_UNLIKE_BOOLEANS)
    assert (refused.code, refused.out) == (2, "")
    assert "--schema-mode best-effort" in refused.err
    flags = ["--schema", THREE_UNLIKE_BOOLEANS, "--schema-mode", "best-effort", "--temp", "1"]
    done = moetool_here("run", "demo", "List", *flags, "--retries", "2")
    assert (done.code, done.out) == (4, "")
    assert "Checked only at the end: The schema uses 'uniqueItems'" in done.err
    assert "Tried 3 times" in done.err
    assert "$: [" in done.err
    assert "non-unique" in done.err


def test_an_invalid_answer_is_tried_anew_with_another_seed(moetool_here: Moetool) -> None:
    flags = ["--schema", TWO_UNLIKE, "--schema-mode", "best-effort", "--temp", "2", "-o", "json"]
    tried = []
    for seed in range(1, 9):
        document = moetool_here("run", "demo", "Two", *flags, "--retries", "9", "--seed", str(seed)).document
        assert document["exit_code"] == 0
        assert sorted(json.loads(document["data"]["text"])) == ["a", "b"]
        assert document["data"]["seed"] == seed + document["data"]["retries"]
        tried.append(document["data"]["retries"])
        if tried[-1]:
            break
    assert tried[-1] > 0


def test_retries_that_cannot_help_are_refused(moetool_here: Moetool) -> None:
    flags = ["--schema", TWO_UNLIKE, "--schema-mode", "best-effort", "--temp", "0"]
    done = moetool_here("run", "demo", "Two", *flags, "--retries", "2")
    assert (done.code, done.out) == (2, "")
    assert "same answer" in done.err
    assert moetool_here("run", "demo", "Two", "--retries", "2").code == 2
    assert moetool_here("run", "demo", "Two", "--schema-mode", "best-effort").code == 2


def test_stop_strings_and_limits(moetool_here: Moetool) -> None:
    whole = moetool_here("run", "demo", ADA).out
    assert moetool_here("run", "demo", ADA, "--stop", ', "age"').out == whole.split(', "age"')[0] + "\n"
    data = moetool_here("run", "demo", ADA, "-n", "3", "-o", "json").document["data"]
    assert (data["generated_tokens"], data["finish_reason"]) == (3, "length")


def test_ctrl_c_stops_the_answer_and_exits_130(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "moetool", "run", "demo", "Count", "--schema", ENDLESS, "--ctx", "100000"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(tmp_path),
    )
    try:
        # It takes interrupts for what they are from before llama.cpp is there.
        deadline = time.monotonic() + 20
        while b"libllama" not in Path(f"/proc/{process.pid}/maps").read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()  # else it would write for ever
    assert process.returncode == 130
    assert out == b""
    assert b"Traceback" not in err


def test_a_reader_that_goes_away_is_not_an_error_to_complain_about(tmp_path: Path) -> None:
    command = f'{sys.executable} -m moetool run demo --raw --temp 2 -n 900 "Once upon a time" | head -c 1'
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, env=clean_environment(tmp_path), timeout=60, check=False
    )
    assert done.stdout
    assert done.stderr == b""
    pipe = f"{sys.executable} -m moetool plan demo -o json | true; echo ${{PIPESTATUS[0]}}"
    gone = subprocess.run(
        ["bash", "-c", pipe], capture_output=True, env=clean_environment(tmp_path), timeout=60, check=False
    )
    assert (gone.stdout.strip(), gone.stderr) == (b"141", b"")


def test_shell_completion_is_written_and_no_broken_pipe(moetool: Moetool) -> None:
    done = moetool(_MOETOOL_COMPLETE="source_bash")
    assert done.code == 0, done.err
    assert "complete" in done.out


def test_without_arguments_the_help_is_shown_and_closed_streams_are_no_bug(
    moetool_here: Moetool, tmp_path: Path
) -> None:
    done = moetool_here()
    assert done.code == 0
    assert "Commands:" in done.out
    command = f'{sys.executable} -m moetool run demo "What is 17 + 25?" <&-'
    closed = subprocess.run(
        ["sh", "-c", command], capture_output=True, env=clean_environment(tmp_path), timeout=60, check=False
    )
    assert closed.stdout == b"17 + 25 = 42.\n", closed.stderr


def test_escape_sequences_do_not_reach_a_terminal_but_do_reach_a_file(
    moetool_here: Moetool, tmp_path: Path
) -> None:
    grammar = 'root ::= "\\x1b[31mred"'
    assert moetool_here("run", "demo", "Say it", "--grammar", grammar).out == "\x1b[31mred\n"
    with on_a_terminal(tmp_path, "run", "demo", "Say it", "--grammar", grammar, "-q") as terminal:
        shown = terminal.end()[1]
    assert "\ufffd[31mred" in shown
    assert "\x1b[31m" not in shown
