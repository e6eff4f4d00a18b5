"""The one error boundary: a failure becomes a sentence on stderr (or one JSON document) and an exit code."""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import typer

from moetool.cli.interrupt import set_ctrl_c
from moetool.engine.aborts import when_llama_aborts
from moetool.errors import Interrupted, MoetoolError, UsageError
from moetool.render.plain import reset_terminal, show_error, use_plain_letters

# Typer brings its own copy of Click and does not export the base class of its usage errors; importing the
# `click` package instead would name a class that is never raised.
_USAGE_ERROR: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

BROKEN_PIPE = 141  # as if SIGPIPE had ended it: the reader went away, which is not an error of ours


class Reported(Exception):  # noqa: N818
    """A failure that was shown already, inside a document: only the exit code is left."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def run_command_line(arguments: Sequence[str]) -> int:
    """Run a command; returns its exit code and never raises what a user could cause."""
    from moetool.cli import make_app

    arguments = arguments or ["--help"]
    _open_missing_streams()
    use_plain_letters()
    when_llama_aborts(partial(_leave, arguments))
    try:
        with _leaving_at_once(arguments):
            code = make_app(command_of(arguments))(
                args=list(arguments), standalone_mode=False, prog_name="moetool"
            )
        sys.stdout.flush()
        return _told(code, arguments)
    except Reported as reported:
        return reported.exit_code
    except MoetoolError as error:
        return fail(error, arguments)
    except _USAGE_ERROR as error:
        return fail(_usage(error, arguments), arguments)
    except (KeyboardInterrupt, typer.Abort):
        return fail(Interrupted("Interrupted"), arguments)
    except BrokenPipeError:
        return _pipe_is_gone()
    except SystemExit:
        # Typer leaves so when the reader of a pipe is gone, which its wrapper around stdout tells, and
        # after shell completion.
        if type(sys.stdout).__name__ != "PacifyFlushWrapper":
            raise
        return _pipe_is_gone()
    except OSError as error:
        what = f"read or write {error.filename}" if error.filename else "read or write"
        return fail(MoetoolError(f"Cannot {what}: {error.strerror or error}"), arguments)
    # A bug is ours, not the user's: one sentence for them, the traceback for us when asked for.
    except Exception as error:  # noqa: BLE001
        return fail(_bug(error), arguments)


def _told(code: object, arguments: Sequence[str]) -> int:
    """The exit code for what Typer returns; it catches Ctrl-C itself, and says so by its code alone."""
    if code == Interrupted.exit_code:
        return fail(Interrupted("Interrupted"), arguments)
    return code if isinstance(code, int) else 0


def fail(error: MoetoolError, arguments: Sequence[str]) -> int:
    """Show an error where the caller looks for it; returns its exit code."""
    try:
        if wants_json(arguments):
            from moetool.render.document import print_json
            from moetool.report.envelope import envelope

            print_json(envelope(command_of(arguments), None, error))
        else:
            show_error(error)
    except BrokenPipeError:
        return _pipe_is_gone()
    except OSError:  # the disk behind stdout is full: a document has nowhere else to go, a sentence has
        with suppress(OSError):
            show_error(error)
    return error.exit_code


def print_result(command: str, data: Any, problem: MoetoolError | None = None) -> None:
    """The document of a command that came to its end; a `problem` is in it, and ends the command."""
    from moetool.render.document import print_json
    from moetool.report.envelope import envelope

    print_json(envelope(command, data, problem))
    if problem is not None:
        raise Reported(problem.exit_code)


def wants_json(arguments: Sequence[str]) -> bool:
    """Was `--output json` asked for? Read from the bare arguments, since parsing them may be what failed."""
    options = list(itertools.takewhile(lambda argument: argument != "--", arguments))
    pairs = zip(options, [*options, ""][1:], strict=True)
    # -q takes no value, so that -qo is two options in one.
    return any(
        re.fullmatch(r"--output=json|-q*ojson", a) or (re.fullmatch(r"--output|-q*o", a) and b == "json")
        for a, b in pairs
    )


def command_of(arguments: Sequence[str]) -> str:
    """The command's name: the first argument that is no option, nor the value of one before the command."""
    pairs = zip(["", *arguments], arguments, strict=False)
    return next((a for before, a in pairs if not a.startswith("-") and before not in {"-o", "--output"}), "")


@contextmanager
def _leaving_at_once(arguments: Sequence[str]) -> Iterator[None]:
    """Ctrl-C ends a command that has nothing to tidy up where it stands.

    Until an engine is loaded, that is: there CtrlC asks instead. An exception out of a signal can be lost, in
    an import above all.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN or command_of(arguments) not in {"run", "bench", "tune"}:
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: _leave(arguments, Interrupted("Interrupted")))
    try:
        yield
    finally:
        set_ctrl_c(before)


def _leave(arguments: Sequence[str], error: MoetoolError) -> NoReturn:
    """End the process from wherever it is, for llama.cpp or the user has given up: nothing is unwound."""
    try:
        from moetool.render.progress import close_bars

        close_bars()
        reset_terminal()
        fail(error, arguments)
        sys.stdout.flush()
    finally:  # also where half an import was all there was
        os._exit(error.exit_code)


def _open_missing_streams() -> None:
    """A daemon may have closed them; they read as empty and swallow what is written."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 (open for the process)
            setattr(sys, name, stream)


def _bug(error: Exception) -> MoetoolError:
    if os.environ.get("MOETOOL_DEBUG"):
        raise error
    return MoetoolError(
        f"This is a bug in moetool: {type(error).__name__}: {error}",
        "MOETOOL_DEBUG=1 shows where; please report it with the command you typed",
    )


def _out_of_range(found: re.Match[str]) -> str:
    """From a value and the bounds that it breaks ("3.0 is not in the range 0<=x<=1"): the one it breaks."""
    value, least, most = found.groups()
    is_low = least is not None and float(value) < float(least)
    return f"this must be at least {least}" if is_low else f"this must be at most {most}"


# Wordings of the libraries that parse the command line -> ours. "Input should …" is typer 0.29's.
_NUMBER = r"(-?[\d.e+]+)"
_REWORDED: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^Invalid value for '([^']+)'[^:]*: ", r"\1: "),
    (r"'[^']*' is not a valid int.*", "this must be a whole number"),
    (r"'[^']*' is not a valid float.*", "this must be a number"),
    (rf"{_NUMBER} is not in the range x>={_NUMBER}\.$", r"this must be at least \2"),
    (rf"{_NUMBER} is not in the range {_NUMBER}<=x<={_NUMBER}\.$", _out_of_range),
    (r"Input should be a valid integer.*", "this must be a whole number"),
    (r"Input should be a valid number.*", "this must be a number"),
    (r"Input should be greater than or equal to ", "this must be at least "),
    (r"Input should be less than or equal to ", "this must be at most "),
    (r"Value error, ", ""),
    (r"^Got unexpected extra arguments?(?:\(s\))? \((.*)\)", r"One argument too many: \1"),
)


def _usage(error: Exception, arguments: Sequence[str]) -> UsageError:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    for theirs, ours in _REWORDED:
        message = re.sub(theirs, ours, message)
    context = getattr(error, "ctx", None)
    command = context.command_path if context else f"moetool {command_of(arguments)}".strip()
    if message.startswith("One argument too many") and command.endswith("run"):
        return UsageError(message, "a prompt of several words stands in quotes")
    return UsageError(message, f"{command} --help shows what there is, with examples")


def _pipe_is_gone() -> int:
    # Python would complain again when it flushes stdout at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE
