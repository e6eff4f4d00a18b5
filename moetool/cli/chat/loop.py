"""The loop of a chat: read a message, answer it or do what it says, until the user leaves."""

from __future__ import annotations

from contextlib import nullcontext

from moetool.cli.answer import Request
from moetool.cli.boundary import Reported
from moetool.cli.chat.commands import COMMANDS, QUIT, do_command, parse_command
from moetool.cli.chat.kept import KeptChat
from moetool.cli.chat.lines import Left, Lines
from moetool.cli.chat.talk import FULL_HINT, Talk
from moetool.cli.interrupt import CtrlC
from moetool.cli.opening import Opened
from moetool.cli.session import Session
from moetool.engine.model import Engine
from moetool.errors import ContextFull, EngineError, Interrupted, MoetoolError
from moetool.plan import Plan
from moetool.render.plain import notice, show_error
from moetool.settings import Sampling

HELLO = "/help lists what can be done · Ctrl-C stops an answer · Ctrl-D leaves"


def chat(
    engine: Engine,
    opened: Opened,
    plan: Plan,
    request: Request,
    sampling: Sampling,
    ctrl_c: CtrlC,
    session: Session | None = None,
) -> None:
    """Talk until the user leaves; leaving by Ctrl-C has exit code 130."""
    talk = Talk(engine, opened, plan, request, ctrl_c)
    talk.start(sampling)
    lines = Lines(ctrl_c, [*COMMANDS, *QUIT[:1]])
    notice(f"{opened.model.name} · {HELLO}")
    left_by_ctrl_c = False
    kept = KeptChat(session, talk) if session is not None else None
    with kept.going_on() if kept is not None else nullcontext():
        try:
            _until_left(talk, lines, kept)
        except Left:
            left_by_ctrl_c = True
    if left_by_ctrl_c:
        raise Reported(Interrupted.exit_code)


def _until_left(talk: Talk, lines: Lines, kept: KeptChat | None) -> None:
    while (line := lines.read()) is not None and parse_command(line)[0] not in QUIT:
        was_stopped = bool(line) and _do(talk, line)
        if kept is not None:
            kept.keep()
        if was_stopped:
            if talk.n_presses() > 1:
                raise Left
            lines.answer_was_stopped()


def _do(talk: Talk, line: str) -> bool:
    """Answer a message or obey a command; what goes wrong is said, and the chat goes on."""
    try:
        name, argument = parse_command(line)
        if name:
            return do_command(talk, name, argument)
        return talk.ask(talk.conversation.asked(line.removeprefix("/") if line.startswith("//") else line))
    except ContextFull as error:
        show_error(error)
        notice(f"({FULL_HINT})")
    except EngineError:
        raise  # a worker that is gone, or a failed decode: there is nothing to go on with
    except MoetoolError as error:
        show_error(error)
    return False
