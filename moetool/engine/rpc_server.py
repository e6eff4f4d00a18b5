"""Lending this machine's devices: llama.cpp's RPC server, which runs until the process ends.

It prints to the C library's stdout, never returns, and reports all RAM as free: all three are mended here.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from moetool.engine.devices import device_pointer
from moetool.engine.library import ggml, rpc
from moetool.engine.rpc import Address
from moetool.errors import EngineError, UsageError
from moetool.machine import Device

# Free and total bytes of a device, by its name; given what llama.cpp says of them.
ReadMemory = Callable[[str, tuple[int, int]], tuple[int, int]]

_GetMemory = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)
)
# get_memory is the third function of struct ggml_backend_device_i, with which struct ggml_backend_device
# begins (ggml/src/ggml-backend-impl.h).
_GET_MEMORY_OFFSET = 2 * ctypes.sizeof(ctypes.c_void_p)

_CLIENT_LINES = {"Accepted client connection": True, "Client connection closed": False}
_kept: list[Any] = []


@dataclass(frozen=True)
class Lending:
    """What is lent, where, and to whom: `is_open` to everybody who reaches `address`, else to this machine's
    own users. `hostname` is this machine's name, for the commands to type on the other side."""

    address: Address
    devices: tuple[Device, ...]
    n_threads: int
    is_open: bool
    hostname: str


def reserve_port(host: str, port: int) -> Address:
    """An address that can be listened at, `port` 0 for any; UsageError with the reason for one that cannot.

    llama.cpp listens itself, and says nothing when it cannot: so it is tried beforehand.
    """
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as llama.cpp does
        try:
            stream.bind((host, port))
            stream.listen(1)
            return Address(host, stream.getsockname()[1])
        except PermissionError as error:
            raise UsageError(
                f"Port {port} needs special rights", "take one above 1023: --port 50052"
            ) from error
        except OSError as error:
            raise UsageError(
                f"Cannot listen at {host}:{port}: {error.strerror or error}",
                "take another port (--port 0 finds a free one), or an address of this machine with --host",
            ) from error


def serve(
    address: Address,
    devices: Sequence[str],
    n_threads: int,
    read_memory: ReadMemory,
    on_client: Callable[[bool], None],
) -> threading.Thread:
    """Start lending `devices` in a thread that ends with the process (or with an error of llama.cpp's).

    `read_memory` is asked whenever a client asks; `on_client` is told when one comes (True) and goes (False).
    File descriptor 1 is llama.cpp's from here on: what is to be said there must have been said.
    """
    handle = rpc()
    pointers = [device_pointer(name) for name in devices]
    for name, pointer in zip(devices, pointers, strict=True):
        _report_memory(name, pointer, read_memory)
    _watch_stdout(on_client)
    array = (ctypes.c_void_p * len(pointers))(*pointers)
    _kept.append(array)
    endpoint = str(address).encode()
    thread = threading.Thread(
        target=lambda: handle.ggml_backend_rpc_start_server(endpoint, None, n_threads, len(array), array),
        daemon=True,
    )
    thread.start()
    return thread


def _report_memory(name: str, pointer: int, read_memory: ReadMemory) -> None:
    """Let a device answer with `read_memory` when it is asked for its memory."""
    slot = ctypes.c_void_p.from_address(pointer + _GET_MEMORY_OFFSET)
    original = _GetMemory(slot.value or 0)
    if _call(original, pointer) != _call(ggml().ggml_backend_dev_memory, pointer):
        raise EngineError("This build of llama.cpp lays out its devices in an unknown way")

    def answer(device: int, free: Any, total: Any) -> None:
        free[0], total[0] = read_memory(name, _call(original, device))

    replacement = _GetMemory(answer)
    _kept.append(replacement)
    slot.value = ctypes.cast(replacement, ctypes.c_void_p).value


def _call(get_memory: Any, pointer: int) -> tuple[int, int]:
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    get_memory(pointer, ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


def _watch_stdout(on_client: Callable[[bool], None]) -> None:
    """Give llama.cpp a pipe for its stdout, of which only the lines about clients are of interest."""
    sys.stdout.flush()
    outlet, inlet = os.pipe()
    os.dup2(inlet, 1)
    os.close(inlet)

    def read() -> None:
        with os.fdopen(outlet, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                is_coming = _CLIENT_LINES.get(line.strip())
                if is_coming is not None:
                    on_client(is_coming)

    threading.Thread(target=read, daemon=True).start()
