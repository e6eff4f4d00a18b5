"""Prompts as JSON lines: what each line asks, or what is wrong with it.

    "What is 2 + 3?"
    {"prompt": "What is 2 + 3?", "system": "Be brief.", "id": "sum"}
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 3?"}]}

Blank lines are none, and fields of other names are left alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from moetool.conversation import Conversation, parse_messages
from moetool.errors import UsageError

_HASH_DIGITS = 16
_FORMS = 'a line is "text", {"prompt": "text"} or {"messages": [{"role": "user", "content": "text"}]}'


@dataclass(frozen=True)
class Job:
    """One line. `index` counts from 0; `prompt_hash` names what it asks, whatever it stands in `line`.
    `problem` is set where nothing can be asked, `conversation` where it can."""

    index: int
    prompt_hash: str
    id: str | int | None = None
    conversation: Conversation | None = None
    problem: UsageError | None = None


def short_hash(value: Any) -> str:
    """A name for a JSON value: the same for equal ones."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]


def parse_jobs(data: bytes, system: str = "") -> list[Job]:
    """Every line that is not blank; `system` is the system message of those that have none of their own."""
    lines = enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1)
    asked = [(n, line) for n, line in lines if line.strip()]
    return [_parse_job(index, n, line, system) for index, (n, line) in enumerate(asked)]


def _parse_job(index: int, n: int, line: bytes, system: str) -> Job:
    try:
        name, conversation = _parse_line(line)
    except ValueError as error:
        digest = hashlib.sha256(line).hexdigest()[:_HASH_DIGITS]
        return Job(index, digest, problem=UsageError(f"Line {n} cannot be asked: {error}", _FORMS))
    asks = [[message.role, message.content] for message in conversation.messages]
    with_system = replace(conversation, system=conversation.system or system)
    return Job(index, short_hash([name, asks]), name, with_system)


def _parse_line(line: bytes) -> tuple[str | int | None, Conversation]:
    """A line's id and what it asks; ValueError in a few words."""
    try:
        raw = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"it is not JSON ({error.msg.removesuffix(' at')} at column {error.colno})"
        ) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if isinstance(raw, str):
        raw = {"prompt": raw}
    if not isinstance(raw, dict):
        raise ValueError("it is neither text nor an object")  # noqa: TRY004 (the caller catches one kind)
    return _parse_id(raw.get("id")), _parse_conversation(raw)


def _parse_conversation(raw: Mapping[str, Any]) -> Conversation:
    prompt, messages, system = raw.get("prompt"), raw.get("messages"), raw.get("system")
    if prompt is None and messages is None:
        raise ValueError('it has no "prompt"')
    if prompt is not None and messages is not None:
        raise ValueError('it has both a "prompt" and "messages"')
    if messages is None:
        messages = [{"role": "user", "content": _text(prompt, "prompt")}]
    conversation = parse_messages(messages)
    if system is not None and conversation.system:
        raise ValueError("it has two system messages")
    for message in conversation.messages:
        _text(message.content, "content")
    if not conversation.turns or conversation.turns[-1].role != "user":
        raise ValueError("its last message is not the user's")
    if not conversation.turns[-1].content.strip():
        raise ValueError("its prompt is empty")
    return conversation if system is None else replace(conversation, system=_text(system, "system"))


def _parse_id(raw: object) -> str | int | None:
    if isinstance(raw, bool) or not isinstance(raw, str | int | None):
        raise ValueError('its "id" is neither text nor a whole number')  # noqa: TRY004 (as above)
    return _text(raw, "id") if isinstance(raw, str) else raw


def _text(raw: object, name: str) -> str:
    if not isinstance(raw, str):
        raise ValueError(f'its "{name}" is not text')  # noqa: TRY004 (the caller catches one kind)
    try:
        raw.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f'its "{name}" has half of a character') from None
    return raw


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
