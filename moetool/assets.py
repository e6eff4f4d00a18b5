"""Where the files that ship with moetool are: the demo model and the grammars.

Two layouts: a checkout keeps `grammars/` beside the package, where people look for it; a wheel carries it
inside the package.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def demo_model_path() -> Path:
    """The GGUF file of the demo model. It need not be there: a checkout may be without it."""
    return _PACKAGE / "demo" / "demo.gguf"


def grammar_dir() -> Path:
    """The folder of `NAME.gbnf` files."""
    inside = _PACKAGE / "grammars"
    return inside if inside.is_dir() else _PACKAGE.parent / "grammars"


def quality_text_path() -> Path:
    """The text that models are judged on when no other is given."""
    return _PACKAGE / "data" / "quality.txt"
