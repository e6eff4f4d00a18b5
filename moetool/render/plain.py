"""Lines and answers without rich: what `run` needs must not cost its import (30 ms).

stdout is the result, stderr is everything else.
"""

from __future__ import annotations

import codecs
import os
import sys
from io import TextIOWrapper
from typing import TextIO

from moetool.errors import MoetoolError

# C0 and C1 control characters and DEL, without newline and tab: a terminal obeys them, so text from a
# model or a file must not contain them.
_CONTROLS = {*range(32), *range(0x7F, 0xA0)} - {ord("\n"), ord("\t")}
# These reorder what is written around them.
_BIDI = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
# Half characters: Python writes U+DC9B as the byte 9B, which is a control character to some terminals.
_HALVES = {*range(0xD800, 0xE000)}
_HARMLESS = dict.fromkeys(_CONTROLS | _BIDI | _HALVES, "\N{REPLACEMENT CHARACTER}")


# What tables and sentences use besides ASCII, for terminals and files that have no more than that.
_PLAIN = {"–": "-", "—": "-", "×": "x", "·": "*", "▸": ">", "…": "...", "√": "sqrt", "±": "+/-", "↑": "^"}
_PLAIN |= dict.fromkeys("█▉▊▋▌▍", "#") | dict.fromkeys("▎▏│", "|") | {"░": "."}
_PLAIN |= {"▒": ":", "▓": "=", "▚": "%", "▞": "/", "└": "+", "─": "-"}


def use_plain_letters() -> None:
    """Make stdout and stderr write other letters where their encoding lacks one, instead of failing."""
    codecs.register_error("plain-letters", _plainer)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and not has_all_letters(stream):
            stream.reconfigure(errors="plain-letters")


def has_all_letters(stream: TextIO) -> bool:
    """Whether a stream's encoding can say any text."""
    return (stream.encoding or "").lower().replace("_", "-").startswith(("utf-", "utf8"))


def _plainer(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(letter, "?") for letter in lacking), error.end


def safe(text: str) -> str:
    """Untrusted text as it may be shown on a terminal."""
    return text.translate(_HARMLESS)


def safe_line(text: str) -> str:
    """Untrusted text on one line."""
    return safe(text.replace("\n", " ").replace("\t", " "))


def coloured(stream: TextIO) -> bool:
    """May this stream get colours? Only a terminal, and not under NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, code: str, stream: TextIO) -> str:
    """`text` in an ANSI style ("2" dim, "31" red), plain where colours are unwelcome."""
    return f"\x1b[{code}m{text}\x1b[0m" if coloured(stream) else text


def reset_terminal() -> None:
    """Before the last words of a command that was cut short: a line of their own, and the cursor is back."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K\x1b[?25h" if os.environ.get("TERM") != "dumb" else "\n")


def notice(text: str) -> None:
    """One dim line on stderr."""
    sys.stderr.write(styled(safe(text), "2", sys.stderr) + "\n")
    sys.stderr.flush()


def show_error(error: MoetoolError) -> None:
    """One sentence, and the hint on a line of its own."""
    sys.stderr.write(styled("error: ", "31", sys.stderr) + sentence(error.message) + "\n")
    if error.hint:
        sys.stderr.write(styled("hint:  ", "2", sys.stderr) + safe(error.hint) + "\n")
    sys.stderr.flush()


def sentence(text: str) -> str:
    """Safe text that ends as a sentence does."""
    text = safe_line(text).strip()
    return text if text.endswith((".", "!", "?")) else text + "."


class AnswerWriter:
    """The model's words on stdout: streamed as they come; harmless on a terminal, byte-exact elsewhere.

    With `hold`, nothing is written before `release`: an answer that must be whole is shown whole or not at
    all.
    """

    def __init__(self, *, hold: bool = False) -> None:
        self._hold = hold
        self._held: list[str] = []
        self._on_terminal = sys.stdout.isatty()
        self._last = ""

    def write(self, text: str) -> None:
        """Show (or hold) a piece of the answer."""
        if not text:
            return
        if self._hold:
            self._held.append(text)
            return
        shown = safe(text) if self._on_terminal else text
        sys.stdout.buffer.write(shown.encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()
        self._last = text

    def release(self) -> None:
        """Write what was held."""
        self._hold = False
        held, self._held = "".join(self._held), []
        self.write(held)

    def forget(self) -> None:
        """Drop what was held."""
        self._held = []

    def end(self) -> None:
        """Finish the last line, so that the next thing starts on its own; nothing was written, nothing is."""
        if self._last and not self._last.endswith("\n"):
            self.write("\n")


class ThinkingWriter:
    """What a model thinks, dim, on stderr; with `hidden`, only that it thinks."""

    def __init__(self, *, hidden: bool) -> None:
        self._hidden = hidden
        self._last = ""

    def write(self, text: str) -> None:
        """Show a piece."""
        if text and self._hidden:
            text = "" if self._last else "(thinking)"
        if text:
            sys.stderr.write(styled(safe(text), "2", sys.stderr))
            sys.stderr.flush()
            self._last = text

    def end(self) -> None:
        """Before the answer: a line of its own for it, and a blank one after thinking that was shown."""
        if self._last:
            newline = "" if self._last.endswith("\n") else "\n"
            sys.stderr.write(newline if self._hidden else newline + "\n")
            sys.stderr.flush()
            self._last = ""
