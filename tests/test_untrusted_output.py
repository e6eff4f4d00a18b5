"""What a model or a file says, on a terminal: harmless there, byte for byte the same everywhere else."""

from __future__ import annotations

import io
import sys

import pytest

from moetool.generate import TextAssembler
from moetool.render.plain import AnswerWriter, ThinkingWriter, notice, safe, sentence

ATTACKS = {
    "colour": "\x1b[31mred",
    "clear": "\x1b[2J\x1b[H",
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;cm0gLXJmIH4=\x07",
    "answerback": "\x1b[c\x1b[6n\x05",
    "device": "\x1bP$q\"p\x1b\\",
    "C1 CSI": "\x9b31m",
    "C1 OSC": "\x9d52;c;eA==\x9c",
    "half a character": "\udc9b31m",
    "overwrite": "good\rbad \x08\x08evil\x7f",
    "bidi": "user\u202e txt.exe\u2066\u2069",
}  # fmt: skip
FORBIDDEN = {*range(32), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {9, 10}


class Screen(io.TextIOWrapper):
    """A terminal that keeps what it is told."""

    def __init__(self) -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding="utf-8", errors="surrogateescape", write_through=True)

    def isatty(self) -> bool:
        return True


def make_screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Stdout and stderr become a terminal; within a test, for pytest sets its own before each."""
    made = Screen()
    monkeypatch.setattr(sys, "stdout", made)
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setenv("NO_COLOR", "1")
    return made


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_that_a_terminal_obeys_comes_through(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = make_screen(monkeypatch)
    attack = ATTACKS[name]
    answer, thinking = AnswerWriter(), ThinkingWriter(hidden=False)
    for letter in attack:  # however it is cut into tokens
        answer.write(letter)
        thinking.write(letter)
    notice(attack)
    screen.write(sentence(attack))
    shown = screen.bytes.getvalue().decode("utf-8")  # no lone byte is left of half a character
    assert not FORBIDDEN & set(map(ord, shown))
    assert "\N{REPLACEMENT CHARACTER}" in shown


def test_letters_of_all_kinds_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = make_screen(monkeypatch)
    text = "naïve 世界 🙂 שלום\tمرحبا\n[bold]not markup[/bold] [link=x]"
    assert safe(text) == text
    AnswerWriter().write(text)
    assert screen.bytes.getvalue().decode() == text


@pytest.mark.parametrize("name", ATTACKS)
def test_a_pipe_gets_every_byte(name: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    AnswerWriter().write(ATTACKS[name])
    assert capfdbinary.readouterr().out == ATTACKS[name].encode("utf-8", "surrogateescape")


def test_bytes_that_are_no_text_never_become_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = make_screen(monkeypatch)
    # 9B alone would be a control character; as the end of "Û" it is a letter.
    assembler, writer = TextAssembler(), AnswerWriter()
    for byte in b"\x9b31m\xc3\x9b\xc2\x9b31m\xe2\x80":
        writer.write(assembler.add(bytes([byte])))
    writer.write(assembler.flush())
    lost = "\N{REPLACEMENT CHARACTER}"
    assert screen.bytes.getvalue().decode() == f"{lost}31mÛ{lost}31m{lost}"
