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


def regex_reason(error: str) -> str:
    found = re.search(r"error: (.*)", error)
    return found[1] if found else first_line(error)


def first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0].rstrip(".")
