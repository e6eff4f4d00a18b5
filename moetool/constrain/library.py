"""The one way to llguidance, and its messages cut down to a sentence."""

from __future__ import annotations

import re
from typing import Any


def llguidance() -> Any:
    """The module, imported when first asked for."""
    # 25 to 60 ms: only those who constrain pay for it.
    import llguidance

    return llguidance


def compile_error(grammar: str) -> str:
    """Empty when the grammar compiles without a vocabulary."""
    failed, messages = llguidance().LLMatcher.validate_grammar_with_warnings(grammar)
    return str(messages[0]) if failed else ""


def reason(error: str) -> str:
    """The part of an error message that says what is wrong, without the excerpts around it."""
    found = re.search(r"(?m)^error: (.*)$", error)
    return found[1] if found else first_line(error)


def first_line(text: str) -> str:
    """The first line, without its full stop."""
    return text.strip().split("\n", 1)[0].rstrip(".")
