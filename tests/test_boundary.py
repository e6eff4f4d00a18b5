"""What stands between a command and a shell: wordings of usage errors, documents, encodings."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
from cli_fixture import Moetool, moetool, moetool_here
from rich.console import Console

from moetool.cli import boundary
from moetool.cli.boundary import command_of, run_command_line, wants_json
from moetool.engine.aborts import make_abort_error
from moetool.render import progress, tables
from moetool.render.plain import AnswerWriter

__all__ = ["moetool", "moetool_here"]  # fixtures


@pytest.mark.parametrize(
    ("line", "wanted", "command"),
    [
        ("run demo Hello --output json", True, "run"),
        ("run demo Hello --output=json", True, "run"),
        ("-o json plan demo", True, "plan"),
        ("run -ojson demo", True, "run"),
        ("run -qo json demo", True, "run"),
        ("run -qojson demo", True, "run"),
        ("run demo -o text", False, "run"),
        ("run demo -s json", False, "run"),
        ("run demo -- -o json", False, "run"),
        ("--output", False, ""),
    ],
)
def test_a_document_is_wanted_however_it_is_written(line: str, wanted: bool, command: str) -> None:
    assert wants_json(line.split()) == wanted
    assert command_of(line.split()) == command


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("run demo hi --temp abc", "--temperature: this must be a number.", "moetool run --help"),
        ("run demo hi --top-p 3", "--top-p: this must be at most 1.", "moetool run --help"),
        ("run demo hi -t 0", "--threads: this must be at least 1.", "moetool run --help"),
        (
            "bench demo -o xml",
            "--output: 'xml' is not one of 'text', 'json', 'jsonl', 'csv', 'md', 'sql'.",
            "moetool bench --help",
        ),
        ("plan demo extra", "One argument too many: extra.", "moetool plan --help"),
        ("run demo hi there", "One argument too many: there.", "in quotes"),
        ("plan --ctx", "Option '--ctx' requires an argument.", "moetool plan --help"),
    ],
)
def test_usage_errors_are_in_our_words(
    line: str, message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(line.split()) == 2
    said, hinted = capsys.readouterr().err.splitlines()
    assert said == f"error: {message}"
    assert hint in hinted


def test_other_letters_where_an_encoding_lacks_some(moetool: Moetool) -> None:
    done = moetool("inspect", "demo", PYTHONIOENCODING="ascii")
    assert done.code == 0, done.err
    assert "4: 4 x full attention + MoE" in done.out
    assert "##" in done.out
    failed = moetool("inspect", "./n\u00f6where.gguf", PYTHONIOENCODING="ascii")
    assert failed.code == 5
    assert "n?where.gguf" in failed.err


def test_a_document_is_json_in_any_encoding(moetool: Moetool) -> None:
    done = moetool("inspect", "./n\u00f6where.gguf", "-o", "json", PYTHONIOENCODING="latin-1")
    assert done.code == 5
    assert done.out.isascii()
    assert "n\u00f6where.gguf" in json.loads(done.out)["errors"][0]["message"]


class _Full(io.StringIO):
    """A file on a disk without room."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_document_that_finds_no_room_is_missed_aloud(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", _Full())
        assert run_command_line(["list", "-o", "json"]) == 1
    assert "No space left" in capsys.readouterr().err


def test_a_prompt_that_cannot_fit_is_refused_before_it_is_cut_into_tokens(moetool_here: Moetool) -> None:
    done = moetool_here("run", "demo", stdin="word " * 4_000_000)
    assert done.code == 1
    assert done.err.startswith("error: The prompt has more than ")
    assert "--ctx" in done.err
    # Blanks may count for nothing.
    blank = moetool_here("run", "demo", "Hi", "-n", "1", stdin=" " * 100_000 + "x")
    assert "more than" not in blank.err


@pytest.fixture(autouse=True)
def not_in_the_background() -> Iterator[None]:
    """There a shell has Ctrl-C ignored, which is left so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Left(BaseException):
    """In the place of the end of the process."""


@pytest.mark.parametrize(("line", "out"), [("run demo hi", ""), ("bench demo -o json", '"exit_code": 130')])
def test_ctrl_c_before_there_is_anything_to_tidy_up(
    line: str, out: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(code: int) -> NoReturn:
        raise Left(code)

    monkeypatch.setattr(os, "_exit", leave)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Left, match="130"), boundary._leaving_at_once(line.split()):
        signal.raise_signal(signal.SIGINT)
    shown = capsys.readouterr()
    assert shown.err == ("" if out else "error: Interrupted.\n")
    assert out in shown.out
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_after_a_whole_document_changes_nothing(
    moetool_here: Moetool, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, set_ctrl_c = AnswerWriter.end, boundary.set_ctrl_c

    def end_and_press(writer: AnswerWriter) -> None:
        end(writer)
        signal.raise_signal(signal.SIGINT)

    def press_and_set(handler: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        set_ctrl_c(handler)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(AnswerWriter, "end", end_and_press)
    monkeypatch.setattr(boundary, "set_ctrl_c", press_and_set)
    done = moetool_here("run", "demo", "Is Rome in Italy?", "--choice", "yes,no")
    assert (done.code, done.out in {"yes\n", "no\n"}) == (0, True)


def test_other_commands_have_something_to_tidy_up() -> None:
    with pytest.raises(KeyboardInterrupt), boundary._leaving_at_once(["pull", "org/repo"]):
        signal.raise_signal(signal.SIGINT)


def test_when_llama_cpp_gives_up_under_a_bar_the_cursor_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True)
    monkeypatch.setattr(tables, "error_console", lambda: console)
    monkeypatch.setattr(progress, "PATIENCE_S", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    at_exit: list[str] = []
    monkeypatch.setattr(os, "_exit", lambda code: at_exit.append(screen.getvalue()))
    with progress.step_progress("Measuring", 2) as on_step:
        on_step()
        assert screen.getvalue().endswith("\x1b[?25l") or "Measuring" in screen.getvalue()
        boundary._leave(["bench"], make_abort_error("ggml.c:1: it is over"))
    hidden, shown = (at_exit[0].rfind(f"\x1b[?25{letter}") for letter in "lh")
    assert 0 <= hidden < shown
    assert screen.getvalue() == at_exit[0]  # and nothing is drawn any more
