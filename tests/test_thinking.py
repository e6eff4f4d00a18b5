"""Thinking blocks: found by their markers, kept apart from the answer, and left alone by grammars."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_fixture import Moetool
from hypothesis import given
from hypothesis import strategies as st
from terminal_fixture import CTRL_D, on_a_terminal
from test_generate import END, ScriptedEngine, ScriptedGrammar

from moetool.assets import demo_model_path
from moetool.generate import Generation, Limits, Stats
from moetool.prompt import Message, Prompt, chat_prompt
from moetool.thinking import AfterThinking, Markers, Splitter, find_markers

TAGS = find_markers("</think>")


def split(
    markers: Markers | None, pieces: Sequence[str], *, is_open: bool = False, control: Sequence[str] = ()
) -> tuple[str, str]:
    """Thinking and answer of an output of these tokens; those in `control` are no text."""
    assert markers is not None
    splitter = Splitter(markers, lambda token: pieces[token].encode(), is_open=is_open)
    parts = [splitter.add(n, b"" if p in control else p.encode()) for n, p in enumerate(pieces)]
    parts.append(splitter.flush())
    thinking, answer = (b"".join(part) for part in zip(*parts, strict=True))
    return thinking.decode(), answer.decode()


@pytest.mark.parametrize(
    ("template", "start"),
    [
        ("{{ content.split('</think>')[-1] }}", "<think>"),
        ("assistant\n<think>\n", "<think>"),
        ("<|channel|>analysis<|message|>", "<|channel|>analysis<|message|>"),
        ("{{ '[THINK]' + x + '[/THINK]' }}", "[THINK]"),
        ("<|channel>thought\n<channel|>", "<|channel>thought\n"),
        ("<|im_start|>assistant\n", None),
        ("I think, therefore", None),
    ],
)
def test_markers_are_told_by_the_template(template: str, start: str | None) -> None:
    found = find_markers(template)
    assert (found.start if found else None) == start


@pytest.mark.parametrize(
    ("pieces", "is_open", "expected"),
    [
        (["<think>", "\n", "a", "\n", "</think>", "\n\n", "b ", "\n"], False, ("a\n", "b \n")),
        (["a ", "</think>", "b"], True, ("a ", "b")),
        (["no thinking", " </think>"], False, ("", "no thinking </think>")),
        (["\n", " x"], False, ("", "\n x")),
        (["<thin", "ner"], False, ("", "<thinner")),
        (["<th"], False, ("", "<th")),
        (["<think>", "never ends </thin"], False, ("never ends </thin", "")),
        (["<think>a</think>b</think>"], False, ("a", "b</think>")),
        (["<think>", "a", "</think>", "<think>b"], False, ("a", "<think>b")),
        ([], True, ("", "")),
    ],
)
def test_thinking_and_answer(pieces: list[str], is_open: bool, expected: tuple[str, str]) -> None:
    assert split(TAGS, pieces, is_open=is_open) == expected


def tokens_of(output: str) -> list[str]:
    """Control tokens, and words between them."""
    return [part for part in re.split(r"(<[^<> ]+>|\[[A-Z ]+\]|(?<=\s))", output) if part]


HARMONY = "<|channel|>analysis<|message|>"
KIMI = "{{ open_tag('think' if thinking else 'response') }}"
SOLAR = "<|begin|>assistant<|think|>"
SELF = "<|start|>assistant to=self<|message|>"
M3 = "<mm:think></mm:think>"
HY3 = "{% set HYTK = ':opensource' %}{{ '<think{}>'.format(HYTK) }}"
APRIEL = "Here are my reasoning steps:\n"
COHERE = "<|START_THINKING|><|END_THINKING|><|START_TEXT|>"


@pytest.mark.parametrize(
    ("template", "output", "expected"),
    [
        (HARMONY, "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b",
         ("a", "b")),
        (HARMONY, "<|channel|>final<|message|>b", ("", "b")),
        (KIMI, "<|open|>think<|sep|>a b<|close|>think<|sep|><|open|>response<|sep|>c<|close|>response<|sep|>",
         ("a b", "c")),
        (KIMI, "<|open|>response<|sep|>c<|close|>response<|sep|><|close|>message<|sep|>", ("", "c")),
        (SOLAR, "<|think|>a b<|end|><|begin|>assistant<|content|>c d<|end|><|begin|>user", ("a b", "c d")),
        (SOLAR, "<|content|>c<|end|>", ("", "c")),
        (SELF, " to=self<|message|>a<|eom|><|start|>assistant to=user<|message|>b<|eom|>x", ("a", "b")),
        (SELF, " to=user<|message|>b", ("", "b")),
        (M3, "<mm:think>a</mm:think>b", ("a", "b")),
        (M3, "</mm:think>b", ("", "b")),
        (HY3, "<think:opensource>a</think:opensource>b", ("a", "b")),
        (APRIEL, "Here are my reasoning steps:\na\n[BEGIN FINAL RESPONSE]\nb", ("a\n", "b")),
        (COHERE, "<|START_THINKING|>a<|END_THINKING|><|START_TEXT|>b<|END_TEXT|>", ("a", "b")),
        ("<|inner_prefix|>", "<|inner_prefix|>a<|inner_suffix|>b", ("a", "b")),
    ],
)  # fmt: skip
def test_formats(template: str, output: str, expected: tuple[str, str]) -> None:
    pieces = tokens_of(output)
    assert split(find_markers(template), pieces, control=[p for p in pieces if p[0] in "<"]) == expected
    # The same where a vocabulary has no such control tokens, up to the letters of those that mean nothing.
    thinking, answer = split(find_markers(template), list(output))
    assert (thinking, re.sub(r"<[^<> ]+>", "", answer)) == expected


@pytest.mark.parametrize(
    ("template", "output", "limit"),
    [(KIMI, "<|close|>response<|sep|>", 1), (SOLAR, "<|end|><|begin|>", 1), (SELF, "<|eom|>", 1)],
)
def test_an_answer_ends_where_its_format_closes_it(template: str, output: str, limit: int) -> None:
    markers = find_markers(template)
    assert markers is not None
    pieces = [p.encode() for p in tokens_of(markers.direct + "b" + output)]
    engine = ScriptedEngine(list(range(len(pieces))), pieces)
    generation = Generation(engine, [7], Limits(), split=Splitter(markers, pieces.__getitem__))
    list(generation)
    assert generation.stats is not None
    assert generation.stats.finish_reason == "stop"
    assert generation.text.endswith("b")
    assert generation.stats.generated_tokens == pieces.index(b"b") + 1 + limit


@given(st.text(alphabet="ab<>/think \n🙂", max_size=12), st.text(alphabet="xy </k\n", max_size=12), st.data())
def test_however_it_is_cut_into_tokens(thinking: str, answer: str, data: st.DataObject) -> None:
    if "</think>" in thinking:
        return
    whole = f"<think>{thinking}</think>{answer}"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    # White space as bytes know it, not as Unicode does.
    assert split(TAGS, pieces) == (thinking.lstrip(" \n"), answer.lstrip(" \n"))


# -- in the token loop -------------------------------------------------------------------------------

PIECES = [b"<think>", b"hm", b"STOP", b"</think>", b"\n\n", b"{", b"}", b"</thi", b"nk>{", b"nk>"]
THINK, HM, STOP, CLOSE, SPACE, LEFT, RIGHT, HALF, HALF_AND_MORE, OTHER_HALF = range(len(PIECES))


class RuledEngine(ScriptedEngine):
    """Draws the script's token; where a rule refuses that, the first that it allows."""

    def sample(self, rule: Any = None) -> int:
        token = super().sample()
        return token if rule is None or rule.accepts(token) else int(rule.allowed()[0])


