"""What the user asked for and fixed, and what must hold of it whatever the placement."""

from __future__ import annotations

from dataclasses import dataclass, field

from moetool.anatomy import Anatomy
from moetool.errors import EngineError, UsageError
from moetool.machine import Device, Machine
from moetool.settings import Settings, TensorOverride

DEFAULT_CTX = 8192
MIB = 1 << 20
# What a driver, its pools and other programs take that no allocator line shows.
DEFAULT_RESERVE_BYTES = 512 * MIB
DEFAULT_KV = "f16"
# So small a model is copied, not mapped: on huge pages its tokens take 2 - 6 % less, which makes up for the
# copying within some 130 of them (scripts/bench_one_shot.py, 0.1 GB; at 0.5 GB it no longer does).
COPIED_BYTES = 256 * MIB


@dataclass(frozen=True)
class Limit:
    """At most `n_bytes` may be used of `device`; of each offload device where that is ""."""

    device: str
    n_bytes: int


@dataclass(frozen=True)
class Wishes:
    """What the user asked for and fixed; None (or empty) leaves the choice to the plan.

    `n_ctx` is the context of each of `n_seq` sequences, 0 the model's whole training context; with
    `kv_unified` one cache is all of theirs, else each has a part of its own. `devices` names the
    offload devices that may be used (() none of them). `n_gpu_layers`, `n_cpu_moe`, `tensor_overrides` and
    `tensor_split` mean what llama.cpp means by them. `vram` and `ram_bytes` limit what is used,
    `reserve_bytes` is left free on every device. `repack` False keeps llama.cpp from copying weights of the
    CPU into a layout of its own. `n_outputs` is of how many tokens the logits are wanted at once (None: of
    one a sequence). `draft` is a model whose memory must be there too.
    """

    n_ctx: int | None = None
    n_seq: int = 1
    kv_unified: bool = False
    type_k: str | None = None
    type_v: str | None = None
    devices: tuple[str, ...] | None = None
    n_gpu_layers: int | None = None
    n_cpu_moe: int | None = None
    tensor_overrides: tuple[TensorOverride, ...] = ()
    tensor_split: tuple[float, ...] = ()
    n_threads: int | None = None
    n_batch: int | None = None
    n_ubatch: int | None = None
    n_outputs: int | None = None
    experts: int | None = None
    repack: bool | None = None
    vram: tuple[Limit, ...] = ()
    ram_bytes: int | None = None
    reserve_bytes: int | None = None
    draft: Anatomy | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Reason:
    """Why something was chosen or refused: a stable code and a sentence."""

    code: str
    text: str


_COPIED = Reason("copied", "weights copied, not mapped: huge pages, where there are some, are read faster")


def settle(anatomy: Anatomy, machine: Machine, wishes: Wishes) -> tuple[Settings, tuple[Reason, ...]]:
    """What does not depend on the placement, and why it is so. Raises UsageError for what cannot be."""
    n_ctx, context_reason = _context(anatomy, wishes)
    check_experts(anatomy, wishes.experts)
    n_threads = wishes.n_threads or machine.n_threads
    copies = is_copied(anatomy, machine, wishes)
    defaults = Settings()
    settings = Settings(
        n_ctx=n_ctx * wishes.n_seq,
        n_seq=wishes.n_seq,
        kv_unified=wishes.kv_unified,
        type_k=wishes.type_k or DEFAULT_KV,
        type_v=wishes.type_v or DEFAULT_KV,
        n_batch=wishes.n_batch or max(defaults.n_batch, wishes.n_ubatch or 0),
        n_ubatch=min(wishes.n_ubatch or defaults.n_ubatch, wishes.n_batch or 1 << 31),
        n_outputs_max=wishes.n_outputs or wishes.n_seq,
        n_threads=n_threads,
        n_threads_batch=n_threads,
        experts=wishes.experts,
        tensor_overrides=wishes.tensor_overrides,
        repack=wishes.repack is not False,
        use_mmap=not copies,
    )
    threads = Reason("threads", f"{n_threads} threads: one for each core that pays")
    reasons = (*context_reason, *_experts_reason(anatomy, wishes), *(() if wishes.n_threads else (threads,)))
    return settings, (*reasons, *((_COPIED,) if copies else ()))


def is_copied(anatomy: Anatomy, machine: Machine, wishes: Wishes) -> bool:
    """Are the weights copied into RAM, rather than mapped? Where a device may take them they never are."""
    is_small = anatomy.weights_bytes <= COPIED_BYTES
    return is_small and machine.os == "linux" and not offload_devices(machine, wishes)


