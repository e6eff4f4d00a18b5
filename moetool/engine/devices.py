"""Devices and backends as this build of llama.cpp sees them: the truth about free VRAM."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from moetool.engine.library import LLAMA_CPP_PYTHON, ggml, library
from moetool.errors import UsageError
from moetool.machine import Device

# enum ggml_backend_dev_type, ggml/include/ggml-backend.h
_KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel", 4: "meta"}


@dataclass(frozen=True)
class BuildInfo:
    """What this build of llama.cpp can do."""

    llama_cpp_python: str
    backends: tuple[str, ...]
    system_info: str
    supports_gpu_offload: bool
    supports_rpc: bool
    supports_mmap: bool
    n_devices: int


def read_build() -> BuildInfo:
    """Ask the library what was compiled into it."""
    lib, handle = library(), ggml()
    names = [
        handle.ggml_backend_reg_name(handle.ggml_backend_reg_get(i))
        for i in range(handle.ggml_backend_reg_count())
    ]
    return BuildInfo(
        llama_cpp_python=LLAMA_CPP_PYTHON,
        backends=tuple(name.decode() for name in names),
        system_info=lib.llama_print_system_info().decode().strip(),
        supports_gpu_offload=bool(lib.llama_supports_gpu_offload()),
        supports_rpc=bool(lib.llama_supports_rpc()),
        supports_mmap=bool(lib.llama_supports_mmap()),
        n_devices=handle.ggml_backend_dev_count(),
    )


def list_devices() -> tuple[Device, ...]:
    """Every device with its memory now, in llama.cpp's order (the order `tensor_split` follows)."""
    handle = ggml()
    pointers = [handle.ggml_backend_dev_get(i) for i in range(handle.ggml_backend_dev_count())]
    return tuple(_describe(handle, pointer) for pointer in pointers)


def _describe(handle: Any, pointer: int) -> Device:
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    handle.ggml_backend_dev_memory(pointer, ctypes.byref(free), ctypes.byref(total))
    return Device(
        name=handle.ggml_backend_dev_name(pointer).decode(),
        description=handle.ggml_backend_dev_description(pointer).decode("utf-8", "replace"),
        kind=_KINDS.get(handle.ggml_backend_dev_type(pointer), "accel"),
        total_bytes=total.value,
        free_bytes=free.value,
    )


def device_pointer(name: str) -> int:
    """The `ggml_backend_dev_t` of a device, by the name `list_devices` gives."""
    pointer = ggml().ggml_backend_dev_by_name(name.encode())
    if not pointer:
        known = ", ".join(device.name for device in list_devices())
        raise UsageError(f"llama.cpp sees no device {name!r}", f"it sees: {known}")
    return int(pointer)


def buffer_type(name: str) -> int:
    """The default `ggml_backend_buffer_type_t` of a device."""
    return int(ggml().ggml_backend_dev_buffer_type(device_pointer(name)))


def device_of_buffer(buffer: str) -> str:
    """The device of a buffer in llama.cpp's log; pinned host memory ("CUDA_Host") is the CPU's.

    A worker's buffers are named after its address ("RPC0[host:port]"), not after the device.
    """
    if buffer.startswith("CPU") or buffer.endswith("_Host"):
        return "CPU"
    handle = ggml()
    for i in range(handle.ggml_backend_dev_count()):
        pointer = handle.ggml_backend_dev_get(i)
        if handle.ggml_backend_buft_name(handle.ggml_backend_dev_buffer_type(pointer)).decode() == buffer:
            return str(handle.ggml_backend_dev_name(pointer).decode())
    return buffer
