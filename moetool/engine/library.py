"""The door to llama.cpp: one copy of its libraries, the ggml functions Python has no binding for, its log.

Nothing here knows what a plan or a prompt is. The library is loaded by the first call and not before.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import re
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from moetool.engine.aborts import catch_aborts
from moetool.errors import EngineError

# The structs are laid out for this build; another one would read them wrongly.
LLAMA_CPP_PYTHON = "0.3.36"
LLAMA_CPP_COMMIT = "0c1e57098"  # what that version vendors

_LOG_ERROR = 4
_LOG_WARN = 3
_LOG_CONT = 5

# name -> (result, arguments). Reached through libllama's handle: opening libggml by path would load a
# second copy with a second, empty device registry.
_GGML_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "ggml_backend_dev_count": (ctypes.c_size_t, []),
    "ggml_backend_dev_get": (ctypes.c_void_p, [ctypes.c_size_t]),
    "ggml_backend_dev_by_name": (ctypes.c_void_p, [ctypes.c_char_p]),
    "ggml_backend_dev_name": (ctypes.c_char_p, [ctypes.c_void_p]),
    "ggml_backend_dev_description": (ctypes.c_char_p, [ctypes.c_void_p]),
    "ggml_backend_dev_type": (ctypes.c_int, [ctypes.c_void_p]),
    "ggml_backend_dev_memory": (
        None,
        [ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)],
    ),
    "ggml_backend_dev_init": (ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]),
    "ggml_backend_dev_buffer_type": (ctypes.c_void_p, [ctypes.c_void_p]),
    "ggml_backend_buft_name": (ctypes.c_char_p, [ctypes.c_void_p]),
    "ggml_backend_dev_backend_reg": (ctypes.c_void_p, [ctypes.c_void_p]),
    "ggml_backend_reg_count": (ctypes.c_size_t, []),
    "ggml_backend_reg_get": (ctypes.c_void_p, [ctypes.c_size_t]),
    "ggml_backend_reg_name": (ctypes.c_char_p, [ctypes.c_void_p]),
    "ggml_backend_reg_dev_count": (ctypes.c_size_t, [ctypes.c_void_p]),
    "ggml_backend_reg_dev_get": (ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t]),
    "ggml_backend_register": (None, [ctypes.c_void_p]),
}

# Only a build with RPC has these.
_RPC_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "ggml_backend_rpc_add_server": (ctypes.c_void_p, [ctypes.c_char_p]),
    "ggml_backend_rpc_start_server": (
        None,
        [
            ctypes.c_char_p,
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_size_t,
            ctypes.POINTER(ctypes.c_void_p),
        ],
    ),
}


class Log:
    """The last lines llama.cpp wrote, with their level (1 debug … 4 error)."""

    def __init__(self) -> None:
        self.lines: deque[tuple[int, str]] = deque(maxlen=4000)
        self._open = False

    def write(self, level: int, text: str) -> None:
        """Take one piece of output; a piece of level CONT, or after an unfinished line, continues it."""
        if self.lines and (level == _LOG_CONT or self._open):
            last_level, last_text = self.lines[-1]
            self.lines[-1] = (last_level, last_text + text.rstrip("\n"))
        else:
            self.lines.append((level, text.rstrip("\n")))
        self._open = not text.endswith("\n")

    def first_problem(self) -> str:
        """The first error line, else the last warning, else ""; the line that says why comes first."""
        errors = [text for level, text in self.lines if level == _LOG_ERROR]
        warnings = [text for level, text in self.lines if level == _LOG_WARN]
        return errors[0] if errors else warnings[-1] if warnings else ""

    def texts(self) -> tuple[str, ...]:
        """All kept lines."""
        return tuple(text for _, text in self.lines)


_log = Log()


@contextmanager
def captured_log() -> Iterator[Log]:
    """Start with an empty log; what llama.cpp says inside the block is in it."""
    library()
    _log.lines.clear()
    yield _log


@cache
def library() -> Any:
    """The module of low-level functions (`llama_*`), initialised once, its log caught."""
    try:
        lib = _import_bindings()
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(
            f"llama-cpp-python cannot be loaded: {error}", "install it with scripts/install.sh"
        ) from error
    _catch_log(lib)
    catch_aborts(lib)
    lib.llama_backend_init()
    return lib


def _import_bindings() -> Any:
    """llama_cpp.llama_cpp alone: its package imports the high-level classes too, with numpy and jinja2,
    which takes longer (70 ms) than all the rest. The package is left as if it had never been asked for."""
    if "llama_cpp" in sys.modules:
        return importlib.import_module("llama_cpp.llama_cpp")
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise ImportError("there is no package llama_cpp")
    _require_version(Path(spec.origin).read_text(encoding="utf-8"))
    sys.modules["llama_cpp"] = importlib.util.module_from_spec(spec)
    try:
        return importlib.import_module("llama_cpp.llama_cpp")
    finally:
        del sys.modules["llama_cpp"]


def _require_version(init_text: str) -> None:
    """EngineError unless a package's `__init__.py` says that it is the version whose structs we know."""
    found = re.search(r'(?m)^__version__ = "([^"]+)"', init_text)
    version = found[1] if found else "of an unknown version"
    if version != LLAMA_CPP_PYTHON:
        raise EngineError(
            f"llama-cpp-python {version} is installed, this moetool speaks {LLAMA_CPP_PYTHON}",
            f"pip install llama-cpp-python=={LLAMA_CPP_PYTHON}",
        )


def _catch_log(lib: Any) -> None:
    def on_line(level: int, text: bytes, _user_data: object) -> None:
        _log.write(level, text.decode("utf-8", "replace"))

    # llama.cpp keeps the bare pointer: the module must keep the object.
    lib.moetool_log_callback = lib.llama_log_callback(on_line)
    lib.llama_log_set(lib.moetool_log_callback, ctypes.c_void_p(0))


@cache
def ggml() -> Any:
    """libggml's functions with their types set."""
    return declare(_GGML_FUNCTIONS)


@cache
def rpc() -> Any:
    """`ggml()`, with the functions of llama.cpp's RPC engine; EngineError in a build without it."""
    if not library().llama_supports_rpc():
        raise EngineError(
            "This build of llama.cpp has no RPC, so it cannot use or lend devices over the network",
            "scripts/install.sh builds one with it (CMAKE_ARGS=-DGGML_RPC=ON)",
        )
    ggml()
    return declare(_RPC_FUNCTIONS)


def declare(functions: Mapping[str, tuple[Any, list[Any]]]) -> Any:
    """The library with the types of `functions` (name -> result, arguments) set."""
    handle = library()._lib
    for name, (result, arguments) in functions.items():
        function = getattr(handle, name)
        function.restype, function.argtypes = result, arguments
    return handle