def _context(anatomy: Anatomy, wishes: Wishes) -> tuple[int, tuple[Reason, ...]]:
    """The context of one sequence."""
    trained = anatomy.n_ctx_train or DEFAULT_CTX
    if wishes.n_ctx is None:
        n_ctx = min(trained, DEFAULT_CTX)
        why = f"the default, up to {trained} is trained" if n_ctx < trained else "all that is trained"
        return n_ctx, (Reason("context-default", f"context {n_ctx}: {why}"),)
    n_ctx = wishes.n_ctx or trained
    if n_ctx > trained and anatomy.learns_positions:
        raise UsageError(
            f"--ctx {n_ctx}: this model has learned where {trained} tokens stand, and no more",
            f"use --ctx {trained} or less",
        )
    if n_ctx > trained:
        text = f"context {n_ctx} is more than the {trained} this model was trained with: expect it to drift"
        return n_ctx, (Reason("context-untrained", text),)
    return n_ctx, ()


def check_experts(anatomy: Anatomy, experts: int | None) -> None:
    """UsageError for a number of experts that the model cannot have, EngineError for a model that llama.cpp
    would misread."""
    routing, own = anatomy.routing, anatomy.n_expert_used
    if routing.unfit:
        raise EngineError(f"This model cannot be run: {routing.unfit}", "take another file of this model")
    if experts is None:
        return
    if not anatomy.n_expert:
        raise UsageError("--experts: this model has no experts", "leave --experts out")
    if not 1 <= experts <= routing.most:
        groups = "" if routing.most == anatomy.n_expert else f", and a token may choose among {routing.most}"
        raise UsageError(
            f"--experts {experts}: this model has {anatomy.n_expert} experts{groups}",
            f"use 1 to {routing.most}; the model's own number is {own}",
        )
    if routing.fixed and experts != own:
        raise UsageError(
            f"--experts {experts}: this model's number cannot be changed: {routing.fixed}",
            "leave --experts out",
        )


def _experts_reason(anatomy: Anatomy, wishes: Wishes) -> tuple[Reason, ...]:
    own = anatomy.n_expert_used
    if wishes.experts in (None, own):
        return ()
    text = f"{wishes.experts} expert{'s' if wishes.experts != 1 else ''} a token instead of {own}"
    if not anatomy.routing.is_renormed:
        less = "smaller" if (wishes.experts or 0) < own else "larger"
        text += f": this architecture does not renormalise their weights, so their part gets {less}"
    return (Reason("experts-changed", text),)


def offload_devices(machine: Machine, wishes: Wishes) -> tuple[Device, ...]:
    """The devices that layers may go to, in the order in which they get them: the fastest memory first.

    A device of unknown speed comes after the others, and nothing is reordered that the user named.
    Raises UsageError for a name that this machine has not.
    """
    able = {device.name: device for device in machine.devices if device.kind in {"gpu", "igpu"}}
    _check_names(able, machine, wishes)
    if wishes.n_gpu_layers == 0:
        return ()
    if wishes.devices is not None:
        return tuple(able[name] for name in wishes.devices)
    # Like llama.cpp: an integrated GPU is used only where there is no other.
    discrete = [device for device in able.values() if device.kind == "gpu"]
    chosen = discrete or list(able.values())
    if wishes.tensor_split:
        return tuple(chosen)  # the shares are in llama.cpp's order
    return tuple(sorted(chosen, key=lambda device: -(device.bandwidth_bytes_s or 0.0)))


def _check_names(able: dict[str, Device], machine: Machine, wishes: Wishes) -> None:
    hint = f"this machine has: {', '.join(sorted(able)) or 'no offload device'}"
    named = [("--device", name) for name in wishes.devices or ()]
    named += [("--vram", limit.device) for limit in wishes.vram if limit.device]
    for flag, name in named:
        if name not in able:
            raise UsageError(f"{flag} {name}: there is no such device", hint)
    known = {device.name for device in machine.devices}
    for override in wishes.tensor_overrides:
        if override.device not in known:
            raise UsageError(
                f"--override-tensor {override.pattern}={override.device}: there is no such device",
                f"this machine has: {', '.join(sorted(known))}",
            )
    shared = wishes.devices if wishes.devices is not None else tuple(able)
    if len(wishes.tensor_split) > len(shared):
        raise UsageError(
            "--tensor-split has more shares than there are devices",
            f"one for each of: {', '.join(shared)}" if shared else hint,
        )
