"""What llama.cpp itself allocates: loads a file (by default with `no_alloc`) and reads the bytes per device.

    python scripts/llama_memory.py FILE < settings.jsonl > results.jsonl

One JSON object of settings a line: fields of moetool.settings.Settings, and "workers" (HOST:PORT of RPC
workers), "cpu_overrides" (patterns of tensors that stay on the CPU), "repack" (false: weights as they are),
"allocate" (true: load for real). One result a line: {"weights": {device: bytes}, "context": …, "compute": …,
"output_about": …, "state_about": …, "n_params": …}
or {"error": "…"}. A process of its own, because llama.cpp ends the process where it meets the unexpected.
Linux only: the exact figures come out of a libstdc++ std::map that llama_get_memory_breakdown returns.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

from llama_cpp import llama_cpp as api

_lib = api._lib
_lines: list[str] = []
# What a loaded model depends on; the other settings are of its contexts.
_OF_MODEL = (
    *("workers", "n_gpu_layers", "tensor_split", "cpu_overrides", "overrides", "load_mtp", "repack"),
)
_CPU_BUFFERS = ("CPU", "CPU_Mapped", "CPU_REPACK", "CPU_Lazy")


@api.llama_log_callback
def _on_log(level: int, text: bytes, _data: Any) -> None:
    _lines.append(text.decode(errors="replace"))


def _pointer(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(_lib, name)
    function.restype, function.argtypes = result, list(arguments)
    return function


_buffer_name = _pointer("ggml_backend_buft_name", ctypes.c_char_p, ctypes.c_void_p)
_breakdown = _pointer(
    "_Z26llama_get_memory_breakdownPK13llama_context", None, ctypes.c_void_p, ctypes.c_void_p
)


_cpu_buffer = _pointer("ggml_backend_cpu_buffer_type", ctypes.c_void_p)
_device_buffer = _pointer("ggml_backend_dev_buffer_type", ctypes.c_void_p, ctypes.c_void_p)


class _Override(ctypes.Structure):
    _fields_ = (("pattern", ctypes.c_char_p), ("buffer", ctypes.c_void_p))


def device_of(buffer: str, workers: list[str]) -> str:
    """A buffer's device: "CPU", or the worker's number in the order they were named."""
    if buffer in _CPU_BUFFERS or buffer.endswith("_Host"):
        return "CPU"
    name, _, address = buffer.rstrip("]").partition("[")
    return f"RPC{workers.index(address)}" if address in workers else name


def breakdown(context: Any, workers: list[str]) -> dict[str, tuple[int, int, int]]:
    """Device -> bytes of model, context and compute buffers; a red-black tree walked node by node."""
    head = ctypes.create_string_buffer(48)
    _breakdown(ctypes.addressof(head), context)
    found: dict[str, tuple[int, int, int]] = {}

    def word(address: int) -> int:
        return ctypes.c_uint64.from_address(address).value

    def walk(node: int) -> None:
        if not node:
            return
        walk(word(node + 16))
        device = device_of(_buffer_name(word(node + 32)).decode(), workers)
        sizes = (word(node + 40), word(node + 48), word(node + 56))
        old = found.get(device, (0, 0, 0))
        found[device] = (old[0] + sizes[0], old[1] + sizes[1], old[2] + sizes[2])
        walk(word(node + 24))

    walk(word(ctypes.addressof(head) + 16))
    return found


def add_worker(address: str) -> int:
    register = _pointer("ggml_backend_rpc_add_server", ctypes.c_void_p, ctypes.c_char_p)(address.encode())
    _pointer("ggml_backend_register", None, ctypes.c_void_p)(register)
    return int(
        _pointer("ggml_backend_reg_dev_get", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)(register, 0)
    )


def model_params(settings: dict[str, Any], workers: list[int], keep: list[Any]) -> Any:
    params = api.llama_model_default_params()
    params.no_alloc, params.load_mode = not settings.get("allocate", False), 0
    params.load_mtp = settings.get("load_mtp", False)
    # Without repacking, the CPU's weights are where a GPU may read them, as they are in a build with one.
    params.use_extra_bufts = settings.get("repack", True)
    params.n_gpu_layers = settings.get("n_gpu_layers", 0)
    devices = (ctypes.c_void_p * (len(workers) + 1))(*workers, None)
    keep.append(devices)
    params.devices = ctypes.addressof(devices)
    if split := settings.get("tensor_split"):
        shares = (ctypes.c_float * 128)(*split)
        keep.append(shares)
        params.tensor_split = shares
    overrides = [(pattern, "CPU") for pattern in settings.get("cpu_overrides", [])]
    overrides += settings.get("overrides", [])
    if overrides:
        rows = (_Override * (len(overrides) + 1))()
        for row, (pattern, device) in zip(rows, overrides, strict=False):
            row.pattern = pattern.encode()
            row.buffer = _cpu_buffer() if device == "CPU" else _device_buffer(workers[int(device[3:])])
        keep.append(rows)
        params.tensor_buft_overrides = ctypes.addressof(rows)
    return params


def context_params(settings: dict[str, Any]) -> Any:
    params = api.llama_context_default_params()
    types = {
        "f32": 0,
        "f16": 1,
        "q4_0": 2,
        "q4_1": 3,
        "q5_0": 6,
        "q5_1": 7,
        "q8_0": 8,
        "iq4_nl": 20,
        "bf16": 30,
    }
    params.n_ctx = settings.get("n_ctx", 4096)
    params.n_seq_max = settings.get("n_seq", 1)
    params.n_batch = settings.get("n_batch", 2048)
    params.n_ubatch = settings.get("n_ubatch", 512)
    params.n_outputs_max = settings.get("n_outputs_max", 1)
    params.type_k = types[settings.get("type_k", "f16")]
    params.type_v = types[settings.get("type_v", "f16")]
    params.flash_attn_type = 1 if settings.get("flash_attn", True) else 0
    params.kv_unified = settings.get("kv_unified", False)
    params.swa_full = settings.get("swa_full", False)
    return params


def logged_bytes(*marks: str) -> int:
    """Bytes of the buffers whose log lines contain one of `marks`, rounded there to 0.01 MiB."""
    total = 0.0
    for line in _lines:
        if any(mark in line for mark in marks):
            total += float(line.split("=")[1].split("MiB")[0])
    return round(total * (1 << 20))


def measure(model: Any, settings: dict[str, Any]) -> dict[str, Any]:
    _lines.clear()
    context = api.llama_init_from_model(model, context_params(settings))
    if not context:
        return {"error": "".join(_lines)[-300:]}
    found = breakdown(context, settings.get("workers", []))
    result = {
        "weights": {name: sizes[0] for name, sizes in found.items()},
        "context": {name: sizes[1] for name, sizes in found.items()},
        "compute": {name: sizes[2] for name, sizes in found.items()},
        "output_about": logged_bytes(" output buffer size ="),
        "state_about": logged_bytes(" RS buffer size =", " state buffer size ="),
        "n_params": api.llama_model_n_params(model),
        "n_ctx": api.llama_n_ctx(context),
    }
    api.llama_free(context)
    return result


def main() -> None:
    api.llama_log_set(_on_log, ctypes.c_void_p(0))
    api.llama_backend_init()
    workers: list[int] = []
    addresses: list[str] = []
    models: dict[str, Any] = {}
    keep: list[Any] = []
    for line in sys.stdin:
        settings = json.loads(line)
        for address in settings.get("workers", []):
            if address not in addresses:
                addresses.append(address)
                workers.append(add_worker(address))
        used = [workers[addresses.index(a)] for a in settings.get("workers", [])]
        key = json.dumps(
            {
                k: settings.get(k)
                for k in (
                    "workers",
                    "n_gpu_layers",
                    "tensor_split",
                    "cpu_overrides",
                    "load_mtp",
                    "repack",
                    "allocate",
                )
            }
        )
        if key not in models:
            _lines.clear()
            models[key] = api.llama_model_load_from_file(
                sys.argv[1].encode(), model_params(settings, used, keep)
            )
        model = models[key]
        result = measure(model, settings) if model else {"error": "".join(_lines)[-300:]}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
