"""A finished document held against its whole schema, by a validator that is not the engine.

The only door to jsonschema. Nothing is fetched: a `$ref` that leaves the schema is an error.
"""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from moetool.constrain.constraint import Constraint
from moetool.constrain.places import iter_schemas
from moetool.errors import ConstraintError

_SHOWN_FAULTS = 5
_SHOWN_LETTERS = 120
# A pattern can take Python's expressions longer than anyone waits; all others are done in milliseconds.
PATIENCE_S = 5.0


class Judge:
    """Says what is wrong with a document under a schema."""

    def __init__(self, constraint: Constraint, patience_s: float = PATIENCE_S) -> None:
        """ConstraintError for a schema that the validator itself cannot follow."""
        self._patience_s = patience_s
        self._schema = json.loads(constraint.source)
        self._validator = _validator(self._schema)

    def faults(self, text: str) -> tuple[str, ...]:
        """The first places at which `text` breaks the schema, each with the reason; () when it is valid.

        What takes too long to check counts as broken: it is not known to be valid.
        """
        from referencing.exceptions import Unresolvable

        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            return (f"not JSON: {error}",)
        try:
            with _within(self._patience_s):
                return tuple(_first(self._validator.iter_errors(document)))
        except _Overtime:
            return (f"this document takes more than {self._patience_s:g} s to check",)
        except Unresolvable as error:
            raise ConstraintError(f"The schema refers to {error.ref!r}, which cannot be resolved.") from error
        except RecursionError:
            return ("nested too deeply to be checked",)


class _Overtime(BaseException):
    """No error that a library would catch."""


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise _Overtime inside after so long: Python's expressions look for signals while they match.

    Only where a signal can be caught: in the main thread, and not on Windows.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, _raise_overtime)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _raise_overtime(_number: int, _frame: object) -> NoReturn:
    raise _Overtime


def _validator(schema: dict[str, Any]) -> Any:
    # 60 ms: only those who ask for the check pay for it.
    import jsonschema
    from referencing import Registry

    _require_patterns(schema)
    newest = jsonschema.Draft202012Validator
    kind = jsonschema.validators.validator_for(schema, default=newest) if _names_a_draft(schema) else newest
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        place = "/" + "/".join(map(str, error.path))
        raise ConstraintError(
            f"The schema is not one that can be validated: at {place}, {_short(error.message)}.",
            f"It is read as {kind.__name__.removesuffix('Validator')}; `$schema` names another draft.",
        ) from error
    # An empty registry: unlike the default one, it fetches nothing.
    return kind(schema, registry=Registry(), format_checker=kind.FORMAT_CHECKER)


def _names_a_draft(schema: dict[str, Any]) -> bool:
    name = schema.get("$schema")
    return isinstance(name, str) and re.search(r"json-schema\.org/draft", name) is not None


def _require_patterns(schema: dict[str, Any]) -> None:
    """ConstraintError for patterns that Python's expressions cannot say."""
    for place, part in iter_schemas(schema):
        named = part.get("patternProperties")
        patterns = [part.get("pattern"), *(named if isinstance(named, dict) else ())]
        for pattern in patterns:
            try:
                re.compile(pattern if isinstance(pattern, str) else "")
            except re.error as error:
                raise ConstraintError(
                    f"The pattern {pattern!r} at {place or '/'} cannot be checked: {error}."
                ) from error


def _first(errors: Iterable[Any]) -> Iterator[str]:
    for error, _ in zip(errors, range(_SHOWN_FAULTS), strict=False):
        yield f"{error.json_path}: {_short(error.message)}"


def _short(message: str) -> str:
    return message if len(message) <= _SHOWN_LETTERS else message[:_SHOWN_LETTERS] + "…"
