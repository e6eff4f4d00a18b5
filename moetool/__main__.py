"""`moetool` and `python -m moetool`."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    # While Python imports, and at the end, there is nothing to tidy up: there Ctrl-C ends the process,
    # without a traceback of Python's. In the background of a shell it is ignored, and stays so.
    before = signal.getsignal(signal.SIGINT) or signal.default_int_handler
    at_once = before if before is signal.SIG_IGN else signal.SIG_DFL
    signal.signal(signal.SIGINT, at_once)
    from moetool.cli.boundary import run_command_line
    from moetool.cli.interrupt import set_ctrl_c

    signal.signal(signal.SIGINT, before)
    try:
        code = run_command_line(sys.argv[1:])
    except KeyboardInterrupt:  # a second one while we were leaving
        code = 130
    set_ctrl_c(at_once)
    _leave(code)


def _leave(code: int) -> NoReturn:
    """End the process without taking the interpreter apart: 80 ms, at the end of every command, for memory
    that the system takes back anyway. What libraries registered to be done last is done."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # its reader is gone, or it is closed, or missing
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
