"""Typed reading of `<arch>.<key>` metadata, scalar or one value per layer."""

from __future__ import annotations

from dataclasses import dataclass

from moetool.errors import HeaderError
from moetool.gguf import Header

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS, src/llama-hparams.h


@dataclass(frozen=True)
class Metadata:
    """The metadata of one architecture; a key is written without its `<arch>.`."""

    header: Header
    arch: str

    def number(self, key: str, default: int = 0) -> int:
        """The whole number under `key`, never below 0; `default` when it is absent or no number."""
        return max(0, self.header.get_int(f"{self.arch}.{key}", default))

    def has(self, key: str) -> bool:
        return f"{self.arch}.{key}" in self.header.metadata

    def array(self, key: str) -> tuple[int, ...] | None:
        """The values of a per-layer array as whole numbers; None when `key` is no array of numbers."""
        value = self.header.metadata.get(f"{self.arch}.{key}")
        if not isinstance(value, tuple) or not all(isinstance(item, int) for item in value):
            return None
        return tuple(max(0, int(item)) for item in value)

    def at(self, key: str, layer: int, default: int = 0) -> int:
        """The value for one layer: of an array its entry (0 behind its end), of a scalar the scalar."""
        array = self.array(key)
        if array is None:
            return self.number(key, default)
        return array[layer] if layer < len(array) else 0

    def largest(self, key: str) -> int:
        """The largest value over all layers."""
        array = self.array(key)
        return self.number(key) if array is None else max(array, default=0)


def make_metadata(header: Header) -> Metadata:
    """The architecture's metadata; HeaderError when the file names none, or has no sensible layer count."""
    if not header.arch:
        raise HeaderError(
            "The file names no architecture (general.architecture).",
            0,
            "It may not be a model: vocabulary only?",
        )
    metadata = Metadata(header, header.arch)
    if metadata.number("block_count") > MAX_LAYERS:
        raise HeaderError(f"{metadata.number('block_count')} layers, llama.cpp takes {MAX_LAYERS}.", 0)
    return metadata
