"""How far away a worker's device is, and how fast its memory: timed with ggml's own operations.

Works with any worker, llama.cpp's own rpc-server included: nothing is asked that llama.cpp would not ask.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from moetool.engine.devices import buffer_type, device_pointer
from moetool.engine.library import declare, ggml
from moetool.machine import Device

MEASURED = "measured through RPC"

_F32, _Q4_0 = 0, 2  # enum ggml_type
_CONTEXT_BYTES = 1 << 20  # for the descriptions of a few tensors and a graph
_REPEATS = 7
# A transfer that takes longer than this is long enough to be told from a single message.
_LONG_S = 0.02
_SHORT_S = 1e-6
_LINK_BYTES = (1 << 20, 16 << 20)
# Beyond the caches of any CPU on the market but the largest; a graphics card needs more to be busy at all.
_READ_BYTES = (64 << 20, 256 << 20, 1 << 30)
_ROW = 4096
_UNLIMITED = (1 << 64) - 1
_CPU_ALIGNMENT = 32  # TENSOR_ALIGNMENT, ggml/src/ggml-impl.h

_pointer, _size = ctypes.c_void_p, ctypes.c_size_t


class _InitParams(ctypes.Structure):
    """struct ggml_init_params, ggml.h."""

    _fields_ = [("mem_size", _size), ("mem_buffer", _pointer), ("no_alloc", ctypes.c_bool)]


_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "ggml_init": (_pointer, [_InitParams]),
    "ggml_free": (None, [_pointer]),
    "ggml_new_tensor_2d": (_pointer, [_pointer, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]),
    "ggml_mul_mat": (_pointer, [_pointer, _pointer, _pointer]),
    "ggml_new_graph": (_pointer, [_pointer]),
    "ggml_build_forward_expand": (None, [_pointer, _pointer]),
    "ggml_nbytes": (_size, [_pointer]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_pointer, [_pointer, _pointer]),
    "ggml_backend_buffer_clear": (None, [_pointer, ctypes.c_uint8]),
    "ggml_backend_buffer_free": (None, [_pointer]),
    "ggml_backend_buft_get_alignment": (_size, [_pointer]),
    "ggml_backend_buft_get_max_size": (_size, [_pointer]),
    "ggml_backend_buft_get_alloc_size": (_size, [_pointer, _pointer]),
    "ggml_backend_free": (None, [_pointer]),
    "ggml_backend_graph_compute": (ctypes.c_int, [_pointer, _pointer]),
    "ggml_backend_tensor_set": (None, [_pointer, ctypes.c_char_p, _size, _size]),
    "ggml_backend_tensor_get": (None, [_pointer, ctypes.c_char_p, _size, _size]),
}


@dataclass(frozen=True)
class Link:
    """Seconds for a question and its answer, and bytes per second one way (the slower one)."""

    latency_s: float
    bytes_s: float


def is_remote(device: Device) -> bool:
    """Is it a worker's?"""
    return device.name.startswith("RPC")


def measure_worker(device: Device) -> Device:
    """The device with its link, the speed of its memory, and what computes there; some tenths of a second.

    A device too full to measure on keeps what is unknown unknown.
    """
    link = measure_link(device)
    if link is None:
        return device
    kind = guess_backend(device)
    description = f"{kind} at {device.description}" if kind else device.description
    found = replace(device, description=description, link_latency_s=link.latency_s, link_bytes_s=link.bytes_s)
    reading = measure_reading(device, link.latency_s)
    if reading is None:
        return found
    return replace(found, bandwidth_bytes_s=reading, bandwidth_source=MEASURED)


