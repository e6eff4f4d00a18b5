"""Anatomy + settings + placement -> `Work`: which device reads what for each token."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from moetool.anatomy import Anatomy, Layer, RoledTensor
from moetool.quants import quant_by_name, row_bytes
from moetool.settings import Settings
from moetool.speed.work import Cache, DeviceWork, Read, Work

# Roles that no text token multiplies with: looked up, for drafting, for images.
_UNUSED = frozenset({"mtp", "vision"})
_FEED_FORWARD = frozenset({"router", "routed experts", "shared experts", "dense ffn"})
_Kind = tuple[str, str, bool, bool]  # device, type, routed, last_only
_CPU = "CPU"  # llama.cpp's name of the device whose memory is the RAM
_STATE_VALUE_BYTES = 4  # states are F32 whatever the type of the cache


@dataclass(frozen=True)
class Where:
    """Device of each tensor by name, of each layer (its cache, its graph), and of the output.

    A tied embedding lies, here, where the output is computed (as `memory.place_tensors` has it).
    """

    tensors: Mapping[str, str]
    layers: tuple[str, ...]
    output: str


def make_work(anatomy: Anatomy, settings: Settings, where: Where) -> Work:
    """The work of one token of one sequence."""
    reads = _reads_by_device(anatomy, settings, where)
    caches = _caches_by_device(anatomy, settings, where)
    trunk = [layer for layer in anatomy.layers if not layer.mtp]
    links = _count_links(anatomy, where)
    used = {*reads, *caches, *where.layers[: len(trunk)]}
    order = dict.fromkeys((*settings.devices, *sorted(used - {_CPU}), _CPU))  # llama.cpp's, the CPU last
    devices = [name for name in order if name in used]
    shares = tuple(
        replace(
            _device_work(device, trunk, where, reads.get(device, ()), caches.get(device, ())),
            **links.get(device, {}),
        )
        for device in devices
    )
    return Work(shares, *_count_changes(anatomy, where))


def _device_work(
    device: str, trunk: Iterable[Layer], where: Where, reads: tuple[Read, ...], caches: tuple[Cache, ...]
) -> DeviceWork:
    here = [layer for layer in trunk if where.layers[layer.index] == device]
    return DeviceWork(
        device=device,
        reads=reads,
        caches=caches,
        state_bytes=_STATE_VALUE_BYTES * sum(layer.state_values for layer in here),
        n_layers=len(here),
        n_moe=sum(layer.ffn == "moe" for layer in here),
        n_recurrent=sum(layer.mixer in ("recurrent", "parallel") for layer in here),
    )


# --- weights ------------------------------------------------------------------------------------------------


def _reads_by_device(anatomy: Anatomy, settings: Settings, where: Where) -> dict[str, tuple[Read, ...]]:
    """Reads of one type and kind on one device, added up."""
    n_weights: Counter[_Kind] = Counter()
    used_bytes: Counter[_Kind] = Counter()
    held_bytes: Counter[_Kind] = Counter()
    shares = _used_shares(anatomy, settings)
    last = max((layer.index for layer in anatomy.layers if not layer.mtp), default=-1)
    for tensor in _multiplied(anatomy):
        routed = tensor.role == "routed experts"
        share = shares.get(tensor.layer, 0.0) if routed else 1.0
        last_only = tensor.role in _FEED_FORWARD if tensor.layer == last else tensor.layer is None
        key = (where.tensors[tensor.info.name], tensor.info.type.name, routed, last_only)
        n_weights[key] += tensor.info.n_elements * share  # type: ignore[assignment]
        used_bytes[key] += tensor.info.n_bytes * share  # type: ignore[assignment]
        held_bytes[key] += tensor.info.n_bytes
    found = defaultdict(list)
    for key in sorted(held_bytes):
        device, quant, routed, last_only = key
        found[device].append(Read(quant, n_weights[key], used_bytes[key], held_bytes[key], routed, last_only))
    return {device: tuple(reads) for device, reads in found.items()}


def _multiplied(anatomy: Anatomy) -> Iterator[RoledTensor]:
    """Tensors that take part in a matrix product (or are read whole) for each token."""
    for tensor in anatomy.tensors:
        lookup = tensor.role == "embedding" and tensor.layer is None
        tied = anatomy.tied and tensor.info.name == "token_embd.weight"
        if tensor.role not in _UNUSED and (tied or not lookup):
            yield tensor


def _used_shares(anatomy: Anatomy, settings: Settings) -> dict[int | None, float]:
    """The part of each layer's routed experts that one token uses."""
    n_expert = max(1, anatomy.n_expert)
    return {
        layer.index: min(n_expert, settings.experts or layer.n_expert_used) / n_expert
        for layer in anatomy.layers
        if layer.ffn == "moe"
    }


