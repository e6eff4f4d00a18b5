"""Models that are too large to be made up whole: which parts of them stand for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from moetool.anatomy import Anatomy, Layer, layer_of
from moetool.gguf import Header, Value


def first_layers(header: Header, n_layers: int) -> Header:
    """The header of a model that ends after its first `n_layers` layers: they keep their numbers, since many
    architectures tell by these which layers attend, slide or have experts. Next-token layers are left out."""
    n_all = header.get_int(f"{header.arch}.block_count")
    tensors = tuple(t for t in header.tensors if (layer_of(t.name) or 0) < n_layers)
    metadata = {
        key: _shortened(header, key, value, n_all, n_layers) for key, value in header.metadata.items()
    }
    return replace(header, metadata=MappingProxyType(metadata), tensors=tensors, split=None)


def _shortened(header: Header, key: str, value: Value, n_all: int, n_layers: int) -> Value:
    name = key.removeprefix(f"{header.arch}.")
    if name == key:
        return value
    if name == "block_count":
        return n_layers
    if name == "nextn_predict_layers":
        return 0
    if name == "attention.shared_kv_layers" and isinstance(value, int):
        return value * n_layers // n_all
    if name == "leading_dense_block_count" and isinstance(value, int):
        return min(value, n_layers)
    # One value a layer; arrays of something else are never as long as a model is deep.
    return value[:n_layers] if isinstance(value, tuple) and len(value) == n_all else value


@dataclass(frozen=True)
class Samples:
    """Two parts of a model: how many of its first layers each has."""

    small: int
    large: int


def choose_samples(anatomy: Anatomy, most_bytes: int) -> Samples | None:
    """Parts of at most so many bytes, made of whole periods of the layers' pattern behind what stands once at
    the beginning; None when they would not differ. The further apart, the less their noise counts."""
    layers = [layer for layer in anatomy.layers if not layer.mtp]
    start, period = _pattern([_kind(layer) for layer in layers])
    inside = anatomy.weights_bytes - sum(sum(layer.bytes_by_role.values()) for layer in anatomy.layers)
    n_large, n_bytes = 0, inside
    for number, layer in enumerate(layers, 1):
        n_bytes += sum(layer.bytes_by_role.values())
        if n_bytes > most_bytes:
            break
        n_large = number
    n_periods = (min(n_large, len(layers) - 1) - start) // period
    n_small = n_periods // 4 or (0 if start else 1)
    if n_periods <= n_small:
        return None
    return Samples(start + n_small * period, start + n_periods * period)


def _kind(layer: Layer) -> tuple[object, ...]:
    """What makes layers alike, the types of their weights apart: those are counted in bytes."""
    return layer.mixer, layer.ffn, layer.window, layer.n_head_kv, layer.n_expert_used


def _pattern(kinds: Sequence[tuple[object, ...]]) -> tuple[int, int]:
    """Where a pattern begins that goes on to the end, and how long it is: the shortest of those that begin
    soonest. Without one, all is the beginning but for the last layer."""
    n = len(kinds)
    for start in range(n):
        for period in range(1, (n - start) // 2 + 1):
            if all(kinds[i] == kinds[i + period] for i in range(start, n - period)):
                return start, period
        if start > n // 2:
            break
    return 0, 1
