"""The loop of a chat: read a message, answer it or do what it says, until the user leaves."""

from __future__ import annotations

from moetool.cli.answer import Request
from moetool.cli.boundary import Reported
from moetool.cli.chat.commands import COMMANDS, QUIT, do_command
from moetool.cli.chat.lines import Left, Lines
from moetool.cli.chat.talk import FULL_HINT, Talk
from moetool.cli.interrupt import CtrlC
from moetool.cli.opening import Opened
from moetool.engine.model import Engine
from moetool.errors import ContextFull, EngineError, Interrupted, MoetoolError
from moetool.plan import Plan
from moetool.render.plain import notice, show_error
from moetool.settings import Sampling

HELLO = "/help lists what can be done · Ctrl-C stops an answer · Ctrl-D leaves"


def chat(
    engine: Engine, opened: Opened, plan: Plan, request: Request, sampling: Sampling, ctrl_c: CtrlC
) -> None:
    """Talk until the user leaves; leaving by Ctrl-C has exit code 130."""
    talk = Talk(engine, opened, plan, request, ctrl_c)
    talk.start(sampling)
    lines = Lines(ctrl_c, [*COMMANDS, *QUIT[:1]])
    notice(f"{opened.model.name} · {HELLO}")
    try:
        _until_left(talk, lines)
    except Left:
        raise Reported(Interrupted.exit_code) from None


def _until_left(talk: Talk, lines: Lines) -> None:
    while (line := lines.read()) is not None and line not in QUIT:
        if line and _do(talk, line):
            if talk.n_presses() > 1:
                raise Left
            lines.answer_was_stopped()


def _do(talk: Talk, line: str) -> bool:
    """Answer a message or obey a command; what goes wrong is said, and the chat goes on."""
    try:
        if line.startswith("/") and not line.startswith("//"):
            return do_command(talk, line)
        return talk.ask(talk.conversation.asked(line.removeprefix("/") if line.startswith("//") else line))
    except ContextFull as error:
        show_error(error)
        notice(f"({FULL_HINT})")
    except EngineError:
        raise  # a worker that is gone, or a failed decode: there is nothing to go on with
    except MoetoolError as error:
        show_error(error)
    return False