# --- caches -------------------------------------------------------------------------------------------------


def _caches_by_device(anatomy: Anatomy, settings: Settings, where: Where) -> dict[str, tuple[Cache, ...]]:
    """Caches with the same window on one device, added up."""
    cell_bytes: Counter[tuple[str, int]] = Counter()
    flops: Counter[tuple[str, int]] = Counter()
    for layer in anatomy.layers:
        for row in layer.cache if not layer.mtp else ():
            key = (where.layers[layer.index], row.window)
            n_bytes = _row_bytes(settings.type_k, row.k) + _row_bytes(settings.type_v, row.v)
            cell_bytes[key] += n_bytes / max(1, row.ratio)  # type: ignore[assignment]
            # Queries times keys, then weights times values: two products of two operations each.
            flops[key] += 4 * layer.n_head * layer.head_k / max(1, row.ratio)  # type: ignore[assignment]
    found = defaultdict(list)
    for device, window in sorted(cell_bytes):
        key = (device, window)
        found[device].append(Cache(cell_bytes[key], window, flops[key]))
    return {device: tuple(caches) for device, caches in found.items()}


def _row_bytes(type_name: str, n_values: int) -> int:
    quant = quant_by_name(type_name)
    return row_bytes(quant, n_values) if quant else 2 * n_values


# --- borders ------------------------------------------------------------------------------------------------


def _count_changes(anatomy: Anatomy, where: Where) -> tuple[int, int]:
    """Hops to and from RAM, and borders between offload devices, on a token's way from the embedding on."""
    path = list(_path(anatomy, where))
    changes = [(here, there) for here, there in zip(path, path[1:], strict=False) if here != there]
    n_hops = sum(_CPU in change for change in changes)
    return n_hops, len(changes) - n_hops


def _path(anatomy: Anatomy, where: Where) -> Iterator[str]:
    yield _CPU
    experts = {
        tensor.layer: where.tensors[tensor.info.name]
        for tensor in anatomy.tensors
        if tensor.role == "routed experts"
    }
    for layer in anatomy.layers:
        if not layer.mtp:
            yield where.layers[layer.index]
            yield experts.get(layer.index, where.layers[layer.index])
    yield where.output


# --- links --------------------------------------------------------------------------------------------------

# What is sent to a worker when a layer's graph is described anew, counted on a loopback connection
# (qwen3moe): 41 KB for each piece of a graph, or some 170 tensors of 296 bytes (rpc_tensor).
GRAPH_BYTES = 41_000
ACTIVATION_BYTES = 4  # activations and logits travel as F32


def _count_links(anatomy: Anatomy, where: Where) -> dict[str, dict[str, Any]]:
    """Device -> waits and bytes on the way to it and from it (the fields of `DeviceWork`).

    Activations come in and are fetched from where they leave; to experts elsewhere go the choice and its
    weights too, so that two things are fetched; from the output device one row of logits. A worker keeps one
    graph: where a device has several pieces of it, each is described again for every batch (graph reuse in
    ggml_backend_rpc_graph_compute).
    """
    found: dict[str, dict[str, Any]] = {}

    def add(device: str, n_waits: int = 0, token: float = 0.0, batch: float = 0.0) -> None:
        links = found.setdefault(device, {"n_waits": 0, "token_link_bytes": 0.0, "batch_link_bytes": 0.0})
        links["n_waits"] += n_waits
        links["token_link_bytes"] += token
        links["batch_link_bytes"] += batch

    activation = ACTIVATION_BYTES * anatomy.n_embd
    path = list(_path(anatomy, where))
    pieces: Counter[str] = Counter()
    for number, (here, there) in enumerate(zip(path, path[1:], strict=False)):
        if here != there:
            to_experts = number % 2 == 1  # the path goes layer, experts, layer, experts
            add(here, n_waits=2 if to_experts else 1, token=activation)
            add(there, token=activation)
            pieces[there] += 1
    add(where.output, n_waits=1, batch=ACTIVATION_BYTES * anatomy.n_vocab)
    for device, count in pieces.items():
        if count > 1:
            add(device, batch=count * GRAPH_BYTES)
    return found
