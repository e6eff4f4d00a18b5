"""What quantization does to weights: numbers as a type would store them, in a file or in a loaded model."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Any

from moetool.engine.library import declare
from moetool.engine.model import Engine
from moetool.errors import EngineError
from moetool.quants import QuantType, row_bytes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Weights = npt.NDArray[np.float32]

# llama_model::get_tensor(char const *) const, as C++ names it (Itanium ABI: Linux and macOS).
_GET_TENSOR = "_ZNK11llama_model10get_tensorEPKc"
_TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _TypeTraits(ctypes.Structure):
    """struct ggml_type_traits, ggml.h, as far as it is read here."""

    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", _TO_FLOAT),
    ]


_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_size_t
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "ggml_quantize_chunk": (_SIZE, [ctypes.c_int, _POINTER, _POINTER, *[ctypes.c_int64] * 3, _POINTER]),
    "ggml_get_type_traits": (ctypes.POINTER(_TypeTraits), [ctypes.c_int]),
    "ggml_backend_tensor_set": (None, [_POINTER, _POINTER, _SIZE, _SIZE]),
    "ggml_backend_tensor_get": (None, [_POINTER, _POINTER, _SIZE, _SIZE]),
}


@cache
def _functions() -> Any:
    return declare(_FUNCTIONS)


def encode(weights: Weights, quant: QuantType, importance: Weights | None = None) -> npt.NDArray[np.uint8]:
    """Rows of weights as blocks of a type, [n_rows, bytes of a row], as llama.cpp's quantizer makes them;
    `importance` is what each column counts."""
    import numpy as np

    rows = np.ascontiguousarray(weights, np.float32).reshape(-1, weights.shape[-1])
    n_rows, n_columns = rows.shape
    blocks = np.empty((n_rows, row_bytes(quant, n_columns)), np.uint8)
    if quant.name == "F32":
        return rows.view(np.uint8)
    counts = None if importance is None else np.ascontiguousarray(importance, np.float32)
    _functions().ggml_quantize_chunk(
        quant.id,
        rows.ctypes.data,
        blocks.ctypes.data,
        0,
        n_rows,
        n_columns,
        None if counts is None else counts.ctypes.data,
    )
    return blocks


def decode(blocks: npt.NDArray[np.uint8], quant: QuantType) -> Weights:
    """Blocks of a type, [n_rows, bytes of a row], as weights, [n_rows, n_columns]."""
    import numpy as np

    n_rows, n_bytes = blocks.shape
    if quant.name == "F32":
        weights: Weights = blocks.copy().view(np.float32)
        return weights
    weights = np.empty((n_rows, n_bytes // quant.block_bytes * quant.block_size), np.float32)
    source = np.ascontiguousarray(blocks)
    to_float = _functions().ggml_get_type_traits(quant.id).contents.to_float
    to_float(source.ctypes.data, weights.ctypes.data, weights.size)
    return weights


class LoadedWeights:
    """The weights of a loaded model, to be rounded in place and put back. The model must have been loaded
    without mmap and repacking: pages of a file are shared and read-only, repacked weights have another
    layout."""

    def __init__(self, engine: Engine) -> None:
        if engine.settings.use_mmap or engine.settings.repack:
            raise ValueError("the weights of this model cannot be written to")
        self._model = engine.model
        try:
            library = declare({_GET_TENSOR: (_POINTER, [_POINTER, ctypes.c_char_p])})
            self._get = getattr(library, _GET_TENSOR)
        except AttributeError as error:
            raise EngineError("This build of llama.cpp does not tell where its weights are") from error

    def read(self, name: str, n_bytes: int) -> npt.NDArray[np.uint8]:
        """A tensor's bytes."""
        import numpy as np

        data = np.empty(n_bytes, np.uint8)
        _functions().ggml_backend_tensor_get(self._tensor(name), data.ctypes.data, 0, n_bytes)
        return data

    def write(self, name: str, data: npt.NDArray[np.uint8]) -> None:
        """Put other bytes there, of the same type and shape."""
        import numpy as np

        data = np.ascontiguousarray(data)
        _functions().ggml_backend_tensor_set(self._tensor(name), data.ctypes.data, 0, data.nbytes)

    def _tensor(self, name: str) -> Any:
        pointer = self._get(self._model, name.encode())
        if not pointer:
            raise EngineError(f"llama.cpp has no tensor {name!r} loaded")
        return pointer
