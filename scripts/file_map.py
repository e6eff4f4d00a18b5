#!/usr/bin/env python3
"""Write the README's file map from the first line of every file's own description.

scripts/file_map.py          rewrite the map in README.md
scripts/file_map.py --check  exit 1 if it is not up to date
"""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
START, END = "<!-- file map: scripts/file_map.py writes it -->\n", "<!-- end of file map -->\n"
FOLDERS = ("moetool", "grammars", "scripts", "tests")
DESCRIBED = {".py", ".gbnf", ".sh"}


def tracked() -> list[Path]:
    """Files of the repo that carry a description, in reading order."""
    names = subprocess.run(
        ["git", "ls-files", *FOLDERS], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    return sorted((Path(name) for name in names if Path(name).suffix in DESCRIBED), key=_order)


def _order(path: Path) -> tuple[int, str, bool, str]:
    return FOLDERS.index(path.parts[0]), str(path.parent), path.name != "__init__.py", path.name


def describe(path: Path) -> str:
    """The first sentence of a file's docstring or leading comment."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.suffix == ".py":
        found = ast.get_docstring(ast.parse(text)) or ""
    else:
        lines = [line for line in text.splitlines() if not line.startswith("#!")]
        comments = itertools.takewhile(lambda line: line.startswith("#"), lines)
        # Its first paragraph, as of a docstring.
        found = "\n".join(line.removeprefix("#").strip() for line in comments).strip()
    paragraph = " ".join(found.split("\n\n")[0].split())
    head, dot, _ = paragraph.partition(". ")
    return head.rstrip(".") + ("." if dot or paragraph.endswith(".") else "")


def make_map() -> str:
    """Markdown: a heading a folder, a line a file."""
    lines: list[str] = []
    folder = None
    for path in tracked():
        if path.parent != folder:
            folder = path.parent
            opening = folder / "__init__.py"
            about = f": {describe(opening)}" if (ROOT / opening).exists() else ""
            lines += ["", f"**`{folder}/`**{about}", ""]
        if path.name != "__init__.py":
            lines.append(f"- `{path.name}` {describe(path)}")
    return "\n".join(lines).strip() + "\n"


def rewritten(readme: str) -> str:
    """The README with the map between its marks made anew."""
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{make_map()}\n{END}{after}"


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    wanted = rewritten(text)
    if "--check" in sys.argv[1:]:
        sys.exit(0 if text == wanted else "README.md's file map is not up to date: scripts/file_map.py")
    readme.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
