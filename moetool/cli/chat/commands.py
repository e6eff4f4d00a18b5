"""What can be typed after a slash: a table of names, what each takes, and what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from moetool.cli.chat.knobs import knob_lines, set_knob, shown_value
from moetool.cli.chat.stats import stats_lines
from moetool.cli.chat.talk import Talk
from moetool.conversation import Conversation, load_conversation, save_conversation
from moetool.errors import UsageError
from moetool.render.plain import notice, safe_line


@dataclass(frozen=True)
class Command:
    """One command; `do` gets what follows its name and says whether Ctrl-C stopped an answer in it."""

    takes: str
    text: str
    do: Callable[[Talk, str], bool | None]


def _clear(talk: Talk, _argument: str) -> None:
    talk.conversation = Conversation(talk.conversation.system)
    notice("The conversation starts anew.")


def _undo(talk: Talk, _argument: str) -> None:
    before = talk.conversation.before_last_question()
    if before == talk.conversation:
        raise UsageError("There is nothing to take back")
    taken = talk.conversation.turns[len(before.turns)].content
    talk.conversation = before
    notice(f"Taken back: {shortened(taken)}")


def _regen(talk: Talk, _argument: str) -> bool:
    asked = talk.conversation.up_to_last_question()
    if asked is None:
        raise UsageError("There is no answer to draw again")
    if talk.knobs.sampling.temperature <= 0:
        notice("(at temperature 0 the same answer comes again; /set temperature 0.8)")
    return talk.ask(asked)


def _system(talk: Talk, argument: str) -> None:
    if argument:
        talk.conversation = Conversation("" if argument == "none" else argument, talk.conversation.turns)
    told = talk.conversation.system
    notice(f"System message: {told}" if told else "There is no system message.")


def _save(talk: Talk, argument: str) -> None:
    if not argument:
        raise UsageError("A file name is missing", "/save chat.json")
    save_conversation(_path(argument), talk.conversation, talk.opened.model.name)
    notice(f"{n_messages(talk.conversation)} saved in {argument}")


def _load(talk: Talk, argument: str) -> None:
    if not argument:
        raise UsageError("A file name is missing", "/load chat.json")
    talk.conversation = load_conversation(_path(argument))
    last = talk.conversation.turns[-1].content if talk.conversation.turns else ""
    notice(f"{n_messages(talk.conversation)} loaded" + (f", the last: {shortened(last)}" if last else ""))


def _set(talk: Talk, argument: str) -> None:
    if not argument:
        for line in knob_lines(talk.knobs):
            notice(line)
        return
    name, knobs = set_knob(talk.knobs, argument)
    talk.set(knobs)
    notice(f"{name} is {shown_value(knobs, name)}")


def _stats(talk: Talk, _argument: str) -> None:
    for line in stats_lines(talk):
        notice(line)


def _help(_talk: Talk, _argument: str) -> None:
    for name, command in COMMANDS.items():
        notice(f"{name + ' ' + command.takes:<18} {command.text}")
    notice(f"{'/quit':<18} leave; Ctrl-D does too")
    notice(r'Several lines: end them with \, or put """ before and after; a paste is one message.')
    notice("// begins a message with a slash. Ctrl-C stops an answer, twice it leaves.")


COMMANDS: dict[str, Command] = {
    "/system": Command("[TEXT]", "show or replace the system message; none removes it", _system),
    "/regen": Command("", "draw the last answer again", _regen),
    "/undo": Command("", "take back the last question and its answer", _undo),
    "/clear": Command("", "start anew; the system message stays", _clear),
    "/save": Command("FILE", "write the conversation as JSON", _save),
    "/load": Command("FILE", "go on with a saved conversation", _load),
    "/set": Command("[NAME VALUE]", "temperature, top-p, seed, max-tokens …", _set),
    "/stats": Command("", "tokens, context, speed and memory", _stats),
    "/help": Command("", "this", _help),
}
QUIT = ("/quit", "/exit", "/bye")


def parse_command(line: str) -> tuple[str, str]:
    """A line with a slash as the command's name and what follows it; ("", "") for other lines."""
    if not line.startswith("/") or line.startswith("//"):
        return "", ""
    name, *argument = line.split(maxsplit=1)
    return name.lower(), "".join(argument)


def do_command(talk: Talk, name: str, argument: str) -> bool:
    """Do what was said with a slash; True when Ctrl-C stopped an answer. Raises MoetoolError."""
    command = COMMANDS.get(name)
    if command is None:
        raise UsageError(f"There is no command {name}", "/help lists them; // begins a message with a slash")
    if argument and not command.takes:
        raise UsageError(f"{name} takes nothing more", "// begins a message with a slash")
    return bool(command.do(talk, argument))


def _path(argument: str) -> Path:
    try:
        return Path(argument).expanduser()
    except RuntimeError:  # a home that is not known
        return Path(argument)


def n_messages(conversation: Conversation) -> str:
    """ "1 message", "4 messages"."""
    n = len(conversation.turns)
    return "1 message" if n == 1 else f"{n} messages"


def shortened(text: str) -> str:
    """The beginning of a text, on one line."""
    line = safe_line(text)
    return line if len(line) <= 60 else line[:59] + "…"
