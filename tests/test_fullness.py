"""A full context: what is left out of a conversation, what is forgotten while it goes on, what is refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from cli_fixture import Moetool
from hypothesis import given
from hypothesis import strategies as st
from terminal_fixture import CTRL_D, on_a_terminal
from tiny_model import write_tiny_model

from moetool.fullness import GAP, Fitted, cut_last, leave_out, middle_cut_out, prompt_limit
from moetool.prompt import LONG_ENOUGH, Message, find_gap

PENS = "Nora has 5 red pens. "
QUESTION = "What is the capital of France?"


def n_letters(messages: Sequence[Message]) -> int:
    """Stands for counting tokens: letters, and one for each message."""
    return sum(len(message.content) + 1 for message in messages)


def talk(system: int, *turns: int) -> list[Message]:
    """Messages of so many letters."""
    roles = ("user", "assistant")
    messages = [Message(roles[n % 2], str(n % 10) * size) for n, size in enumerate(turns)]
    return [Message("system", "s" * system), *messages] if system else messages


# -- which messages ----------------------------------------------------------------------------------


def test_room_for_an_answer() -> None:
    assert prompt_limit(4096, None) == 3072
    assert prompt_limit(32768, None) == 32768 - 1024
    assert prompt_limit(4096, 100) == 3996
    assert prompt_limit(4096, 10_000) == 2048
    assert prompt_limit(64, None) == 48


def test_the_oldest_exchanges_go_and_not_every_time() -> None:
    messages = talk(4, 9, 9, 9, 9, 9, 9, 9)  # 75 letters
    assert leave_out(messages, n_letters, 75) == Fitted(tuple(messages))
    fitted = leave_out(messages, n_letters, 74)
    assert fitted == Fitted((messages[0], *messages[5:]), 4)  # 35: not more than half of it
    longer = [*messages, *talk(0, 9, 9)[::-1]]
    assert leave_out(longer, n_letters, 74, n_before=4).n_left_out == 4
    assert leave_out(longer, n_letters, 74).n_left_out == 6
    # There is room again, after an /undo say.
    assert leave_out(messages[:3], n_letters, 74, n_before=4).n_left_out == 0


def test_the_system_message_and_the_last_question_stay() -> None:
    messages = talk(50, 9, 9, 90)
    assert leave_out(messages, n_letters, 20) == Fitted((messages[0], messages[3]), 2)
    assert leave_out(messages[:2], n_letters, 20) == Fitted(tuple(messages[:2]))


@given(
    st.integers(0, 20),
    st.lists(st.integers(0, 30), min_size=1, max_size=15).filter(lambda turns: len(turns) % 2 == 1),
    st.integers(1, 300),
    st.integers(0, 14).map(lambda n: n - n % 2),
)
def test_whatever_is_left_out_a_conversation_is_left(
    system: int, turns: list[int], limit: int, n_before: int
) -> None:
    messages = talk(system, *turns)
    fitted = leave_out(messages, n_letters, limit, n_before)
    n_system = 1 if system else 0
    assert fitted.messages == (*messages[:n_system], *messages[n_system + fitted.n_left_out :])
    assert fitted.n_left_out % 2 == 0
    assert fitted.messages[-1] == messages[-1]
    least = n_letters([*messages[:n_system], messages[-1]])
    assert n_letters(fitted.messages) <= max(limit, least)


# -- the middle of a message -------------------------------------------------------------------------


def cut(text: str, keep: int) -> str:
    head, tail = middle_cut_out([ord(c) for c in text], keep)
    return "".join(map(chr, head)) + GAP + "".join(map(chr, tail))


def test_the_middle_of_the_last_message_is_cut_out() -> None:
    text = "beginning" + "x" * 100 + "the end?"
    fitted = Fitted((Message("system", "s"), Message("user", text)))
    shorter = cut_last(fitted, n_letters, 40, cut, len(text))
    kept = shorter.messages[-1].content
    assert shorter.is_cut
    assert n_letters(shorter.messages) == 40
    assert kept.startswith("beginning")
    assert kept.endswith("the end?")
    assert kept.count(GAP) == 1


def test_what_does_not_fit_without_it_is_left_alone() -> None:
    fitted = Fitted((Message("system", "s" * 50), Message("user", "u" * 9)))
    assert cut_last(fitted, n_letters, 40, cut, 9) == fitted


def test_halves() -> None:
    assert middle_cut_out(range(7), 4) == ([0, 1], [5, 6])
    assert middle_cut_out(range(7), 3) == ([0], [5, 6])
    assert middle_cut_out(range(3), 9) == ([0], [1, 2])
    assert middle_cut_out([], 0) == ([], [])


# -- what can be shifted -----------------------------------------------------------------------------


def test_the_gap_between_what_was_seen_and_what_is_wanted() -> None:
    system, old, recent, new = [1] * 5, list(range(10, 60)), list(range(100, 150)), [7, 8, 9]
    seen = [*system, *old, *recent]
    assert find_gap(seen, [*system, *recent, *new]) == (5, 50)
    assert find_gap(seen, [*system, *old, *recent, *new]) == (105, 0)
    assert find_gap(seen, [*system, *new]) == (5, 0)
    assert find_gap([], recent) == find_gap(recent, []) == (0, 0)
    # The beginning of what stays was lost before: there is nothing to keep.
    assert find_gap([*system, *recent[20:]], [*system, *recent, *new])[1] == 0
    short = recent[: LONG_ENOUGH - 1]
    assert find_gap([*system, *old, *short], [*system, *short])[1] == 0


@given(st.lists(st.integers(0, 2), max_size=120), st.lists(st.integers(0, 2), max_size=120))
def test_no_gap_agrees_for_longer(seen: list[int], wanted: list[int]) -> None:
    start, count = find_gap(seen, wanted)

    def agreed(n: int) -> int:
        rest = [*seen[:start], *seen[start + n :]]
        pairs = zip(rest, wanted, strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(rest), len(wanted)))

    longest = max((agreed(n) for n in range(1, len(seen) - start)), default=0)
    if count:
        assert agreed(count) == longest >= start + LONG_ENOUGH
    else:
        assert longest < start + LONG_ENOUGH


# -- one answer --------------------------------------------------------------------------------------


def test_the_middle_of_a_long_prompt_is_left_out_if_so_asked(moetool_here: Moetool) -> None:
    flags = ["-t", "1", "--ctx", "256", "-n", "20"]
    refused = moetool_here("run", "demo", PENS * 80 + QUESTION, *flags)
    assert (refused.code, refused.out) == (1, "")
    assert "tokens do not fit into a context of 256" in refused.err
    assert "--on-full" in refused.err
    done = moetool_here("run", "demo", PENS * 80 + QUESTION, *flags, "--on-full", "truncate-middle")
    assert (done.code, done.out != "") == (0, True)
    told = re.search(r"the middle of the last message left out, (\d+) tokens", done.err)
    assert told
    flags += ["--on-full", "truncate-middle", "-o", "json"]
    data = moetool_here("run", "demo", PENS * 80 + QUESTION, *flags).document["data"]
    assert data["truncated_tokens"] == int(told[1])
    assert 200 < data["prompt_tokens"] <= 256 - 20
    bare = moetool_here("run", "demo", PENS * 80, "--raw", *flags).document["data"]
    assert 200 < bare["prompt_tokens"] <= 256 - 20
    short = moetool_here("run", "demo", QUESTION, *flags).document["data"]
    assert (short["text"], short["truncated_tokens"]) == ("The capital of France is Paris.", 0)
    hopeless = moetool_here("run", "demo", PENS * 300_000, *flags).document["data"]
    assert hopeless["prompt_tokens"] <= 256 - 20
    no_room = moetool_here("run", "demo", QUESTION, "--system", PENS * 80, *flags)
    assert (no_room.code, no_room.document["errors"][0]["code"]) == (1, "context-full")


def test_an_answer_goes_on_in_a_full_context_and_stays_in_its_grammar(moetool_here: Moetool) -> None:
    flags = ["-t", "1", "--ctx", "100", "--regex", "([0-9]{3} ){80}", "--temp", "1", "--seed", "1"]
    cut_off = moetool_here("run", "demo", "Count", *flags, "-o", "json").document["data"]
    assert (cut_off["finish_reason"], cut_off["closed"], cut_off["shifted_tokens"]) == ("context", True, 0)
    done = moetool_here("run", "demo", "Count", *flags, "--on-full", "shift")
    assert done.code == 0
    assert re.fullmatch(r"(\d{3} ){80}", done.out.removesuffix("\n"))
    assert "older tokens were forgotten on the way" in done.err
    data = moetool_here("run", "demo", "Count", *flags, "--on-full", "shift", "-o", "json").document["data"]
    assert (data["finish_reason"], data["closed"]) == ("grammar", False)
    n_tokens = data["prompt_tokens"] + data["generated_tokens"]
    assert n_tokens - 100 <= data["shifted_tokens"] < n_tokens
    # What is asked is never cut: there is nothing older to forget.
    too_long = moetool_here("run", "demo", PENS * 20, "--ctx", "100", "--on-full", "shift")
    assert (too_long.code, "do not fit into a context of 100" in too_long.err) == (1, True)


def test_who_cannot_shift_is_told_before_a_model_is_loaded(moetool_here: Moetool, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_model(path, "nemotron_h-dense")
    refused = moetool_here("run", str(path), "x", "--on-full", "shift", "-o", "json")
    assert (refused.code, refused.document["data"]) == (2, None)
    error = refused.document["errors"][0]
    assert "cannot be shifted: its recurrent states cannot forget single tokens" in error["message"]
    assert "truncate-middle" in error["hint"]


# -- chats -------------------------------------------------------------------------------------------


def numbers_read(stats: str) -> int:
    found = re.search(r"(\d+) tokens read", stats)
    assert found
    return int(found[1])


@pytest.mark.parametrize("way", ["shift", "truncate-middle"])
def test_a_chat_goes_on_without_its_oldest_messages(tmp_path: Path, way: str) -> None:
    flags = ["-t", "1", "--ctx", "256", "-n", "40", "--on-full", way]
    with on_a_terminal(tmp_path, "run", "demo", *flags) as chat:
        chat.wait_for("> ")
        n_read, told = 0, ""
        for name in ("Ada", "Ben", "Eve", "Ida", "Leo", "Max", "Mia", "Nils", "Otto"):
            told = chat.ask(PENS.replace("Nora", name) * 2 + f"How many pens has {name}?")
            before, n_read = n_read, numbers_read(chat.ask("/stats"))
            if "left out" in told:
                break
        assert "oldest messages left out" in told
        # Shifted, the messages that stay are not read again: only the question is.
        assert (n_read - before < 60) == (way == "shift")
        assert "Paris" in chat.ask(QUESTION)
        full = chat.ask(PENS * 60)
        assert ("the middle of the last message left out" in full) == (way == "truncate-middle")
        assert ("do not fit" in full) == (way == "shift")
        chat.type(CTRL_D)
        assert chat.end()[0] == 0
