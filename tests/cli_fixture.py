"""Running the command line as a shell does: a process, its two streams, its exit code."""

from __future__ import annotations

import functools
import io
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from documents import parse_strictly

from moetool.cli.boundary import run_command_line
from moetool.engine.devices import list_devices
from moetool.machine import read_machine
from moetool.machine.kept_bandwidth import Bandwidth, add_readings
from moetool.machine.readtest import Reading
from moetool.render import tables

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
        found: dict[str, Any] = parse_strictly(self.out)
        return found


Moetool = Callable[..., Done]


def clean_environment(folder: Path) -> dict[str, str]:
    """An environment with empty caches and a Hub that is not there.

    The memory of this machine is taken for measured: that takes a second, which tests of other things spare.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "MOETOOL_"))}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    bandwidth = folder / "cache" / "moetool" / "bandwidth.json"
    if not bandwidth.exists():
        bandwidth.parent.mkdir(parents=True, exist_ok=True)
        bandwidth.write_text(kept_bandwidth())
    return kept | {
        "PYTHONPATH": path,
        "HF_HOME": str(folder / "hf"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "NO_COLOR": "1",
    }


def reading_of(n_threads: int, *_limits: float) -> Reading:
    """What this machine's memory is taken to give."""
    return Reading(60e9 if n_threads > 1 else 20e9, quiet=True)


@functools.cache
def kept_bandwidth() -> str:
    """What moetool keeps once it has measured this machine."""
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOETOOL_HOME", home)
        found = Bandwidth(reading_of(2).bytes_s, "measured", reading_of(1).bytes_s)
        add_readings(read_machine(list_devices(), Path(home)), {"CPU": found})
        return Path(home, "bandwidth.json").read_text()


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Moetool:
    """The same in this process, without the half second that a start takes: for all that is not about the
    process itself. Commands that measure memory anew find in no time what is taken for measured."""

    def run(*arguments: str, stdin: str = "", cwd: Path | None = None, **environment: str) -> Done:
        for name in [name for name in os.environ if name.startswith(("HF_", "MOETOOL_"))]:
            monkeypatch.delenv(name)
        settings = clean_environment(tmp_path) | environment
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        # huggingface_hub reads its environment once, when it is imported.
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", settings["HF_ENDPOINT"])
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", "HF_HUB_OFFLINE" in environment)
        monkeypatch.setattr("moetool.machine.readtest.measure_reading", reading_of)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        monkeypatch.chdir(cwd or tmp_path)
        for screen in (tables.console, tables.error_console):
            screen.cache_clear()
        capfd.readouterr()
        on_ctrl_c = signal.getsignal(signal.SIGINT)
        try:
            code = run_command_line(arguments)
        finally:
            signal.signal(signal.SIGINT, on_ctrl_c)
        return Done(code, *capfd.readouterr())

    return run
