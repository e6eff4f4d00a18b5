"""Seconds for a token and for a prompt, from work and lanes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moetool.speed.constants import Constants, KernelConstants, by_quant, load_constants
from moetool.speed.lanes import Lane
from moetool.speed.work import DeviceWork, Read, Work

# Kinds that copy experts from RAM and multiply them themselves when a batch is large enough
# (ggml's offload_op, from 32 tokens on).
_OFFLOADING = frozenset({"cuda", "rocm", "vulkan"})
_OFFLOAD_TOKENS = 32
_CPU = "CPU"

BASIS = "bandwidth model, no calibration yet"


@dataclass(frozen=True)
class Speed:
    """Tokens per second while answering (`decode_*`) and while reading a prompt (`prompt_*`).

    Low and high hold the middle 80 % of published results. None where a figure of the machine is unknown;
    `missing` then says in one sentence what, and how to get it. `basis` says what the figures rest on.
    """

    decode_tok_s: float | None
    decode_low: float | None
    decode_high: float | None
    prompt_tok_s: float | None
    prompt_low: float | None
    prompt_high: float | None
    basis: str = BASIS
    missing: str = ""


@dataclass(frozen=True)
class Load:
    """What is asked of the model: `n_prompt` tokens in batches of `n_ubatch`, decoding at `depth` tokens
    already in context. The defaults are llama-bench's."""

    n_prompt: int = 512
    n_ubatch: int = 512
    depth: int = 0


def predict_work(
    work: Work, lanes: Sequence[Lane], load: Load | None = None, constants: Constants | None = None
) -> Speed:
    """Speed of `work` on `lanes`. A device of `work` without a lane counts as one of unknown bandwidth."""
    load = load or Load()
    constants = constants or load_constants()
    by_name = {lane.device: lane for lane in lanes}
    missing = _missing_bandwidth(work, by_name)
    if missing:
        return Speed(None, None, None, None, None, None, missing=missing)
    decode = 1 / decode_s(work, by_name, load.depth, constants)
    link_missing = _missing_link(work, by_name, load)
    prompt = None if link_missing else load.n_prompt / prompt_s(work, by_name, load, constants)
    return Speed(
        decode_tok_s=decode,
        decode_low=decode * constants.decode_low,
        decode_high=decode * constants.decode_high,
        prompt_tok_s=prompt,
        prompt_low=None if prompt is None else prompt * constants.prompt_low,
        prompt_high=None if prompt is None else prompt * constants.prompt_high,
        missing=link_missing,
    )


def decode_s(work: Work, lanes: Mapping[str, Lane], depth: float, constants: Constants) -> float:
    """Seconds to decode one token at `depth`; every lane's bandwidth must be known. What happens between
    devices is the first one's business: an offload device, where there is one."""
    first = constants.of(lanes[work.devices[0].device].kind)
    seconds = first.token_s + work.n_hops * first.hop_s + work.n_borders * first.border_s
    for share in work.devices:
        lane = lanes[share.device]
        seconds += _device_decode_s(share, lane, constants.of(lane.kind), depth) + _link_s(share, lane, 1)
    return seconds


def _link_s(share: DeviceWork, lane: Lane, n_tokens: int) -> float:
    """Seconds that one batch spends on the way to a worker's device and back.

    What is sent is not answered, what is fetched is (ggml_backend_rpc_buffer_set_tensor and _get_tensor,
    ggml_backend_rpc_graph_compute in ggml/src/ggml-rpc/ggml-rpc.cpp): only the latter waits.
    """
    if lane.link_latency_s is None or lane.link_bytes_s is None:
        return 0.0
    n_bytes = n_tokens * share.token_link_bytes + share.batch_link_bytes
    return share.n_waits * lane.link_latency_s + n_bytes / lane.link_bytes_s


def _device_decode_s(share: DeviceWork, lane: Lane, kernels: KernelConstants, depth: float) -> float:
    bandwidth = _bandwidth(lane, kernels)
    seconds = sum(_read_s(read, lane, kernels, bandwidth) for read in share.reads)
    for cache in share.caches:
        operations = cache.cell_flops * kernels.attention_bytes
        seconds += cache.cells(depth) * (cache.cell_bytes + operations) / (bandwidth * kernels.cache_share)
    # A recurrent state is read and written back.
    seconds += 2 * share.state_bytes / (bandwidth * kernels.cache_share)
    return seconds + _layers_s(share, kernels)


def _read_s(read: Read, lane: Lane, kernels: KernelConstants, bandwidth: float) -> float:
    """Reading and multiplying: a CPU's cores do both, half overlapping (measured: between the sum and the
    larger of the two); elsewhere unpacking adds to reading."""
    part = kernels.routed_share if read.routed else kernels.read_share
    if kernels.weight_s is not None:
        computing = read.n_weights * by_quant(kernels.weight_s, read.quant) / lane.n_threads
        return math.hypot(read.n_bytes / (bandwidth * part), computing)
    unpacking = read.n_weights * by_quant(kernels.unpack_bytes, read.quant)
    return (read.n_bytes + unpacking) / (bandwidth * part)


