"""Commands of the operating system that are asked for facts."""

from __future__ import annotations


def read_command(*command: str, timeout_s: float = 5.0) -> str:
    """What a command prints, or "" where it is missing, hangs or prints nothing."""
    # Costs 5 ms at start-up; on Linux no command is run there.
    import subprocess

    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")