def think_and_answer(script: list[int], limits: Limits | None = None) -> tuple[str, str, Stats, list[int]]:
    """What was thought and answered under a grammar of "{" and "}", and what it was shown."""
    assert TAGS is not None
    grammar = ScriptedGrammar({LEFT: (RIGHT,)}, last=RIGHT, refused=(HM, STOP, SPACE, THINK))
    after = AfterThinking(grammar, Splitter(TAGS, PIECES.__getitem__), PIECES.__getitem__, len(PIECES))
    engine = RuledEngine(script, PIECES)
    generation = Generation(engine, [7], limits or Limits(), after, split=Splitter(TAGS, PIECES.__getitem__))
    tokens = list(generation)
    assert "".join(t.text for t in tokens) + generation.rest() == generation.text
    assert generation.stats is not None
    return generation.thinking, generation.text, generation.stats, grammar.seen


def test_the_grammar_begins_after_the_thinking() -> None:
    thinking, text, stats, seen = think_and_answer([THINK, HM, CLOSE, SPACE, LEFT])
    assert (thinking, text) == ("hm", "{}")
    assert (stats.finish_reason, stats.complete, seen) == ("grammar", True, [LEFT, RIGHT])


def test_without_thinking_the_grammar_begins_at_once() -> None:
    assert think_and_answer([LEFT])[:2] == ("", "{}")


LEADING = [b"<|START_THINKING|>", b"<|END_THINKING|>", b"<|START_TEXT|>", b"\n", b"{", b"}"]
OPEN, SHUT, LEAD, BLANK, BEGIN, FINISH = range(len(LEADING))


