"""A conversation as a value: asking, answering, taking back; and as a JSON file that can be read again.

{"moetool_chat": 1, "model": "demo", "messages": [{"role": "system", "content": "…"}, …]}
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moetool.errors import MoetoolError, NotFound, UsageError
from moetool.prompt import Message

# More than any context holds; a larger file is something else.
MAX_FILE_BYTES = 64 << 20
_VERSION = "moetool_chat"


@dataclass(frozen=True)
class Conversation:
    """A system message ("" for none), and turns of user and assistant, the oldest first."""

    system: str = ""
    turns: tuple[Message, ...] = ()

    @property
    def messages(self) -> list[Message]:
        """Everything a template is given."""
        return [*([Message("system", self.system)] if self.system else []), *self.turns]

    @property
    def n_asked(self) -> int:
        """How many messages are the user's."""
        return sum(turn.role == "user" for turn in self.turns)

    def asked(self, text: str) -> Conversation:
        """With one more message of the user."""
        return replace(self, turns=(*self.turns, Message("user", text)))

    def answered(self, text: str) -> Conversation:
        """With the assistant's answer."""
        return replace(self, turns=(*self.turns, Message("assistant", text)))

    def before_last_question(self) -> Conversation:
        """Without the user's last message and all that followed; itself when there is none."""
        at = self._last_question()
        return self if at is None else replace(self, turns=self.turns[:at])

    def up_to_last_question(self) -> Conversation | None:
        """Without what followed the user's last message; None when there is none."""
        at = self._last_question()
        return None if at is None else replace(self, turns=self.turns[: at + 1])

    def _last_question(self) -> int | None:
        asked = [at for at, turn in enumerate(self.turns) if turn.role == "user"]
        return asked[-1] if asked else None


def conversation_document(conversation: Conversation, model: str) -> dict[str, Any]:
    """The JSON of a conversation; `model` is for people, a conversation fits any."""
    messages = [{"role": m.role, "content": m.content} for m in conversation.messages]
    return {_VERSION: 1, "model": model, "messages": messages}


def parse_conversation(text: str) -> Conversation:
    """What `conversation_document` made; ValueError that says in a few words what is wrong."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(document, dict) or document.get(_VERSION) != 1:
        raise ValueError(f'"{_VERSION}": 1 is missing')
    return parse_messages(document.get("messages"))


def parse_messages(messages: object) -> Conversation:
    """A conversation from a list of {"role": …, "content": …}; ValueError that says what is wrong with it."""
    if not isinstance(messages, list):
        raise ValueError("its messages are no list")  # noqa: TRY004 (the caller catches one kind)
    parsed = [_parse_message(message, n) for n, message in enumerate(messages, 1)]
    system = parsed[0].content if parsed and parsed[0].role == "system" else ""
    turns = parsed[1:] if system else parsed
    _check_order(turns, first=len(parsed) - len(turns) + 1)
    return Conversation(system, tuple(turns))


def _parse_message(raw: Any, n: int) -> Message:
    role, content = (raw.get("role"), raw.get("content")) if isinstance(raw, dict) else (None, None)
    if role not in {"system", "user", "assistant"} or not isinstance(content, str):
        raise ValueError(f"message {n} is not a role with a text")
    try:
        content.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError(f"message {n} has half of a character") from None
    return Message(role, content)


def _check_order(turns: Sequence[Message], first: int) -> None:
    for n, turn in enumerate(turns):
        if turn.role != ("user", "assistant")[n % 2]:
            raise ValueError(f"message {n + first} is of the {turn.role}, out of turn")


def load_conversation(path: Path) -> Conversation:
    """Read a saved conversation; NotFound or MoetoolError in one sentence."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise NotFound(f"Cannot read {path}: {error.strerror}") from error
    try:
        if len(data) > MAX_FILE_BYTES:
            raise ValueError("it is too large")  # noqa: TRY301
        return parse_conversation(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MoetoolError(f"{path} is no saved conversation: it is not text") from error
    except ValueError as error:
        raise MoetoolError(f"{path} is no saved conversation: {error}") from error


def save_conversation(path: Path, conversation: Conversation, model: str) -> None:
    """Write a conversation, whole or not at all, readable by its owner only.

    UsageError where the file exists and is anything but a saved conversation: it is not overwritten.
    """
    if path.exists():
        _require_saved(path)
    text = json.dumps(conversation_document(conversation, model), indent=1) + "\n"
    try:
        # mkstemp makes files that nobody else may read.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".moetool-")
        try:
            with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 (a descriptor, not a path)
                file.write(text)
            Path(name).replace(path)
        except BaseException:
            os.unlink(name)  # noqa: PTH108
            raise
    except OSError as error:
        raise MoetoolError(f"Cannot write {path}: {error.strerror}") from error


def _require_saved(path: Path) -> None:
    try:
        load_conversation(path)
    except MoetoolError as error:
        raise UsageError(
            f"{path} exists and is no saved conversation: it stays as it is", "take another name"
        ) from error
