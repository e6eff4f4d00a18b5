"""Where llama.cpp gives up: instead of a core dump, its reason is told as an error before the process ends.

ggml_abort (ggml/src/ggml.c) never returns, and it may be called on a thread of llama.cpp's own (a worker
that went away is noticed there), so no exception can carry the reason: a function that shows it and leaves
must be given beforehand. Without one, llama.cpp's own way stays: its message, a backtrace, SIGABRT.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from moetool.errors import EngineError

Leave = Callable[[EngineError], None]
Explain = Callable[[str], EngineError | None]

_leave: list[Leave] = []
_explanations: list[Explain] = []


def when_llama_aborts(leave: Leave) -> None:
    """`leave` shows the error and ends the process; from then on nothing may rely on llama.cpp."""
    _leave[:] = [leave]


def explain_aborts(explain: Explain) -> None:
    """`explain` may turn llama.cpp's message into a better error; None if it does not know it."""
    if explain not in _explanations:
        _explanations.append(explain)


def make_abort_error(message: str) -> EngineError:
    """The error for llama.cpp's last words ("FILE:LINE: reason")."""
    for explain in _explanations:
        error = explain(message)
        if error is not None:
            return error
    return EngineError(f"llama.cpp gave up: {message.strip()}", "please report it with the command you typed")


def catch_aborts(lib: Any) -> None:
    """Tell llama.cpp whom to tell, if there is anybody; called once, when the library is loaded."""
    if not _leave:
        return
    kind = ctypes.CFUNCTYPE(None, ctypes.c_char_p)

    def on_abort(message: bytes) -> None:
        _leave[0](make_abort_error(message.decode("utf-8", "replace")))

    set_callback = lib._lib.ggml_set_abort_callback
    set_callback.restype, set_callback.argtypes = ctypes.c_void_p, [kind]
    # ggml keeps the bare pointer: the module must keep the object.
    lib.moetool_abort_callback = kind(on_abort)
    set_callback(lib.moetool_abort_callback)
