"""The wheel: what a `pip install` puts on a disk is enough to run, from any folder."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from cli_fixture import ROOT, clean_environment


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from this checkout, unpacked as an installer would."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_the_demo_the_grammars_and_the_data(installed: Path) -> None:
    package = installed / "moetool"
    assert (package / "demo" / "demo.gguf").stat().st_size <= 8_500_000
    assert (package / "demo" / "MODEL_CARD.md").exists()
    shipped = {path.name for path in (ROOT / "grammars").glob("*.gbnf")}
    assert {path.name for path in (package / "grammars").glob("*.gbnf")} == shipped
    data = {path.name for path in (ROOT / "moetool" / "data").iterdir() if path.is_file()}
    assert {path.name for path in (package / "data").iterdir()} == data


def test_the_installed_package_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    environment = clean_environment(tmp_path) | {"PYTHONPATH": str(installed)}
    command = [
        sys.executable,
        "-m",
        "moetool",
        "run",
        "demo",
        "Yes or no: is water wet?",
        "--grammar",
        "yes-no",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.strip().lower().rstrip(b".") in {b"yes", b"no"}
