"""How a broken-off answer can be ended: a short text that makes a whole sentence of its grammar."""

from __future__ import annotations

import heapq
import itertools
import re
import string
from collections import Counter
from collections.abc import Callable
from typing import Any

from moetool.constrain.constraint import Constraint
from moetool.constrain.library import allowed_bytes, byte_matcher

MAX_EXPANSIONS = 1000
MAX_ALIKE = 2
FEW = 16
# Among many allowed bytes one letter of each kind stands for its kind, plain ones first.
_KINDS = tuple(kind.encode() for kind in (string.digits, string.ascii_lowercase, string.ascii_uppercase))
QUOTE = b'"'
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_SINGLES = b" \"\n]}),.:;|'@/_-+*=<>?!#%&$~^`([{"


def closing_bytes(constraint: Constraint, text: bytes, limit_bytes: int) -> bytes | None:
    """A short continuation after which `text` may stop, None when none of `limit_bytes` is found.

    It takes what is forced, else what closes a string, an array or an object of JSON, else the shortest way
    it finds to such a place. It works on bytes, whatever the model's vocabulary, and takes milliseconds.
    """
    state = byte_matcher(constraint.grammar)
    if state.is_error() or not state.consume_tokens(list(text)):
        return None
    is_json = constraint.kind == "schema" or text[:1] in (b"{", b"[", b'"')
    closing = b""
    while not state.is_accepting():
        closers = _closers(text + closing) if is_json else b""
        step = _next_step(state, closers)
        if not step or len(closing) + len(step) > limit_bytes:
            return None
        closing += step
        state.consume_tokens(list(step))
    return closing


def _next_step(state: Any, closers: bytes) -> bytes:
    if forced := bytes(state.compute_ff_bytes()):
        return forced
    allowed = allowed_bytes(state)
    if closing := bytes(byte for byte in closers if byte in allowed):
        return closing[:1]
    return _shortest_way(state, lambda probe, way: _is_an_end(probe, way, closers))


def _is_an_end(probe: Any, way: bytes, closers: bytes) -> bool:
    """Whether the answer, or the innermost value of JSON around it, ends in `way` or can end after it."""
    if probe.is_accepting() or not closers:
        return bool(probe.is_accepting())
    inside = closers == QUOTE
    passed = _outside_strings(way, inside=inside)
    if any(byte in passed for byte in closers):
        return True
    return any(byte in allowed_bytes(probe) for byte in _closers(way, inside=inside))


def _closers(text: bytes, *, inside: bool = False) -> bytes:
    """What ends the innermost value of JSON: a quote inside a string, else a bracket, else a comma."""
    quotes = _ESCAPED.sub(b"", text).count(QUOTE)
    return QUOTE if inside != (quotes % 2 == 1) else b"}],"


def _outside_strings(text: bytes, *, inside: bool) -> bytes:
    """`text` without what stands in strings; a quote that ends the string it begins in stays."""
    plain = _ESCAPED.sub(b"", text)
    if inside:
        return plain[plain.find(QUOTE) :] if QUOTE in plain else b""
    return re.sub(rb'"[^"]*("|$)', b"", plain)


def _shortest_way(state: Any, is_goal: Callable[[Any, bytes], bool]) -> bytes:
    """The bytes to the nearest goal; of ways as long that allow the same next bytes, two are followed."""
    order = itertools.count()
    ways: list[tuple[int, int, bytes, Any]] = [(0, next(order), b"", state)]
    alike: Counter[tuple[int, bytes, bool]] = Counter()
    for _ in range(MAX_EXPANSIONS):
        if not ways:
            break
        _, _, way, start = heapq.heappop(ways)
        if way and is_goal(start, way):
            return way
        for byte in _representatives(allowed_bytes(start)):
            probe, step = _after(start, byte)
            key = len(way + step), allowed_bytes(probe), probe.is_accepting()
            alike[key] += 1
            if alike[key] <= MAX_ALIKE:
                heapq.heappush(ways, (key[0], next(order), way + step, probe))
    return b""


def _after(state: Any, byte: int) -> tuple[Any, bytes]:
    """The state after `byte` and what that forces, and the bytes of both."""
    probe = state.deep_copy()
    probe.consume_token(byte)
    forced = bytes(probe.compute_ff_bytes())
    probe.consume_tokens(list(forced))
    return probe, bytes([byte]) + forced


def _representatives(allowed: bytes) -> bytes:
    if len(allowed) <= FEW:
        return allowed
    kinds = (next((byte for byte in kind if byte in allowed), None) for kind in _KINDS)
    plain = bytes(byte for byte in kinds if byte is not None)
    singles = bytes(byte for byte in _SINGLES if byte in allowed)
    # Neither: the middle of a character of several bytes.
    return plain + singles or allowed[:FEW]