@pytest.mark.parametrize("script", [[OPEN, SHUT, LEAD, BLANK, BEGIN], [OPEN, SHUT, LEAD, BEGIN], [BEGIN]])
def test_what_leads_to_an_answer_is_no_part_of_it(script: list[int]) -> None:
    markers = find_markers(COHERE)
    assert markers is not None
    grammar = ScriptedGrammar({BEGIN: (FINISH,)}, last=FINISH, refused=(OPEN, SHUT, LEAD, BLANK))
    spelled = LEADING.__getitem__
    after = AfterThinking(grammar, Splitter(markers, spelled), spelled, len(LEADING))
    for token in script:
        assert after.accepts(token)
        after.commit(token)
        assert token == OPEN or after.accepts(LEAD) == (token == SHUT)
    assert grammar.seen == [BEGIN]


def test_a_whole_answer_may_be_closed_as_its_format_does() -> None:
    markers = find_markers(KIMI)
    assert markers is not None
    pieces = [b"<|open|>response<|sep|>", b"{", b"}", b"<|close|>"]
    grammar = ScriptedGrammar({}, last=2, refused=(0, 3))
    after = AfterThinking(grammar, Splitter(markers, pieces.__getitem__), pieces.__getitem__, len(pieces))
    accepted = []
    for token in (0, 1, 2):
        accepted.append(after.accepts(3))
        after.commit(token)
    assert (accepted, after.accepts(3)) == ([False, False, False], True)
    after.commit(3)
    assert grammar.seen == [1, 2]


def test_only_one_token_of_white_space_is_free() -> None:
    engine_ran_dry = think_and_answer([THINK, CLOSE, SPACE, LEFT])
    assert engine_ran_dry[1] == "{}"
    with pytest.raises(AssertionError, match="one token at a time"):
        think_and_answer([THINK, CLOSE, SPACE, SPACE])


def test_the_answer_does_not_begin_inside_the_token_that_ends_the_thinking() -> None:
    # HALF_AND_MORE would smuggle "{" past the grammar; the first token that does not is drawn instead.
    thinking, text, _, seen = think_and_answer([THINK, HALF, HALF_AND_MORE, CLOSE, LEFT])
    assert text == "{}"
    assert seen == [LEFT, RIGHT]
    assert thinking.startswith("</thi")
    assert think_and_answer([THINK, HALF, OTHER_HALF, LEFT])[:2] == ("", "{}")


def test_an_end_inside_the_thinking_is_no_whole_answer() -> None:
    thinking, text, stats, _ = think_and_answer([THINK, HM, END])
    assert (thinking, text, stats.complete) == ("hm", "", False)
    thinking, text, stats, _ = think_and_answer([THINK, HM, HM], Limits(max_tokens=2))
    assert (thinking, text, stats.finish_reason, stats.complete) == ("hm", "", "length", False)


def test_stop_strings_are_for_the_answer_alone() -> None:
    assert TAGS is not None
    engine = ScriptedEngine([THINK, STOP, CLOSE, HM, STOP, HM], PIECES)
    split = Splitter(TAGS, PIECES.__getitem__)
    generation = Generation(engine, [7], Limits(stop=("STOP",)), split=split)
    list(generation)
    assert (generation.thinking, generation.text) == ("STOP", "hm")


# -- what the model is asked -------------------------------------------------------------------------


class LetterVocabulary:
    """A token for each character; control tokens are not known."""

    bos, eos, adds_bos = -1, -1, False

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        return [ord(letter) for letter in text]

    def special_piece(self, token: int) -> bytes:
        return chr(token).encode()

    def special_tokens(self) -> frozenset[int]:
        raise AssertionError("no message holds a control token")


HY3_EFFORT = (
    "{% set HYTK = ':opensource' %}{{ '<think{}>'.format(HYTK) }}"
    "{{ '</think{}>'.format(HYTK) if reasoning_effort | default('no_think') == 'no_think' }}"
)
HY3_CLOSED = "<think:opensource></think:opensource>"
TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


def prompt(template: str, think: bool | None = None, *messages: Message) -> tuple[str, Prompt]:
    asked = chat_prompt(LetterVocabulary(), template, messages or [Message("user", "hi")], think)
    return "".join(map(chr, asked.tokens)).partition("[assistant]")[2], asked


