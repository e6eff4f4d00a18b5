"""The one way to llguidance, and its messages cut down to a sentence."""

from __future__ import annotations

import re
from functools import cache
from typing import Any


def llguidance() -> Any:
    """The module, imported when first asked for."""
    # 25 to 60 ms: only those who constrain pay for it.
    import llguidance

    return llguidance


def compile_error(grammar: str) -> str:
    """Empty when the grammar compiles, and can begin, without a vocabulary.

    Much that is wrong with a grammar (a rule that never ends, too many alternatives in one place, too large
    a repeat) shows only when its first byte is asked for.
    """
    failed, messages = llguidance().LLMatcher.validate_grammar_with_warnings(grammar)
    return str(messages[0]) if failed else _first_step_error(grammar)


def _first_step_error(grammar: str) -> str:
    matcher = byte_matcher(grammar)
    allowed = b"" if matcher.is_error() else allowed_bytes(matcher)
    if allowed and not matcher.is_error():
        matcher.consume_token(allowed[0])
    error = str(matcher.get_error()) if matcher.is_error() else ""
    # Whether a model has the control tokens that a grammar names is seen when it is loaded.
    return "" if "unknown special token" in error else error


def byte_matcher(grammar: str) -> Any:
    """A matcher over single bytes: what a grammar allows whatever a model's vocabulary."""
    return llguidance().LLMatcher(_byte_tokenizer(), grammar, log_level=0)


def allowed_bytes(matcher: Any) -> bytes:
    """The bytes that a byte matcher may take next, ascending."""
    import numpy as np

    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8, 32), bitorder="little")
    return np.flatnonzero(bits).astype(np.uint8).tobytes()


class _Bytes:
    """A vocabulary of all bytes and an end, in the shape that llguidance asks for."""

    is_tokenizer_wrapper = True
    eos_token_id = 256
    bos_token_id = None
    special_token_ids = (256,)
    tokens = (*(bytes([i]) for i in range(256)), b"<end>")

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@cache
def _byte_tokenizer() -> Any:
    return llguidance().LLTokenizer(_Bytes(), slices=[])


# What the engine says -> what it means.
_MEANINGS = (
    ("NoExtensionBias", "no text at all follows it"),
    ("too many expressions", "it is too large; repeats of many thousands are the usual reason"),
    ("Current row has", "it has too many alternatives in one place"),
    ("Too many items", "what must follow has no end, or is too long"),
)


def reason(error: str) -> str:
    """The part of an error message that says what is wrong, without the excerpts around it."""
    found = re.search(r"(?m)^error: (.*)$", error)
    return meaning(error) or (found[1] if found else first_line(error))


def meaning(error: str) -> str:
    """What is wrong with a grammar that can be read but not followed; "" for other errors."""
    return next((meaning for said, meaning in _MEANINGS if said in error), "")


def first_line(text: str) -> str:
    """The first line, without its full stop."""
    return text.strip().split("\n", 1)[0].rstrip(".")