def _layers_s(share: DeviceWork, kernels: KernelConstants) -> float:
    return (
        share.n_layers * kernels.layer_s
        + share.n_moe * kernels.moe_layer_s
        + share.n_recurrent * kernels.recurrent_layer_s
    )


def prompt_s(work: Work, lanes: Mapping[str, Lane], load: Load, constants: Constants) -> float:
    """Seconds to read `load.n_prompt` tokens; bandwidths, and links of experts in RAM, must be known."""
    n_tokens = min(load.n_ubatch, load.n_prompt)
    n_batches = load.n_prompt / n_tokens
    helper = _offloader(work, lanes, n_tokens)
    seconds = 0.0
    for share in work.devices:
        lane = lanes[share.device]
        kernels = constants.of(lane.kind)
        for read in share.reads:
            if read.last_only:
                seconds += _batch_s(read, lane, None, 1, constants)
                continue
            copied = helper if read.routed and share.device == _CPU else None
            seconds += n_batches * _batch_s(read, lane, copied, n_tokens, constants)
        seconds += n_batches * (_layers_s(share, kernels) + _link_s(share, lane, n_tokens))
        seconds += _attention_s(share, lane, kernels, load)
    return seconds


def _batch_s(read: Read, lane: Lane, helper: Lane | None, n_tokens: int, constants: Constants) -> float:
    """One batch through one kind of weights: each touched weight travels once, each token multiplies."""
    touched = touched_bytes(read, n_tokens)
    if helper is not None and helper.link_bytes_s is not None:
        travelling = touched / (helper.link_bytes_s * constants.link_share)
        lane = helper
    else:
        travelling = touched / _bandwidth(lane, constants.of(lane.kind))
    kernels = constants.of(lane.kind)
    part = kernels.routed_flops_share if read.routed else 1.0
    flops_s = _flops_s(lane, kernels, read.quant) * part
    return travelling + 2 * read.n_weights * n_tokens / flops_s


def touched_bytes(read: Read, n_tokens: int) -> float:
    """Bytes of experts that `n_tokens` tokens, choosing evenly, touch at least once."""
    if not read.held_bytes:
        return 0.0
    untouched: float = (1 - read.n_bytes / read.held_bytes) ** n_tokens
    return read.held_bytes * (1 - untouched)


def _attention_s(share: DeviceWork, lane: Lane, kernels: KernelConstants, load: Load) -> float:
    flops = sum(cache.cell_flops * cache.cells(load.depth + load.n_prompt / 2) for cache in share.caches)
    return load.n_prompt * flops / (_flops_s(lane, kernels, "F16") * kernels.attention_flops_share)


def _flops_s(lane: Lane, kernels: KernelConstants, quant: str) -> float:
    """Operations per second of large products with weights of a type (attention: with cached F16)."""
    if kernels.thread_flops_s is not None:
        return by_quant(kernels.thread_flops_s, quant) * lane.n_threads
    return kernels.flops_per_byte * _bandwidth(lane, kernels)


def _bandwidth(lane: Lane, kernels: KernelConstants) -> float:
    assert lane.bandwidth_bytes_s is not None
    if lane.is_remote:
        return lane.bandwidth_bytes_s / kernels.read_share  # measured through a product
    return lane.bandwidth_bytes_s * (1.0 if lane.measured else kernels.sheet_share)


def _offloader(work: Work, lanes: Mapping[str, Lane], n_tokens: int) -> Lane | None:
    """The device that multiplies experts lying in RAM during a prompt, if there is one."""
    if n_tokens < _OFFLOAD_TOKENS:
        return None
    used = (lanes[share.device] for share in work.devices)
    return next((lane for lane in used if lane.kind in _OFFLOADING and not lane.is_remote), None)


def _missing_bandwidth(work: Work, lanes: Mapping[str, Lane]) -> str:
    for share in work.devices:
        lane = lanes.get(share.device)
        if lane is None or lane.bandwidth_bytes_s is None:
            how = "moetool doctor measures it" if share.device == "CPU" else "state it in a --machine file"
            return f"memory bandwidth of {share.device} is unknown: {how}"
    return ""


def _missing_link(work: Work, lanes: Mapping[str, Lane], load: Load) -> str:
    helper = _offloader(work, lanes, min(load.n_ubatch, load.n_prompt))
    if helper is None or helper.link_bytes_s is not None:
        return ""
    in_ram = any(read.routed for share in work.devices if share.device == _CPU for read in share.reads)
    if not in_ram:
        return ""
    return f"the link between RAM and {helper.device} is unknown: state link_bytes_s in a --machine file"
