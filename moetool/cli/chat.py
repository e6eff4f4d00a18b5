"""`moetool run` on a terminal without a prompt: a conversation."""

from __future__ import annotations

from moetool.cli.answer import Request, matcher_for, stats_line
from moetool.cli.interrupt import CtrlC
from moetool.cli.opening import Opened
from moetool.engine.model import Engine
from moetool.errors import ContextFull
from moetool.generate import CONTEXT, INTERRUPTED, Generation, Stats
from moetool.plan import Plan
from moetool.prompt import Message, chat_tokens, keep_prefix, plain_tokens
from moetool.render.plain import AnswerWriter, notice, show_error
from moetool.speed import Load, Speed

HELP = "/clear starts anew · /quit or Ctrl-D leaves · Ctrl-C stops an answer · // begins a message with /"


def chat(engine: Engine, opened: Opened, plan: Plan, request: Request, ctrl_c: CtrlC) -> None:
    """Read lines and answer them until the user leaves; earlier turns stay in the KV cache."""
    notice(f"{opened.model.name} · {HELP}")
    messages = _opening(request)
    while (line := _read_line(ctrl_c)) is not None:
        if line in {"/quit", "/exit", "/bye"}:
            return
        if line == "/clear":
            messages = _opening(request)
            notice("The conversation starts anew.")
        elif line.startswith("/") and not line.startswith("//"):
            notice(HELP)
        elif line:
            asked = [*messages, Message("user", line.removeprefix("/"))]
            reply = _reply(engine, opened, plan, request, asked, ctrl_c)
            messages = messages if reply is None else [*asked, Message("assistant", reply)]


def _opening(request: Request) -> list[Message]:
    return [Message("system", request.system)] if request.system else []


def _read_line(ctrl_c: CtrlC) -> str | None:
    """One line from the user; None at Ctrl-D, "" at Ctrl-C."""
    import readline  # noqa: F401  (line editing and history for input())
    import signal

    # While waiting for a line there is no answer to stop: Ctrl-C clears the line, as in a shell.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return input("> ").strip()
    except EOFError:
        notice("")
        return None
    except KeyboardInterrupt:
        notice("")
        return ""
    finally:
        signal.signal(signal.SIGINT, before)
        ctrl_c.forget()


def _reply(
    engine: Engine, opened: Opened, plan: Plan, request: Request, messages: list[Message], ctrl_c: CtrlC
) -> str | None:
    """Answer the last message; None when it did not fit."""
    template = opened.header.get_str("tokenizer.chat_template")
    if template and not request.raw:
        tokens = chat_tokens(engine.vocabulary, template, messages)
    else:
        tokens = plain_tokens(engine.vocabulary, "\n".join(m.content for m in messages))
    generation = Generation(
        engine, keep_prefix(engine, tokens), request.limits, matcher_for(engine, request.constraint)
    )
    writer = AnswerWriter()
    try:
        for token in generation:
            writer.write(token.text)
    except ContextFull as error:
        show_error(error)
        notice("(/clear starts anew)")
        return None
    writer.write(generation.rest())
    writer.end()
    stats = generation.stats
    assert stats is not None  # the iteration has ended
    _after(stats, request, plan.predict(Load(depth=engine.n_past)))
    ctrl_c.forget()
    return generation.text


def _after(stats: Stats, request: Request, predicted: Speed) -> None:
    if stats.finish_reason == INTERRUPTED:
        notice("(stopped)")
    elif stats.finish_reason == CONTEXT:
        notice("(the context is full: /clear starts anew, --ctx gives a larger one)")
    elif not request.quiet:
        notice(stats_line(stats, predicted))
