"""From flags to wishes: what the commands with a plan share, each value parsed with one wording."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moetool.errors import UsageError
from moetool.quants import CACHE_TYPES

if TYPE_CHECKING:
    from moetool.plan import Limit, Wishes
    from moetool.settings import TensorOverride

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]?)(?:ib|b)?", re.IGNORECASE)


@dataclass(frozen=True)
class Flags:
    """The flags of plan, run and bench that say where a model goes, as they were typed."""

    ctx: str | None = None
    kv: str | None = None
    threads: int | None = None
    gpu_layers: int | None = None
    n_cpu_moe: int | None = None
    override_tensor: Sequence[str] | None = None
    tensor_split: str | None = None
    device: str | None = None
    batch_size: int | None = None
    ubatch_size: int | None = None
    experts: str | None = None
    vram: str | None = None
    ram: str | None = None
    reserve: str | None = None


def make_wishes(flags: Flags, n_seq: int = 1) -> Wishes:
    """What the flags ask for. Raises UsageError that names the flag."""
    from moetool.plan import Wishes

    type_k, type_v = parse_kv(flags.kv) if flags.kv else (None, None)
    return Wishes(
        n_ctx=parse_context(flags.ctx),
        n_seq=n_seq,
        type_k=type_k,
        type_v=type_v,
        devices=parse_devices(flags.device),
        n_gpu_layers=flags.gpu_layers,
        n_cpu_moe=flags.n_cpu_moe,
        tensor_overrides=tuple(parse_override(text) for text in flags.override_tensor or ()),
        tensor_split=parse_split(flags.tensor_split),
        n_threads=flags.threads,
        n_batch=flags.batch_size,
        n_ubatch=flags.ubatch_size,
        experts=parse_experts(flags.experts),
        vram=parse_limits(flags.vram),
        ram_bytes=parse_size(flags.ram, "--ram") if flags.ram else None,
        reserve_bytes=parse_size(flags.reserve, "--reserve") if flags.reserve else None,
    )


def parse_context(text: str | None) -> int | None:
    """--ctx: a number, with k for 1024, or `max` (0) for all that the model was trained with."""
    if text is None:
        return None
    if text.lower() == "max":
        return 0
    match = re.fullmatch(r"(\d{1,9})([kK]?)", text.strip())
    n_ctx = int(match[1]) * (1024 if match[2] else 1) if match else 0
    if not 1 <= n_ctx < 1 << 31:
        raise UsageError(f"--ctx {text} is not a number of tokens", "write 8192, 32k or max")
    return n_ctx


def parse_experts(text: str | None) -> int | None:
    """--experts: one number. llama.cpp can be told no other when it loads a model (llama_model_kv_override
    holds one value)."""
    if text is None:
        return None
    if re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)+", text):
        raise UsageError(
            f"--experts {text}: llama.cpp takes one number for all layers when it loads a model",
            "a number for each layer can only stand in the file itself, and only nemotron_h models follow it",
        )
    if not re.fullmatch(r"\d{1,6}", text.strip()):
        raise UsageError(f"--experts {text} is not a number of experts", "write --experts 4")
    return int(text)


def parse_kv(text: str) -> tuple[str, str]:
    """--kv: one type for keys and values, or two with a comma between."""
    types = text.lower().split(",")
    if len(types) > 2 or not all(types):
        raise UsageError(
            f"--kv {text} is not a cache type", "write q8_0, or f16,q8_0 for keys and values apart"
        )
    unknown = [name for name in types if name not in CACHE_TYPES]
    if unknown:
        raise UsageError(f"--kv {unknown[0]} is not a cache type", f"use one of {', '.join(CACHE_TYPES)}")
    return types[0], types[-1]


def parse_size(text: str, flag: str) -> int:
    """Bytes, with K, M, G or T for powers of 1024: 12G, 12GiB, 800M. Nothing is only a size to reserve."""
    match = _SIZE.fullmatch(text.strip())
    n_bytes = int(float(match[1]) * _UNITS[match[2].lower()]) if match else 0
    if not match or (n_bytes == 0 and flag != "--reserve"):
        raise UsageError(f"{flag} {text} is not a size", f"write {flag} 12G or {flag} 800M")
    if 0 < n_bytes < 1 << 20:
        raise UsageError(f"{flag} {text} is {n_bytes} bytes, less than anything needs", f"write {flag} 12G")
    return n_bytes


def parse_limits(text: str | None) -> tuple[Limit, ...]:
    """--vram: a size for each offload device, or NAME=SIZE, several with commas between."""
    from moetool.plan import Limit

    parts = [part.strip().rpartition("=") for part in text.split(",")] if text else []
    return tuple(Limit(name.strip(), parse_size(size, "--vram")) for name, _, size in parts)


def parse_devices(text: str | None) -> tuple[str, ...] | None:
    """--device: names with commas between, or `none`."""
    if text is None:
        return None
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError("--device names no device", "write --device CUDA0,CUDA1 or --device none")
    return () if names == ("none",) else names


def parse_override(text: str) -> TensorOverride:
    """--override-tensor: PATTERN=DEVICE, as llama.cpp takes it."""
    from moetool.settings import TensorOverride

    pattern, _, device = text.rpartition("=")
    if not pattern or not device:
        raise UsageError(
            f"--override-tensor {text} is not PATTERN=DEVICE", r"write 'blk\.[0-9]\.ffn_.*_exps=CPU'"
        )
    try:
        re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--override-tensor {text} is not a regular expression: {error}") from error
    return TensorOverride(pattern, device)


def parse_split(text: str | None) -> tuple[float, ...]:
    """--tensor-split: proportions with commas between, one a device, of which one at least is not zero."""
    if text is None:
        return ()
    try:
        shares = tuple(float(part) for part in re.split("[,/]", text))
    except ValueError:
        shares = ()
    if not shares or not all(0 <= share < math.inf for share in shares) or not any(shares):
        raise UsageError(f"--tensor-split {text} is not a list of shares", "write --tensor-split 3,1")
    return shares