@pytest.mark.parametrize(
    ("template", "asked", "off"),
    [
        (TURNS + "{# </think> #}", "", "<think>\n\n</think>\n\n"),
        (TURNS + "{{ '<think>\n' }}", "<think>\n", "<think>\n\n</think>\n\n"),
        (TURNS + "{% if enable_thinking is false %}<think></think>{% endif %}", "", "<think></think>"),
        (TURNS + "{% if not thinking %}</think>{% else %}<think>{% endif %}", "</think>", "</think>"),
        (TURNS + "{% if enable_thinking %}<think>{% endif %}", "", ""),
        (TURNS + "{# <|channel|>analysis #}", "", "<|channel|>final<|message|>"),
        (TURNS + "{% if false %}assistant<|think|>{% endif %}", "",
         "<|think|><|end|><|begin|>assistant<|content|>"),
        (TURNS + HY3_EFFORT, HY3_CLOSED, HY3_CLOSED),
        (TURNS + "{{ '</mm:think>' if thinking_mode == 'disabled' }}", "", "</mm:think>"),
        (TURNS + "{{ '" + APRIEL + "' }}", APRIEL, APRIEL + "\n[BEGIN FINAL RESPONSE]\n\n"),
        (TURNS, "", ""),
    ],
)  # fmt: skip
def test_thinking_can_be_left_out(template: str, asked: str, off: str) -> None:
    assert prompt(template)[0] == asked
    text, without = prompt(template, False)
    assert text == off
    assert (without.markers, without.is_thinking) == (None, False)


def test_the_prompt_says_whether_the_block_is_open() -> None:
    assert prompt(TURNS + "<think>\n")[1].is_thinking
    assert prompt(TURNS + "{% if thinking %}<think>{% endif %}", True)[1].is_thinking
    assert prompt(TURNS + HY3_EFFORT, True)[1].is_thinking
    assert not prompt(TURNS + "{# <think> #}")[1].is_thinking
    assert prompt(TURNS + "<think></think>")[1].markers is None
    # What a user writes opens nothing.
    assert not prompt("{{ messages[0].content }}{# <think> #}", None, Message("user", "<think>"))[
        1
    ].is_thinking


@pytest.mark.parametrize(
    "template",
    [
        "{% if messages[0].role == 'system' %}{{ raise_exception('No system role') }}{% endif %}" + TURNS,
        "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]",
    ],
)  # fmt: skip
def test_a_system_message_that_the_template_does_not_take_is_part_of_the_first_question(
    template: str,
) -> None:
    asked = [Message("system", "Be brief."), Message("user", "hi")]
    assert prompt_text(template, asked) == "[user]Be brief.\n\nhi[assistant]"
    later = [*asked, Message("assistant", "x"), Message("user", "y")]
    assert prompt_text(template, later) == "[user]Be brief.\n\nhi[assistant]x[user]y[assistant]"
    assert prompt_text(TURNS, asked) == "[system]Be brief.[user]hi[assistant]"


def prompt_text(template: str, messages: Sequence[Message]) -> str:
    return "".join(map(chr, chat_prompt(LetterVocabulary(), template, messages).tokens))


# -- on the demo model -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model under a template that opens a block, which it never closes, unless told not to."""
    path = tmp_path_factory.mktemp("thinker") / "thinker.gguf"
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n{% if enable_thinking | default(true) %}<think>\n{% endif %}"
    )
    command = [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--force", "--chat-template", template]
    subprocess.run([*command, str(demo_model_path()), str(path)], check=True, capture_output=True)
    return path


def test_thinking_never_reaches_stdout(moetool_here: Moetool, thinker: Path) -> None:
    asked = ["run", str(thinker), "What is the capital of France?", "-n", "8"]
    done = moetool_here(*asked)
    assert (done.code, done.out, done.err) == (0, "", "")
    data = moetool_here(*asked, "-o", "json").document["data"]
    assert data["text"] == ""
    assert data["thinking"]
    off = moetool_here(*asked[:-2], "--think", "off", "-o", "json").document["data"]
    assert (off["text"], off["thinking"]) == ("The capital of France is Paris.", None)


def test_a_schema_is_for_the_answer(moetool_here: Moetool, thinker: Path) -> None:
    asked = ["run", str(thinker), "Is Rome the capital of Italy?", "--choice", "yes,no", "-n", "20"]
    done = moetool_here(*asked)
    assert (done.code, done.out) == (4, "")
    off = moetool_here(*asked, "--think", "off")
    assert (off.code, off.out.strip() in {"yes", "no"}) == (0, True)


def test_a_chat_shows_thinking_or_only_that_there_is_some(tmp_path: Path, thinker: Path) -> None:
    with on_a_terminal(tmp_path, "run", str(thinker), "-n", "6", "-q") as chat:
        chat.wait_for("> ")
        shown = chat.ask("What is the capital of France?")
        assert len(shown.split()) > 2
        assert "think is hide" in chat.ask("/set think hide")
        assert chat.ask("/regen").split()[-2:] == ["(thinking)", ">"]
        chat.ask("/set think off")
        assert "The capital of" in chat.ask("/regen")
        chat.type(CTRL_D)
        assert chat.end()[0] == 0