def measure_link(device: Device) -> Link | None:
    """Time reading 4 bytes, then writing and reading many; None when the device has no room for them."""
    ops = ggml_ops()
    with _context() as context:
        tensor = ops.ggml_new_tensor_2d(context, _F32, max(_LINK_BYTES) // 4, 1)
        with _allocated(context, device) as is_there:
            if not is_there:
                return None
            latency = statistics.median(_times(lambda: _get(tensor, 4)))
            speed = min(_rate(lambda n: _get(tensor, n), latency), _rate(lambda n: _set(tensor, n), latency))
    return Link(latency, speed)


def _rate(move: Callable[[int], None], latency_s: float) -> float:
    """Bytes per second of the shortest transfer that is long enough."""
    rate = 0.0
    for n_bytes in _LINK_BYTES:
        seconds = statistics.median(_times(lambda n=n_bytes: move(n), 3))  # type: ignore[misc]
        rate = n_bytes / max(seconds - latency_s, _SHORT_S)
        if seconds > _LONG_S:
            break
    return rate


def _get(tensor: int, n_bytes: int) -> None:
    ggml_ops().ggml_backend_tensor_get(tensor, _scratch(), 0, n_bytes)


def _set(tensor: int, n_bytes: int) -> None:
    """Writing is not answered (ggml_backend_rpc_buffer_set_tensor): reading tells that it has arrived."""
    ggml_ops().ggml_backend_tensor_set(tensor, _scratch(), 0, n_bytes)
    _get(tensor, 4)


@cache
def _scratch() -> Any:
    return ctypes.create_string_buffer(max(_LINK_BYTES))


def measure_reading(device: Device, latency_s: float) -> float | None:
    """Bytes per second of weights when one token is multiplied with them: a large F32 matrix times a vector
    (of all types it needs the least computing for a byte).

    The best of a few, less the way there and back; None when a quarter of what is free is too little.
    """
    best = None
    for n_bytes in (n for n in _READ_BYTES if n <= device.free_bytes // 4):
        seconds = _time_product(device, n_bytes // (4 * _ROW))
        if seconds is None:
            break
        best = n_bytes / max(seconds - latency_s, _SHORT_S)
        if seconds - latency_s > _LONG_S:
            break
    return best


def _time_product(device: Device, n_rows: int) -> float | None:
    """The shortest of a few products of a matrix of `n_rows` with a vector; None without room for it."""
    ops = ggml_ops()
    with ExitStack() as stack:
        context = stack.enter_context(_context())
        matrix = ops.ggml_new_tensor_2d(context, _F32, _ROW, n_rows)
        product = ops.ggml_mul_mat(context, matrix, ops.ggml_new_tensor_2d(context, _F32, _ROW, 1))
        graph = ops.ggml_new_graph(context)
        ops.ggml_build_forward_expand(graph, product)
        if not stack.enter_context(_allocated(context, device)):
            return None
        backend = ggml().ggml_backend_dev_init(device_pointer(device.name), None)
        stack.callback(ops.ggml_backend_free, backend)

        def compute() -> None:
            ops.ggml_backend_graph_compute(backend, graph)  # is not answered either
            _get(product, 4)

        return min(_times(compute))


def guess_backend(device: Device) -> str:
    """What computes behind a worker's device: "CUDA" (or ROCm, which is the same code), "CPU", or "".

    The protocol does not say. But only CUDA's buffers pad rows of quantized tensors to 512
    (ggml_backend_cuda_buffer_type_get_alloc_size), and the CPU's alignment and unlimited buffers go
    together in no other back end.
    """
    ops, buffers = ggml_ops(), buffer_type(device.name)
    with _context() as context:
        row = ops.ggml_new_tensor_2d(context, _Q4_0, 32, 1)
        if ops.ggml_backend_buft_get_alloc_size(buffers, row) > ops.ggml_nbytes(row):
            return "CUDA"
    alignment = ops.ggml_backend_buft_get_alignment(buffers)
    limit = ops.ggml_backend_buft_get_max_size(buffers)
    return "CPU" if (alignment, limit) == (_CPU_ALIGNMENT, _UNLIMITED) else ""


@cache
def ggml_ops() -> Any:
    """libggml's functions for tensors and graphs."""
    return declare(_FUNCTIONS)


@contextmanager
def _context() -> Iterator[int]:
    """A ggml_context for descriptions of tensors; their data comes with `_allocated`."""
    context = ggml_ops().ggml_init(_InitParams(_CONTEXT_BYTES, None, True))
    try:
        yield context
    finally:
        ggml_ops().ggml_free(context)


@contextmanager
def _allocated(context: int, device: Device) -> Iterator[bool]:
    """Memory on the device for all tensors of a context, written once; False where there is no room."""
    ops = ggml_ops()
    buffer = ops.ggml_backend_alloc_ctx_tensors_from_buft(context, buffer_type(device.name))
    if not buffer:
        yield False
        return
    try:
        ops.ggml_backend_buffer_clear(buffer, 1)
        yield True
    finally:
        ops.ggml_backend_buffer_free(buffer)


def _times(work: Callable[[], None], repeats: int = _REPEATS) -> list[float]:
    """Seconds that each of a few repeats took; the first, which warms up, is left out."""
    work()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return found
