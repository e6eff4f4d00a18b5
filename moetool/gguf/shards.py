"""Models split over several files: the names of the shards, and one header for all of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from moetool.errors import HeaderError
from moetool.gguf.header import DAMAGED, Header

_SHARD_NAME = re.compile(r"^(?P<prefix>.*)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf$", re.DOTALL)


def shard_names(name: str) -> tuple[str, ...]:
    """The names of all shards of a model, given one's (`…-00001-of-00003.gguf`); itself if it is no shard."""
    match = _SHARD_NAME.match(name)
    if match is None:
        return (name,)
    prefix, count = match["prefix"], int(match["count"])
    if not 1 <= int(match["index"]) <= count:
        return (name,)
    return tuple(f"{prefix}-{index:05d}-of-{count:05d}.gguf" for index in range(1, count + 1))


def merge_shards(shards: Sequence[Header]) -> Header:
    """One header for a split model: the first shard's metadata, the tensor tables of all in order.

    Raises HeaderError when a shard is missing, in the wrong place, or holds what another holds already.
    """
    if len(shards) == 1 and (shards[0].split is None or shards[0].split.count <= 1):
        return shards[0]
    _check_shards(shards)
    tensors = tuple(replace(t, shard=number) for number, shard in enumerate(shards) for t in shard.tensors)
    if len({t.name for t in tensors}) != len(tensors):
        raise HeaderError("Two shards hold a tensor of the same name.", 0, DAMAGED)
    expected = shards[0].split.n_tensors if shards[0].split else 0
    if expected and len(tensors) != expected:
        raise HeaderError(f"The shards hold {len(tensors)} tensors, not {expected}.", 0, DAMAGED)
    return replace(
        shards[0],
        tensors=tensors,
        header_bytes=sum(shard.header_bytes for shard in shards),
        file_bytes=sum(shard.file_bytes for shard in shards),
    )


def _check_shards(shards: Sequence[Header]) -> None:
    for number, shard in enumerate(shards):
        if shard.split is None:
            raise HeaderError(f"File {number + 1} of {len(shards)} is not a shard of a split model.", 0)
        if shard.split.count != len(shards):
            message = f"The model has {shard.split.count} shards, {len(shards)} were given."
            raise HeaderError(message, 0, "Every shard is needed.")
        if shard.split.index != number:
            message = f"File {number + 1} of {len(shards)} says that it is shard {shard.split.index + 1}."
            raise HeaderError(message, 0, "Give the shards in order, all from one quant.")
