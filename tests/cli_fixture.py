"""Running the command line as a shell does: a process, its two streams, its exit code."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from moetool.cli.boundary import run_command_line

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        found: dict[str, Any] = json.loads(self.out)
        return found


Moetool = Callable[..., Done]


def clean_environment(folder: Path) -> dict[str, str]:
    """An environment with empty caches and a Hub that is not there."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "MOETOOL_"))}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return kept | {
        "PYTHONPATH": path,
        "HF_HOME": str(folder / "hf"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "NO_COLOR": "1",
    }


@pytest.fixture
def moetool(tmp_path: Path) -> Moetool:
    """Call as moetool("run", "demo", "Hello", stdin="…", NAME="value of an environment variable")."""

    def run(*arguments: str, stdin: str = "", cwd: Path | None = None, **environment: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "moetool", *arguments],
            input=stdin.encode(),
            capture_output=True,
            cwd=cwd or tmp_path,
            env=clean_environment(tmp_path) | environment,
            timeout=60,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture
def moetool_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Moetool:
    """The same in this process, without the half second that a start takes: for commands that ask no Hub,
    whose address is read only once."""
    for name in [name for name in os.environ if name.startswith(("HF_", "MOETOOL_"))]:
        monkeypatch.delenv(name)
    for name, value in clean_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        code = run_command_line(arguments)
        return Done(code, *capsys.readouterr())

    return run
