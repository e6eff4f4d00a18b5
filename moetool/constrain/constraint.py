"""What the output must look like, as a value, and where its source text comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moetool.errors import ConstraintError, NotFound

MAX_SOURCE_BYTES = 8 << 20


@dataclass(frozen=True)
class Constraint:
    """What the output must look like, compiled as far as it goes without a vocabulary.

    kind: "schema", "grammar", "regex" or "choice". source: the text it was made from (schemas: as JSON).
    grammar: llguidance's serialised grammar. whitespace: "spaced", "compact" or "" where it does not apply.
    title: a few words for a status line.
    """

    kind: str
    source: str
    grammar: str
    whitespace: str
    title: str


def read_source(path: Path) -> str:
    """The text of a schema or grammar file, a byte order mark apart; NotFound or ConstraintError."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_SOURCE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise NotFound(
            f"There is no file {shown(path)}.", "Give a file, or its text in single quotes."
        ) from error
    except OSError as error:
        raise ConstraintError(f"{shown(path)} cannot be read: {error.strerror or error}.") from error
    # Not UTF-8, or a path with a NUL in it.
    except ValueError as error:
        raise ConstraintError(f"{shown(path)} cannot be read as text.", f"The reason: {error}.") from error
    if len(data) > MAX_SOURCE_BYTES:
        raise ConstraintError(f"{shown(path)} is larger than {MAX_SOURCE_BYTES >> 20} MiB.")
    if not text.strip():
        raise ConstraintError(f"{shown(path)} is empty.")
    return text


def require_text(text: str, what: str) -> None:
    """ConstraintError for what no UTF-8 text can be: bytes of another encoding, halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConstraintError(f"The {what} is not UTF-8 text.", f"At character {error.start}.") from error


def shown(path: Path) -> str:
    """A path in a sentence: what cannot be printed is escaped."""
    return str(path) if str(path).isprintable() else ascii(str(path))
