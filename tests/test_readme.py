"""The README tells the truth: its map, its commands, its exit codes."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest
from cli_fixture import ROOT

from moetool import errors
from moetool.cli import make_app

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_file_map_is_what_the_files_say() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: git lists the files of the map")
    done = subprocess.run([sys.executable, "scripts/file_map.py", "--check"], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_every_command_it_names_exists() -> None:
    known = {c.name or c.callback.__name__ for c in make_app().registered_commands if c.callback}
    named = set(re.findall(r"^(?:\S* ?\| ?)?moetool ([a-z]+)", README, re.MULTILINE))
    assert named >= {"run", "plan", "pull", "bench", "inspect", "list", "doctor"}
    assert named <= known


def test_the_exit_codes_are_those_of_the_error_tree() -> None:
    tree = {
        value.exit_code
        for _, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, errors.MoetoolError)
    }
    table = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert table == tree | {0, 141}
