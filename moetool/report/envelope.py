"""The envelope that every document comes in, and what goes wrong as scripts read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moetool.finite import finite

if TYPE_CHECKING:
    from moetool.errors import MoetoolError

ENVELOPE_VERSION = 1


def envelope(command: str, data: Any, error: MoetoolError | None = None) -> dict[str, Any]:
    """The one document a command prints under `--output json`, also when it fails. Numbers that are not
    finite are null in it."""
    return {
        "moetool": ENVELOPE_VERSION,
        "command": command,
        "status": "error" if error else "ok",
        "exit_code": error.exit_code if error else 0,
        "data": finite(data),
        "errors": [of_error(error)] if error else [],
    }


def of_error(error: MoetoolError) -> dict[str, str]:
    """An error as scripts read it: a stable code beside the sentence."""
    return {"code": error.code, "message": error.message, "hint": error.hint}
