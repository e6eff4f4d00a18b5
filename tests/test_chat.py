"""Chats: what is typed, what the commands do, Ctrl-C and Ctrl-D, on a real terminal with the demo model."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from terminal_fixture import CTRL_C, CTRL_D, on_a_terminal

from moetool import kept_lines
from moetool.cli.chat.commands import parse_command
from moetool.cli.chat.knobs import Knobs, knob_lines, set_knob
from moetool.cli.chat.lines import read_message
from moetool.cli.interrupt import CtrlC
from moetool.conversation import (
    Conversation,
    conversation_document,
    load_conversation,
    parse_conversation,
    save_conversation,
)
from moetool.errors import MoetoolError, NotFound, UsageError
from moetool.generate import Limits
from moetool.kept_lines import keep_line, read_lines
from moetool.prompt import Message
from moetool.settings import Sampling

PARIS = "The capital of France is Paris."
ENDLESS = '{"type": "array", "items": {"type": "integer"}, "minItems": 90000}'

# -- on a terminal -----------------------------------------------------------------------------------


def test_a_chat_with_its_commands(tmp_path: Path) -> None:
    with on_a_terminal(tmp_path, "run", "demo", "--max-tokens", "40") as chat:
        chat.wait_for("> ")
        assert PARIS in chat.ask("What is the capital of France?")
        stats = chat.ask("/stats")
        assert "1 exchange" in stats
        n_read = int(stats.partition("; ")[2].split()[0])
        assert "of 1024 tokens" in stats
        assert "MiB taken (predicted" in stats
        assert PARIS in chat.ask("/regen")
        # The prompt was still there, all but the token that is drawn from.
        assert f"1 exchange; {n_read + 1} tokens read" in chat.ask("/stats")
        chat.ask("What is the capital of France?")
        second = int(chat.ask("/stats").partition("2 exchanges; ")[2].split()[0]) - (n_read + 1)
        assert n_read <= second <= n_read + 4  # the question, and the marks between the turns
        chat.ask("/undo")
        assert "temperature" in chat.ask("/set")
        assert "it takes 0 to 1" in chat.ask("/set top-p 7")
        assert "max-tokens is 2" in chat.ask("/set max-tokens 2")
        assert "2 tokens" in chat.ask("/regen")
        assert "System message: Be brief." in chat.ask("/system Be brief.")
        assert "2 messages saved" in chat.ask("/save chat.json")
        assert "Taken back: What is the capital" in chat.ask("/undo")
        assert "nothing to take back" in chat.ask("/undo")
        assert "There is no system message." in chat.ask("/system none")
        assert "2 messages loaded" in chat.ask("/load chat.json")
        assert "anew" in chat.ask("/clear")
        assert "error: There is no command /cleer." in chat.ask("/cleer")
        assert "tok/s" in chat.ask("//clear")
        assert "/undo" in chat.ask("/help")
        chat.type(CTRL_D)
        code, shown = chat.end()
        assert code == 0
        assert "Traceback" not in shown
        assert chat.settings() == chat.before
    saved = json.loads((tmp_path / "chat.json").read_text())
    assert [m["role"] for m in saved["messages"]] == ["system", "user", "assistant"]
    kept = tmp_path / "cache" / "moetool" / "chat_lines.jsonl"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert read_lines(kept)[0] == "What is the capital of France?"


def test_ctrl_c_stops_an_answer_and_pressed_again_it_leaves(tmp_path: Path) -> None:
    with on_a_terminal(tmp_path, "run", "demo", "--schema", ENDLESS, "--ctx", "100000") as chat:
        chat.wait_for("> ")
        chat.type("Count\n")
        chat.wait_for("[")
        chat.type(CTRL_C)
        chat.wait_for("(stopped")
        chat.wait_for("> ")
        assert "1 exchange;" in chat.ask("/stats")
        chat.type("half a line")
        chat.wait_for("line")
        chat.type(CTRL_C)
        chat.wait_for("\n> ")
        chat.type(CTRL_C)
        chat.wait_for("Ctrl-C again")
        chat.wait_for("> ")
        chat.type(CTRL_C)
        code, shown = chat.end()
        assert code == 130
        assert "Traceback" not in shown
        assert chat.settings() == chat.before


def test_pasted_lines_are_one_message_and_come_back_with_an_arrow_key(tmp_path: Path) -> None:
    with on_a_terminal(tmp_path, "run", "demo", term="xterm") as chat:
        chat.wait_for("> ")
        chat.type("x")
        chat.wait_for("x")
        edited = chat.settings()
        chat.suspend()
        chat.wait_for("\x1b[?2004h\r> x")
        assert chat.settings() == edited
        chat.type("\x7f")
        chat.type("\x1b[200~Extract name, age and city as JSON:\nAda Lovelace, 36,\nLondon.\x1b[201~\n")
        chat.wait_for('"city": "London"}')
        chat.wait_for("> ")
        chat.type("\x1b[A")
        chat.wait_for("Lovelace")
        chat.wait_for("London.")
        chat.type(CTRL_C)
        chat.wait_for("> ")
        chat.type(CTRL_D)
        assert chat.end()[0] == 0
    assert read_lines(tmp_path / "cache" / "moetool" / "chat_lines.jsonl")[-1].count("\n") == 2


def test_a_full_context_is_said_and_the_chat_goes_on(tmp_path: Path) -> None:
    with on_a_terminal(tmp_path, "run", "demo", "--ctx", "256") as chat:
        chat.wait_for("> ")
        full = chat.ask("Nora has 5 red pens. " * 60)
        assert "do not fit" in full
        assert "/undo takes back the last exchange, /clear starts anew" in full
        assert PARIS in chat.ask("What is the capital of France?")
        nearly = chat.ask("Nora has 5 red pens. " * 13)
        assert "% full" in nearly or "the context is full" in nearly
        assert "do not fit" in chat.ask("Nora has 5 red pens. " * 9)
        chat.ask("/undo")
        assert PARIS in chat.ask("/regen")
        chat.type("/quit\n")
        assert chat.end()[0] == 0


# -- what is typed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["  hello "], "hello"),
        (["one \\", "two\\", "", "never"], "one \ntwo\n"),
        (['"""one', "two", 'three"""'], "one\ntwo\nthree"),
        (['"""all of it"""'], "all of it"),
        (['"""', "", "  indented", '"""', "never"], "indented"),
        (['say """this"""'], 'say """this"""'),
    ],
)
def test_messages_of_several_lines(lines: list[str], message: str) -> None:
    typed = iter(lines)
    assert read_message(lambda _prompt: next(typed)) == message.strip()


def test_typed_lines_are_kept_but_not_all_and_not_the_damaged(tmp_path: Path) -> None:
    path = tmp_path / "home" / "lines.jsonl"
    for n in range(2 * kept_lines.N_KEPT + 5):
        keep_line(path, f"line {n}\nof two")
    keep_line(path, "x" * (kept_lines.MAX_CHARS + 1))
    with path.open("a") as file:
        file.write('not json\n[1]\n"\n')
    lines = read_lines(path)
    assert len(lines) == kept_lines.N_KEPT - 3
    assert lines[-1] == f"line {2 * kept_lines.N_KEPT + 4}\nof two"
    assert len(path.read_text().splitlines()) == len(lines)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_lines(tmp_path / "none") == []
    keep_line(Path("/dev/full/none"), "nowhere to go")


def test_ctrl_c_is_counted_and_raises_only_at_a_prompt() -> None:
    with CtrlC() as ctrl_c:
        assert not ctrl_c.pressed()
        signal.raise_signal(signal.SIGINT)
        assert ctrl_c.pressed()
        signal.raise_signal(signal.SIGINT)
        assert ctrl_c.take() == 2
        assert not ctrl_c.pressed()
        with pytest.raises(KeyboardInterrupt), ctrl_c.raising():
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert ctrl_c.take() == 2


def test_ctrl_c_before_a_prompt_is_not_lost_there() -> None:
    with CtrlC() as ctrl_c:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), ctrl_c.raising():
            pytest.fail("the prompt was shown")
        assert ctrl_c.take() == 1
        with ctrl_c.raising():
            pass


def test_presses_within_one_step_of_the_engine_all_count() -> None:
    def press_twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    with CtrlC() as ctrl_c:
        person = threading.Thread(target=press_twice)
        person.start()
        while person.is_alive():  # a long call into C: Python looks for signals after it
            hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000)
        assert ctrl_c.take() == 2


# -- conversations -----------------------------------------------------------------------------------

TALK = Conversation("Be brief.").asked("One?").answered("1").asked("Two?").answered("2")


def test_taking_back_and_asking_again() -> None:
    assert TALK.before_last_question() == Conversation("Be brief.").asked("One?").answered("1")
    assert TALK.up_to_last_question() == TALK.before_last_question().asked("Two?")
    assert Conversation("x").before_last_question() == Conversation("x")
    assert Conversation("x").up_to_last_question() is None
    assert TALK.messages[0] == Message("system", "Be brief.")
    assert TALK.n_asked == 2


def test_a_saved_conversation_comes_back_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    odd = TALK.asked("\x1b[31m 🙂 \udc80 \u202e").answered("")
    for talk in (odd, Conversation(), TALK):
        save_conversation(path, talk, "demo")
        assert load_conversation(path) == talk
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["chat.json"]


def test_nothing_else_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF\xff")
    with pytest.raises(UsageError, match="stays as it is"):
        save_conversation(path, TALK, "demo")
    assert path.read_bytes() == b"GGUF\xff"
    with pytest.raises(MoetoolError, match="Cannot write"):
        save_conversation(tmp_path / "no" / "chat.json", TALK, "demo")
    with pytest.raises(NotFound):
        load_conversation(tmp_path / "none.json")
    with pytest.raises(MoetoolError, match="not text"):
        load_conversation(path)


def message(role: str, content: object = "x") -> dict[str, object]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ("no list", "no list"),
        ([message("user"), 7], "message 2 is not a role with a text"),
        ([message("tool")], "message 1 is not a role"),
        ([message("user", ["x"])], "message 1 is not a role with a text"),
        ([message("user", "\ud800")], "half of a character"),
        ([message("assistant")], "message 1 is of the assistant, out of turn"),
        ([message("system"), message("user"), message("system")], "message 3 is of the system"),
        ([message("user"), message("user")], "message 2 is of the user"),
    ],
)
def test_damage_is_told_in_a_few_words(messages: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_conversation(json.dumps({"moetool_chat": 1, "messages": messages}))


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "[" * 100_000, '{"moetool_chat": 2}'])
def test_what_is_no_conversation_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not JSON|is missing"):
        parse_conversation(text)


def test_the_document_of_a_conversation() -> None:
    assert conversation_document(Conversation("S").asked("U"), "m") == {
        "moetool_chat": 1,
        "model": "m",
        "messages": [message("system", "S"), message("user", "U")],
    }


# -- settings ----------------------------------------------------------------------------------------

KNOBS = Knobs(Sampling(), Limits())


def test_settings_are_read_as_their_flags_are() -> None:
    assert set_knob(KNOBS, "temperature 0.5")[1].sampling.temperature == 0.5
    assert set_knob(KNOBS, "top-p=1")[1].sampling.top_p == 1
    assert set_knob(KNOBS, "top_k 7") == ("top-k", Knobs(Sampling(top_k=7), Limits()))
    _, limited = set_knob(KNOBS, "max-tokens 12")
    assert limited.limits.max_tokens == 12
    assert set_knob(limited, "max-tokens none")[1] == KNOBS
    assert any(line.split()[:2] == ["max-tokens", "12"] for line in knob_lines(limited))


@pytest.mark.parametrize(
    "argument",
    ["warmth 1", "temperature", "temperature hot", "temperature nan", "temperature -1", "temperature inf",
     "top-p 1.01", "top-k 1.5", "seed -1", "seed 99999999999", "max-tokens 0", "max-tokens " + "9" * 5000],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(argument: str) -> None:
    with pytest.raises(UsageError) as caught:
        set_knob(KNOBS, argument)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/Save a b.json ", ("/save", "a b.json ")),
        ("/system\tone\ntwo", ("/system", "one\ntwo")),
        ("/undo", ("/undo", "")),
        ("//undo", ("", "")),
        ("hello /undo", ("", "")),
        ("", ("", "")),
        ("/", ("/", "")),
    ],
)
def test_what_a_line_says(line: str, expected: tuple[str, str]) -> None:
    assert parse_command(line) == expected
