"""Settings -> the structs that llama.cpp reads. They hold bare pointers: `Held` keeps their owners alive."""

from __future__ import annotations

import ctypes
from typing import Any

from moetool.engine.devices import buffer_type, device_pointer
from moetool.engine.library import library
from moetool.errors import UsageError
from moetool.quants import quant_by_name
from moetool.settings import Settings, TensorOverride

LOAD_MODE_AUTO, LOAD_MODE_NONE = -1, 0


class _BufferOverride(ctypes.Structure):
    """struct llama_model_tensor_buft_override, llama.h; the Python binding leaves it out."""

    _fields_ = [("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p)]


class Held:
    """What C structs point to, alive as long as this object is."""

    def __init__(self) -> None:
        self._objects: list[Any] = []

    def keep(self, thing: Any) -> Any:
        self._objects.append(thing)
        return thing


def model_params(settings: Settings, arch: str, held: Held, *, allocate: bool = True) -> Any:
    """llama_model_params for `settings`; with `allocate` False the model is only measured, not loaded."""
    params = library().llama_model_default_params()
    params.devices = ctypes.cast(_device_list(settings.devices, held), ctypes.c_void_p)
    params.n_gpu_layers = settings.n_gpu_layers
    params.load_mtp = settings.load_mtp
    params.use_extra_bufts = settings.repack
    # no_alloc with an mmap mode aborts the whole process (LOAD_MODE_AUTO included).
    params.load_mode = LOAD_MODE_AUTO if settings.use_mmap and allocate else LOAD_MODE_NONE
    params.no_alloc = not allocate
    if settings.tensor_split:
        params.tensor_split = _tensor_split(settings.tensor_split, held)
    if settings.tensor_overrides:
        overrides = _buffer_overrides(settings.tensor_overrides, held)
        params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
    if settings.experts is not None:
        params.kv_overrides = _expert_override(arch, settings.experts, held)
    return params


def _device_list(names: tuple[str, ...], held: Held) -> Any:
    # NULL-terminated; an empty list (not a null pointer) keeps llama.cpp from taking every device it sees.
    pointers = [device_pointer(name) for name in names]
    return held.keep((ctypes.c_void_p * (len(pointers) + 1))(*pointers, None))


def _tensor_split(shares: tuple[float, ...], held: Held) -> Any:
    array = (ctypes.c_float * library().llama_max_devices())(*shares)
    return held.keep(array)


def _buffer_overrides(overrides: tuple[TensorOverride, ...], held: Held) -> Any:
    rows = [_BufferOverride(held.keep(item.pattern.encode()), buffer_type(item.device)) for item in overrides]
    return held.keep((_BufferOverride * (len(rows) + 1))(*rows, _BufferOverride(None, None)))


def _expert_override(arch: str, experts: int, held: Held) -> Any:
    lib = library()
    rows = (lib.llama_model_kv_override * 2)()  # the second, with an empty key, ends the list
    rows[0].tag = lib.LLAMA_KV_OVERRIDE_TYPE_INT
    rows[0].key = f"{arch}.expert_used_count".encode()
    rows[0].value.val_i64 = experts
    return held.keep(rows)


def context_params(settings: Settings) -> Any:
    """llama_context_params for `settings`; n_ctx must be given (0 would mean the model's own)."""
    params = library().llama_context_default_params()
    params.n_ctx = settings.n_ctx
    params.n_seq_max = settings.n_seq
    params.n_batch = settings.n_batch
    params.n_ubatch = min(settings.n_ubatch, settings.n_batch)
    params.n_outputs_max = settings.n_outputs_max
    if settings.n_threads:
        params.n_threads = settings.n_threads
    if settings.n_threads_batch or settings.n_threads:
        params.n_threads_batch = settings.n_threads_batch or settings.n_threads
    params.flash_attn_type = int(settings.flash_attn)
    params.type_k = _cache_type(settings.type_k)
    params.type_v = _cache_type(settings.type_v)
    params.kv_unified = settings.kv_unified
    params.swa_full = settings.swa_full
    params.no_perf = True
    return params


def _cache_type(name: str) -> int:
    quant = quant_by_name(name)
    if quant is None:
        raise UsageError(
            f"{name!r} is not a KV cache type", "use f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0 or iq4_nl"
        )
    return quant.id
