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
    try:
        from moetool.cli.boundary import run_command_line

        code = run_command_line(sys.argv[1:])
    except KeyboardInterrupt:  # while Python was still importing, or a second one while we were leaving
        code = 130
    # Nothing is left to tidy up: from here on Ctrl-C ends the process without a traceback of Python's.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
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
