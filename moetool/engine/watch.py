"""The door to llama.cpp's graph callback: chosen nodes of a graph, read and changed as they are computed.

    watch = Watch(see, names=("ffn_moe_topk",))
    engine.use_watch(watch)
    engine.decode(tokens)               # `see(node)` is called with each ffn_moe_topk-LAYER, in their order

llama.cpp (ggml_backend_sched_compute_splits, ggml/src/ggml-backend.cpp) asks of every node whether anybody
wants to see it, computes up to one that somebody wants, and waits for it: a graph that is seen in n places is
computed in n parts, so see few nodes and read the rest from where they came (`Node.source`).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from moetool.engine.library import declare, library
from moetool.errors import EngineError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_MAX_DIMS, _MAX_SRC, _MAX_NAME, _MAX_OP_PARAMS = 4, 10, 64, 64  # ggml.h
_N_OPS = 101  # GGML_OP_COUNT


class _Tensor(ctypes.Structure):
    """struct ggml_tensor, ggml.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * _MAX_DIMS),
        ("nb", ctypes.c_size_t * _MAX_DIMS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * (_MAX_OP_PARAMS // 4)),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * _MAX_SRC),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * _MAX_NAME),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    ]


_OP, _NAME = _Tensor.op.offset, _Tensor.name.offset

_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "ggml_op_name": (ctypes.c_char_p, [ctypes.c_int]),
    "ggml_backend_buffer_is_host": (ctypes.c_bool, [ctypes.c_void_p]),
    "ggml_backend_tensor_get": (
        None,
        [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t],
    ),
    "ggml_backend_tensor_set": (
        None,
        [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t],
    ),
}

# enum ggml_type -> numpy's name of the same numbers; the others come in blocks.
_NUMPY_TYPES = {0: "f4", 1: "f2", 24: "i1", 25: "i2", 26: "i4", 27: "i8", 28: "f8"}


class Node:
    """A tensor of a graph that is being computed. Valid only inside the call that it was given to; its data
    are right for the node that is seen, for what it came from (`source`), and for weights. Farther back the
    memory may hold something else by now."""

    def __init__(self, address: int) -> None:
        self._address = address
        self._tensor = _Tensor.from_address(address)

    @property
    def name(self) -> str:
        """llama.cpp's name, most often with the layer: "ffn_moe_topk-3", "blk.3.ffn_up_exps.weight"."""
        return str(self._tensor.name, "utf-8", "replace")

    @property
    def op(self) -> str:
        """What computes it, by ggml's name: "MUL_MAT_ID", "NONE" for a leaf."""
        return _op_names()[int(self._tensor.op)]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Elements by dimension in numpy's order, the one that varies fastest last: ggml's `ne` reversed."""
        first, second, third, fourth = self._tensor.ne
        return fourth, third, second, first

    def source(self, number: int) -> Node | None:
        """What it is computed from: of a MUL_MAT or MUL_MAT_ID 0 is the weights, 1 the input, 2 the ids."""
        address = self._tensor.src[number]
        return Node(address) if address else None

    @property
    def is_number(self) -> bool:
        """Can `read` read it? Not so quantized types and bf16."""
        return self._tensor.type in _NUMPY_TYPES

    @property
    def is_on_host(self) -> bool:
        """Is its memory the CPU's own?"""
        whole = self._tensor if not self._tensor.view_src else _Tensor.from_address(self._tensor.view_src)
        return bool(_ggml().ggml_backend_buffer_is_host(whole.buffer))

    def read(self) -> npt.NDArray[Any]:
        """The values, as `shape`. On the CPU a view, right until the call ends; elsewhere a copy."""
        if self.is_on_host:
            return self._spread((ctypes.c_char * self._span_bytes()).from_address(self._tensor.data))
        return self._spread(self._fetch())

    def rows(self) -> npt.NDArray[Any]:
        """The values as a matrix of rows of the fastest dimension; a copy where they lie apart."""
        return self.read().reshape(-1, self.shape[-1])

    @property
    def n_rows(self) -> int:
        """Rows of the fastest dimension."""
        _, *others = self._tensor.ne
        return math.prod(others)

    def copy_bytes(self) -> bytes:
        """The values' bytes as they lie in memory: for values that lie side by side the fastest way."""
        if self.is_on_host:
            return ctypes.string_at(self._tensor.data, self._span_bytes())
        return bytes(self._fetch())

    def write(self, values: npt.ArrayLike) -> None:
        """Change all values; what is computed from them later takes the new ones. What lies between values
        that are apart stays as it is."""
        if self.is_on_host:
            self.read()[...] = values
            return
        data = self._fetch()
        self._spread(data)[...] = values
        _ggml().ggml_backend_tensor_set(self._address, data, 0, len(data))

    def _spread(self, data: Any) -> npt.NDArray[Any]:
        """The values that lie in `data`, which begins with the first of them: a view."""
        import numpy as np

        array: npt.NDArray[Any] = np.ndarray(
            self.shape, self._dtype(), data, strides=tuple(self._tensor.nb)[::-1]
        )
        return array

    def _fetch(self) -> Any:
        data = ctypes.create_string_buffer(self._span_bytes())
        _ggml().ggml_backend_tensor_get(self._address, data, 0, len(data))
        return data

    def _dtype(self) -> np.dtype[Any]:
        import numpy as np

        kind = _NUMPY_TYPES.get(self._tensor.type)
        if kind is None:
            raise EngineError(f"The values of {self.name} come in blocks and cannot be read one by one")
        return np.dtype(kind)

    def _span_bytes(self) -> int:
        """From the first value to the end of the last (ggml_nbytes)."""
        if not math.prod(self._tensor.ne):
            return 0
        steps = zip(self._tensor.ne, self._tensor.nb, strict=True)
        return self._dtype().itemsize + sum(int((n - 1) * step) for n, step in steps)


class Watch:
    """What is to be seen of graphs, for `Engine.use_watch`: nodes that have one of `names` in one of the
    layers ("ffn_moe_topk": ffn_moe_topk-0, ffn_moe_topk-1 …; not what ggml names after them, "… (reshaped)"),
    and nodes that one of the operations `ops` computes ("MUL_MAT_ID").

    `see` is called when such a node has been computed and before what needs it is. Whatever it raises comes
    out of the decoding, when the batch has been computed to its end without being seen any more (a graph
    that is left half-way would compute with what happens to lie in memory); the engine's sequence is then to
    be begun anew (`rewind(0)`).
    """

    def __init__(
        self, see: Callable[[Node], None], names: Iterable[str] = (), ops: Iterable[str] = ()
    ) -> None:
        self.see = see
        self._names = tuple(f"{name}-".encode() for name in names)
        # What is compared first, of nodes that come by the thousand.
        self._n_head = min((len(name) for name in self._names), default=0)
        self._heads = frozenset(name[: self._n_head] for name in self._names)
        self._head_at = (ctypes.c_char * self._n_head).from_address
        self._ops = frozenset(_op_names().index(op) for op in ops)
        self._error: BaseException | None = None
        # llama.cpp keeps the bare pointer: this object must keep the callback.
        self.callback = library().ggml_backend_sched_eval_callback(self._call)

    def raise_error(self) -> None:
        """Raise what `see` raised since the last time; called after every batch."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _call(self, address: int, is_asked: bool, _user_data: object) -> bool:
        """Is the node wanted? And, when it is computed: see it. Runs for each node of each graph.

        Never False for the latter, which would leave out the rest of this device's part of the graph and
        compute the next device's all the same.
        """
        if is_asked:
            if self._head_at(address + _NAME).raw in self._heads and self._is_named(address):
                return self._error is None
            return bool(self._ops) and self._is_done_so(address) and self._error is None
        try:
            self.see(Node(address))
        except BaseException as error:  # noqa: BLE001 (nothing may pass through C; it is raised after the batch)
            self._error = error
        return True

    def _is_named(self, address: int) -> bool:
        name = ctypes.string_at(address + _NAME)
        return name.startswith(self._names) and name[name.rindex(b"-") + 1 :].isdigit()

    def _is_done_so(self, address: int) -> bool:
        return ctypes.c_int.from_address(address + _OP).value in self._ops


@cache
def _ggml() -> Any:
    return declare(_FUNCTIONS)


@cache
def _op_names() -> tuple[str, ...]:
    """ggml's names of its operations, by number."""
    return tuple(_ggml().ggml_op_name(number).decode() for number in range(_N_OPS))
