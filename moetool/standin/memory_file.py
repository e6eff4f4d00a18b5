"""A whole GGUF file in memory that no disk has seen: a header, and made-up weights behind it."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from moetool.errors import DoesNotFit
from moetool.gguf import Header, TensorInfo, hollow_file, read_header
from moetool.standin.weights import make_tiles, tensor_pieces

# Types that llama.cpp copies into a layout of its own on the CPU, where it can
# (ggml_repack_get_optimal_repack_type, ggml/src/ggml-cpu/repack.cpp).
_REPACKED = {
    "x86_64": {"Q2_K", "Q4_0", "Q4_K", "IQ4_NL", "MXFP4", "Q1_0"},
    "arm64": {"Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "MXFP4", "Q1_0"},
}


def repacked_bytes(tensors: Sequence[TensorInfo], arch: str) -> int:
    """The most that llama.cpp may copy of a model whose weights are in RAM; `arch` is the processor's."""
    types = _REPACKED.get(arch, set())
    return sum(t.n_bytes for t in tensors if t.type.name in types and t.name != "token_embd.weight")


class MemoryFile:
    """The file; `fill` makes it, `path` opens it, and the end of a `with` block, or of the process, is its
    end. It takes as much RAM as it is long."""

    def __init__(self, header: Header, n_vocab: int) -> None:
        head, self.size_bytes = hollow_file(header, n_vocab)
        self.header = read_header(io.BytesIO(head), self.size_bytes)
        self._head = head
        self._file = _open_nameless()

    @property
    def path(self) -> Path:
        """How this process opens it."""
        folder = Path("/proc/self/fd")
        return (folder if folder.exists() else Path("/dev/fd")) / str(self._file.fileno())

    def __enter__(self) -> MemoryFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def fill(self, on_bytes: Callable[[int], None] = lambda _: None, n_workers: int = 0) -> None:
        """Write the header and all tensors; `on_bytes` gets the size of what was written since the last call.
        The kernel, which does the work, lets threads do it side by side. DoesNotFit when memory is full."""
        tiles = make_tiles(self.header.tensors)

        def write(tensor: TensorInfo) -> int:
            at = self.header.data_offset + tensor.offset
            for piece in tensor_pieces(tensor, tiles):
                at += _write_all(self._file.fileno(), piece, at)
            return tensor.n_bytes

        try:
            os.ftruncate(self._file.fileno(), self.size_bytes)
            _write_all(self._file.fileno(), memoryview(self._head), 0)
            with ThreadPoolExecutor(n_workers or os.cpu_count() or 1) as pool:
                for n_bytes in pool.map(write, self.header.tensors):
                    on_bytes(n_bytes)
        except OSError as error:
            size = f"{self.size_bytes / (1 << 30):.1f} GiB"
            message = f"A model of {size} cannot be made up in memory: {error.strerror}"
            raise DoesNotFit(message, "a smaller quant") from error


def _write_all(fd: int, data: memoryview, at: int) -> int:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], at + done)
    return done


def _open_nameless() -> BinaryIO:
    """A file without a name, which is gone when it is closed, also when the process is killed."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("moetool-standin"), "w+b", buffering=0)  # noqa: PTH123, SIM115
    return tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
