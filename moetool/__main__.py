"""`moetool` and `python -m moetool`."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        from moetool.cli.boundary import run_command_line

        code = run_command_line(sys.argv[1:])
    except KeyboardInterrupt:  # while Python was still importing, or a second one while we were leaving
        code = 130
    # Nothing is left to tidy up: from here on Ctrl-C ends the process without a traceback of Python's.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(code)


if __name__ == "__main__":
    main()
