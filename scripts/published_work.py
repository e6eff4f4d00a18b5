"""Published results as `Work`: what each device reads and computes of a model's file; for published.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from published_files import Bits, File
from published_models import Shape

from moetool.speed import Cache, DeviceWork, Lane, Read, Work


@dataclass(frozen=True)
class Split:
    """Blocks in RAM (`n_cpu_layers`, from the first), the output there too or not, and blocks whose experts
    (or whole feed-forward) are in RAM."""

    n_cpu_layers: int = 0
    n_cpu_moe: int = 0
    output_on_cpu: bool = False

    @property
    def name(self) -> str:
        if self.n_cpu_layers:
            return f"{self.n_cpu_layers} layers in RAM"
        return f"experts of {self.n_cpu_moe} in RAM" if self.n_cpu_moe else "all"


def make_work(shape: Shape, file: File, split: Split, lanes: tuple[Lane, ...], kv_bytes: float) -> Work:
    """The row's work: blocks dealt evenly to the GPUs, what is in RAM to the CPU."""
    gpus = [lane.device for lane in lanes if lane.device != "CPU"]
    on_cpu = split.n_cpu_layers / shape.n_layer
    moved = split.n_cpu_moe / shape.n_moe if shape.n_moe else 0.0
    blocks = (1 - on_cpu) / len(gpus)
    devices = [
        _share(shape, file, name, Part(blocks, blocks * (1 - moved), name == gpus[-1]), kv_bytes)
        for name in gpus
    ]
    if on_cpu or moved:
        part = Part(on_cpu, on_cpu + (1 - on_cpu) * moved)
        devices.append(_share(shape, file, "CPU", part, kv_bytes))
    n_hops = 1 + 2 * split.n_cpu_moe
    return Work(tuple(devices), n_hops, len(gpus) - 1)


@dataclass(frozen=True)
class Part:
    """A device's part: of all blocks, of all routed experts, and whether the output is there."""

    blocks: float
    experts: float
    output: bool = False


def _share(shape: Shape, file: File, device: str, part: Part, kv_bytes: float) -> DeviceWork:
    caches = tuple(
        Cache(
            part.blocks * rows.n_layers * rows.values * kv_bytes,
            rows.window,
            4 * part.blocks * rows.n_layers * rows.queries,
        )
        for rows in shape.caches
    )
    return DeviceWork(
        device=device,
        reads=tuple(_reads(shape, file, part)),
        caches=caches,
        state_bytes=part.blocks * shape.state_bytes,
        n_layers=round(part.blocks * shape.n_layer),
        n_moe=round(part.blocks * shape.n_moe),
        n_recurrent=round(part.blocks * shape.n_recurrent),
    )


def _reads(shape: Shape, file: File, part: Part) -> Iterator[Read]:
    yield _read(file.always, shape.always * part.blocks)
    if part.output:
        yield replace(_read(file.output, shape.output), last_only=True)
    if shape.routed and part.experts:
        yield _read(file.experts, shape.routed * part.experts, shape.used / shape.experts)


def _read(bits: Bits, billions: float, used: float = 1.0) -> Read:
    held = 1e9 * billions * bits.bits / 8
    return Read(bits.quant, 1e9 * billions * used, held * used, held, routed=used < 1)
