"""`moetool` and `python -m moetool`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        from moetool.cli.boundary import run_command_line

        sys.exit(run_command_line(sys.argv[1:]))
    except KeyboardInterrupt:  # while Python was still importing, or a second one while we were leaving
        sys.exit(130)


if __name__ == "__main__":
    main()
