"""llama.cpp's own quantizer: which types it would choose, and a file written with types that were chosen."""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from moetool.engine.library import Log, captured_log, library
from moetool.engine.parameters import Held
from moetool.errors import EngineError, Interrupted
from moetool.quants import FILE_TYPES, QuantType, quant_by_name

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# What each input of a tensor counts, [n_expert, n_in], by the tensor's name.
Importance: TypeAlias = "Mapping[str, npt.NDArray[np.float32]]"

# Rows of a tensor that are held in memory at once; the library's own default is 8 GiB.
_BUFFER_BYTES = 1 << 30
# Characters that mean something in the quantizer's patterns (std::regex, ECMAScript).
_SPECIAL = re.compile(r"([\\^$.|?*+()\[\]{}/])")
# One line a tensor: "[  7/  50] blk.0.attn_q.weight  - [ …], type = f32, size = …"; with a new type the dry
# run says "-> … MiB (q4_K)" at its end.
_LINE = re.compile(r"^\[\s*(\d+)/\s*(\d+)\] (.*?) +- \[.*?\], type = ")
_NEW_TYPE = re.compile(r" -> .*\((\w+)\)$")
_POLL_S = 0.1
# Metadata that is written beside the weights; llama.cpp keeps keys and texts of up to 127 bytes.
Note = str | int
_NOTE_BYTES = 127


@dataclass(frozen=True)
class Order:
    """What the quantizer is told: the file type (`general.file_type`, and what unnamed tensors follow), types
    by tensor name, importance, metadata to add, threads, and whether tensors that are quantized already may
    be quantized again."""

    file_type: str
    types: Mapping[str, QuantType] = field(default_factory=dict)
    importance: Importance = field(default_factory=dict)
    notes: Mapping[str, Note] = field(default_factory=dict)
    n_threads: int = 0
    requantize: bool = False


def stock_types(path: Path, order: Order) -> dict[str, QuantType]:
    """The types that llama.cpp would give to the tensors that it would change; nothing is written.

    Raises EngineError with llama.cpp's reason.
    """
    held = Held()
    params = _params(order, held)
    params.dry_run = True
    with captured_log() as log:
        status = library().llama_model_quantize(str(path).encode(), b"", ctypes.byref(params))
    if status:
        raise _refused(path, log)
    found = {}
    for text in log.texts():
        line, new = _LINE.match(text), _NEW_TYPE.search(text)
        quant = quant_by_name(new[1]) if new else None
        if line and quant:
            found[line[3]] = quant
    return found


def quantize_file(
    paths: Sequence[Path],
    target: Path,
    order: Order,
    on_tensor: Callable[[int, int], None] = lambda _done, _all: None,
) -> None:
    """Write the model of the shards `paths` to `target`, which should be a name that nobody looks at yet.

    llama.cpp cannot be stopped in this: it works in a thread of its own, and after Interrupted that thread
    goes on until the process ends. A full disk it may leave unsaid: what was written must be checked.
    """
    held = Held()
    params = _params(order, held)
    status: list[int] = []
    with captured_log() as log:

        def work() -> None:
            source, out = str(paths[0]).encode(), str(target).encode()
            status.append(library().llama_model_quantize(source, out, ctypes.byref(params)))

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            while worker.is_alive():
                worker.join(_POLL_S)
                _tell(log, on_tensor)
        except KeyboardInterrupt:
            raise Interrupted("Interrupted; nothing was written") from None
    if status != [0]:
        raise _refused(paths[0], log)


def _tell(log: Log, on_tensor: Callable[[int, int], None]) -> None:
    """How far it is, by the last line; the other thread writes lines meanwhile."""
    found = _LINE.match(log.lines[-1][1]) if log.lines else None
    if found:
        on_tensor(int(found[1]) - 1, int(found[2]))


def _refused(path: Path, log: Log) -> EngineError:
    reasons = [text for level, text in log.lines if "failed to quantize" in text]
    reason = reasons[0].rpartition("failed to quantize: ")[2] if reasons else log.first_problem()
    if "iostream error" in reason:  # all that C++ says of a disk that is full
        return EngineError("llama.cpp could not write its file", "is the disk full, or has it failed?")
    return EngineError(f"llama.cpp cannot quantize {path.name}: {reason.strip() or 'no reason given'}")


def _params(order: Order, held: Held) -> Any:
    lib = library()
    params = held.keep(lib.llama_model_quantize_default_params())
    params.ftype = next(number for number, name in FILE_TYPES.items() if name == order.file_type)
    params.nthread = order.n_threads
    params.allow_requantize = order.requantize
    params.max_buf_size = _BUFFER_BYTES
    if order.types:
        params.tt_overrides = _type_rows(order.types, held)
    if order.importance:
        params.imatrix = _importance_rows(order.importance, held)
    if order.notes:
        params.kv_overrides = _note_rows(order.notes, held)
    return params


def _type_rows(types: Mapping[str, QuantType], held: Held) -> Any:
    # Patterns, of which the first that is found anywhere in a name counts: each is anchored and escaped.
    rows = held.keep((library().llama_model_tensor_override * (len(types) + 1))())
    for row, (name, quant) in zip(rows, types.items(), strict=False):
        row.pattern = held.keep(b"^" + _SPECIAL.sub(r"\\\1", name).encode() + b"$")
        row.type = quant.id
    return rows


def _importance_rows(importance: Importance, held: Held) -> Any:
    rows = held.keep((library().llama_model_imatrix_data * (len(importance) + 1))())
    for row, (name, values) in zip(rows, importance.items(), strict=False):
        flat = held.keep(values.ravel())
        row.name = held.keep(name.encode())
        row.data = ctypes.cast(flat.ctypes.data, ctypes.POINTER(ctypes.c_float))
        row.size = flat.size
    return rows


def _note_rows(notes: Mapping[str, Note], held: Held) -> Any:
    lib = library()
    rows = held.keep((lib.llama_model_kv_override * (len(notes) + 1))())  # the last, without a key, ends it
    for row, (key, value) in zip(rows, notes.items(), strict=False):
        row.key = key.encode()
        if isinstance(value, int):
            row.tag, row.value.val_i64 = lib.LLAMA_KV_OVERRIDE_TYPE_INT, value
        else:
            row.tag, row.value.val_str = lib.LLAMA_KV_OVERRIDE_TYPE_STR, short_note(value).encode()
    return rows


def short_note(text: str) -> str:
    """A text as far as llama.cpp keeps it in metadata that it is told to add."""
    return text.encode()[:_NOTE_BYTES].decode(errors="ignore")
