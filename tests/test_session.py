"""`moetool run --session`: a second run reads only what is new; what cannot be gone on with is refused."""

from __future__ import annotations

import json
from pathlib import Path

from cli_fixture import Done, Moetool
from terminal_fixture import CTRL_C, CTRL_D, on_a_terminal

QUESTION = "What is the capital of France?"
PARIS = "The capital of France is Paris."
LONG = "Nora has 5 red pens. " * 20


def figures(done: Done) -> tuple[str, int, int]:
    data = done.document["data"]
    return data["text"], data["prompt_tokens"], data["prompt_tokens_reused"]


def sessions_of(folder: Path) -> Path:
    return folder / "cache" / "moetool" / "sessions"


def test_a_second_run_reads_only_what_is_new(moetool_here: Moetool, tmp_path: Path) -> None:
    fresh = moetool_here("run", "demo", "-t", "1", LONG + QUESTION, "-o", "json")
    answer, n_prompt, n_reused = figures(fresh)
    assert (n_reused, fresh.document["data"]["session"]) == (0, None)
    assert not sessions_of(tmp_path).exists()
    first = moetool_here("run", "demo", "-t", "1", LONG + "How many?", "--session", "doc", "-o", "json")
    kept = first.document["data"]["session"]
    assert figures(first)[2] == 0
    assert kept["n_bytes"] == (sessions_of(tmp_path) / "doc.state").stat().st_size
    second = moetool_here("run", "demo", "-t", "1", LONG + QUESTION, "--session", "doc", "-o", "json")
    assert figures(second)[:2] == (answer, n_prompt)
    # All but the second question, and what stands behind it.
    assert 0 < n_prompt - figures(second)[2] < 25
    again = moetool_here("run", "demo", "-t", "1", LONG + QUESTION, "--session", "doc")
    assert again.out == answer + "\n"
    assert f"Session doc: {n_prompt - 1} of {n_prompt} prompt tokens were there" in again.err
    assert moetool_here("run", "demo", "-t", "1", LONG + QUESTION, "--session", "doc", "-q").err == ""


def test_another_cache_type_is_told_and_read_anew(moetool_here: Moetool) -> None:
    moetool_here("run", "demo", "-t", "1", QUESTION, "--session", "doc", "--kv", "f16")
    other = moetool_here("run", "demo", "-t", "1", QUESTION, "--session", "doc", "--kv", "q8_0")
    assert "Session doc is read anew: the KV cache was f16/f16 and is q8_0/q8_0." in other.err
    assert "Session doc: 0 of" in other.err
    experts = moetool_here(
        "run", "demo", "-t", "1", QUESTION, "--session", "doc", "--kv", "q8_0", "--experts", "1"
    )
    assert "the number of experts per token was 2 and is 1" in experts.err
    small = moetool_here(
        "run", "demo", "Hi", "--session", "doc", "--kv", "q8_0", "--experts", "1", "--ctx", "16"
    )
    assert "tokens do not fit into a context of 16" in small.err


def test_what_is_damaged_or_of_another_model_is_refused_before_anything_is_loaded(
    moetool_here: Moetool, tmp_path: Path
) -> None:
    assert moetool_here("run", "demo", "x", "--session", "../x").code == 2
    moetool_here("run", "demo", "-t", "1", QUESTION, "--session", "doc", "-n", "4")
    state = sessions_of(tmp_path) / "doc.state"
    other = tmp_path / "other.gguf"
    other.write_bytes((Path(__file__).parent.parent / "moetool/demo/demo.gguf").read_bytes() + bytes(32))
    refused = moetool_here("run", str(other), QUESTION, "--session", "doc", "-o", "json")
    assert (refused.code, refused.document["errors"][0]["code"]) == (1, "session")
    assert "belongs to another model (demo)" in refused.document["errors"][0]["message"]
    damaged = bytearray(state.read_bytes())
    damaged[1000] ^= 1
    state.write_bytes(damaged)
    refused = moetool_here("run", "demo", "-t", "1", QUESTION, "--session", "doc")
    assert (refused.code, refused.out) == (1, "")
    assert "doc.state is damaged: its bytes have changed since it was kept." in refused.err
    assert "delete it" in refused.err
    state.unlink()
    assert moetool_here("run", "demo", "-t", "1", QUESTION, "--session", "doc").out == PARIS + "\n"


def test_an_answer_is_given_even_if_the_session_cannot_be_kept(moetool_here: Moetool, tmp_path: Path) -> None:
    (sessions_of(tmp_path) / "key").mkdir(parents=True)
    done = moetool_here("run", "demo", "-t", "1", QUESTION, "--session", "doc", "-o", "json")
    assert (done.code, done.document["status"]) == (1, "error")
    assert done.document["data"]["text"] == PARIS
    assert "Cannot keep session doc" in done.document["errors"][0]["message"]


def test_a_chat_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    with on_a_terminal(tmp_path, "run", "demo", "-t", "1", "--session", "talk") as chat:
        chat.wait_for("> ")
        chat.ask(QUESTION)
        n_read = int(chat.ask("/stats").partition("; ")[2].split()[0])
        chat.type(CTRL_D)
        code, shown = chat.end()
        assert code == 0
        assert "tokens kept" in shown
    saved = json.loads((sessions_of(tmp_path) / "talk.json").read_text())
    assert [m["content"] for m in saved["messages"]] == [QUESTION, PARIS]
    with on_a_terminal(tmp_path, "run", "demo", "-t", "1", "--session", "talk") as chat:
        hello = chat.wait_for("> ")
        assert "Session talk: 2 messages, " in hello
        assert f"the last: {PARIS}" in hello
        chat.ask(QUESTION)
        stats = chat.ask("/stats")
        # As many tokens as the same question took before, and the marks between the turns.
        second = int(stats.partition("2 exchanges; ")[2].split()[0])
        assert n_read <= second <= n_read + 4
        with on_a_terminal(tmp_path, "run", "demo", "-t", "1", "--session", "talk") as other:
            code, shown = other.end()
            assert code == 1
            assert "Session talk is open in another chat" in shown
        chat.ask("/undo")
        chat.type(CTRL_C)
        chat.wait_for("Ctrl-C again")
        chat.wait_for("> ")
        chat.type(CTRL_C)
        code, shown = chat.end()
        assert code == 130
        assert "tokens kept" in shown.partition("Ctrl-C again")[2]
    saved = json.loads((sessions_of(tmp_path) / "talk.json").read_text())
    assert len(saved["messages"]) == 2
