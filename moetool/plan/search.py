"""The fastest placement that fits: sought among pieces, then held against the memory model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from moetool.anatomy import Anatomy
from moetool.errors import UsageError
from moetool.machine import Machine
from moetool.memory import DeviceMemory, device_memory, make_placement
from moetool.memory.refusals import check_cache_types
from moetool.plan.budget import Budget
from moetool.plan.layouts import Extra, ExtraKey, Layout, Layouts, Moved, Shares
from moetool.plan.pieces import Cut, Pieces, make_pieces
from moetool.plan.result import devices_in_use
from moetool.plan.wishes import Wishes
from moetool.settings import Settings, TensorOverride

# Another cache type or batch size must be worth this factor of a turn: it has a price that no figure shows.
NOTABLE_GAIN = 1.1
SMALL_KV = "q8_0"
SMALL_UBATCHES = (256, 128)
LARGE_UBATCHES = (1024,)
_MOST_ROUNDS = 8
# A quantized cache is tried where the cache is at least this part of what lies in RAM for want of room.
_WORTH_MOVING = 0.1

# The routed experts of a layer, as llama.cpp's --n-cpu-moe names them (common/arg.cpp).
_ALL_EXPERTS = "ffn_(up|down|gate|gate_up)_(ch|)exps"


@dataclass(frozen=True)
class Found:
    """A placement, what it takes, the bytes that are missing by device, and what was learnt on the way.

    `full` are the devices without room for one more of the layers in RAM, if that is why those are there.
    `is_squeezed`: the usual cache or batch would not fit."""

    settings: Settings
    memory: tuple[DeviceMemory, ...]
    missing: Mapping[str, int]
    layout: Layout
    extra: Extra
    full: tuple[str, ...] = ()
    is_squeezed: bool = False

    @property
    def fits(self) -> bool:
        return not self.missing

    @property
    def lacking_bytes(self) -> int:
        return sum(self.missing.values())

    @property
    def rank(self) -> tuple[int, int, float]:
        """The smaller, the better; see Layout.rank."""
        offload = sum(n for name, n in self.missing.items() if name != self.layout.cpu)
        return offload, self.lacking_bytes, self.layout.seconds

    @property
    def is_split(self) -> bool:
        """Whether RAM holds layers or experts although there are other devices."""
        return bool(self.layout.devices) and (self.layout.counts[0] > 0 or self.layout.has_moved)


@dataclass(frozen=True)
class Question:
    """What is sought: a place for this model on these devices of this machine, within the budget.
    `cut` are its weights in pieces."""

    anatomy: Anatomy
    machine: Machine
    wishes: Wishes
    budget: Budget
    devices: tuple[str, ...]
    cut: Cut


def search(question: Question, base: Settings) -> Found:
    """The best placement, with the cache type and batch size that it needs; else the one that lacks least."""
    found = place(question, base)
    if not found.fits:
        smaller = (place(question, settings) for settings in _smaller(question, base, found))
        return next((replace(tried, is_squeezed=True) for tried in smaller if tried.fits), found)
    if not found.is_split:
        return found
    for settings in _roomier(question, base, found):
        faster = place(question, settings, found)
        if faster.fits and faster.layout.seconds * NOTABLE_GAIN <= found.layout.seconds:
            return faster
    return found


def _smaller(question: Question, base: Settings, found: Found) -> Iterator[Settings]:
    """Settings that need less, the cheapest first; none if what they leave as it is takes too much."""
    ubatches = [n for n in SMALL_UBATCHES if n < base.n_ubatch and not question.wishes.n_ubatch]
    quantized = with_kv(question.anatomy, question.wishes, base)
    least = sum(row.weights_bytes + row.state_bytes for row in found.memory)
    least += 0 if quantized else sum(row.kv_bytes for row in found.memory)
    if least > sum(max(0, n_bytes) for n_bytes in question.budget.available.values()):
        return
    yield from (replace(base, n_ubatch=n) for n in ubatches)
    if quantized:
        yield from (replace(quantized, n_ubatch=n) for n in (base.n_ubatch, *ubatches))


def _roomier(question: Question, base: Settings, found: Found) -> Iterator[Settings]:
    """Settings that may bring more onto the devices, or more of a prompt through them at once."""
    offload = [row for row in found.memory if row.device != found.layout.cpu]
    in_ram = sum(row.weights_bytes for row in found.memory) - sum(row.weights_bytes for row in offload)
    quantized = with_kv(question.anatomy, question.wishes, base)
    if quantized and sum(row.kv_bytes for row in offload) >= _WORTH_MOVING * in_ram:
        yield quantized
    helps = any(d.link_bytes_s for d in question.machine.devices if d.name in found.settings.devices)
    if helps and found.layout.has_moved and question.wishes.n_ubatch is None:
        yield from (replace(base, n_ubatch=n) for n in LARGE_UBATCHES if n <= min(base.n_batch, base.n_ctx))


def with_kv(anatomy: Anatomy, wishes: Wishes, base: Settings) -> Settings | None:
    """The settings with a quantized cache, where the user left the choice and the model takes it."""
    if wishes.type_k or wishes.type_v or not any(layer.cache for layer in anatomy.layers):
        return None
    quantized = replace(base, type_k=SMALL_KV, type_v=SMALL_KV)
    try:
        check_cache_types(anatomy, quantized)
    except UsageError:
        return None
    return quantized


def place(question: Question, base: Settings, found: Found | None = None) -> Found:
    """The best placement under these settings.

    What lies besides the pieces (compute buffers) is learnt from the memory model, which is asked about one
    placement at a time: first as if there were nothing, then with what was seen. With `found`, a placement
    under other settings, what is learnt begins there, and it comes back if there is nothing to gain over it.
    """
    anatomy, machine, budget = question.anatomy, question.machine, question.budget
    pieces = make_pieces(anatomy, question.cut, base, machine, question.devices)
    layouts = Layouts(pieces, question.devices, budget, question.wishes.n_cpu_moe)
    shares = _shares(question, base)
    extra = {} if found is None else _scaled(found, base)
    tried: list[Found] = []
    for _ in range(_MOST_ROUNDS):
        layout = layouts.best(extra, question.wishes.n_gpu_layers, shares)
        if found is not None and layout.seconds * NOTABLE_GAIN > found.layout.seconds:
            return found
        settings = settings_of(layout, layouts.moved(layout), pieces, question.wishes, base)
        memory = device_memory(anatomy, settings, devices_in_use(settings, machine))
        tried.append(Found(settings, memory, budget.shortfalls(memory), layout, extra))
        if not _learn(extra, layout, memory) or tried[-1].fits:
            break
    best = min(tried, key=lambda item: item.rank)
    return replace(best, full=layouts.full(best.layout, extra, shares))


def _scaled(found: Found, base: Settings) -> dict[ExtraKey, int]:
    """What lies besides the pieces, as it should be with another ubatch: mostly in proportion."""
    factor = base.n_ubatch / found.settings.n_ubatch
    return {key: round(n_bytes * factor) for key, n_bytes in found.extra.items()}


def _learn(extra: dict[ExtraKey, int], layout: Layout, memory: Sequence[DeviceMemory]) -> bool:
    """Take down what each device holds besides the pieces; whether that was news."""
    news = False
    for row in memory:
        key = layout.extra_key(row.device)
        n_bytes = row.total_bytes - layout.held_bytes.get(row.device, 0)
        if n_bytes > extra.get(key, -1):
            extra[key] = n_bytes
            news = True
        for in_ram, has_moved in ((True, False), (False, True), (True, True)):
            # Until it is known better, what is split otherwise takes as much.
            extra.setdefault((row.device, in_ram, has_moved), n_bytes)
    return news


def _shares(question: Question, base: Settings) -> Shares | None:
    """How llama.cpp deals out layers under the user's tensor_split."""
    wishes, anatomy = question.wishes, question.anatomy
    if not wishes.tensor_split or not question.devices:
        return None

    def counts(n_offload: int) -> Sequence[int]:
        settings = replace(
            base, devices=question.devices, tensor_split=wishes.tensor_split, n_gpu_layers=n_offload
        )
        placement = make_placement(anatomy, settings, question.machine.devices)
        homes = (*placement.layers, placement.output)
        return [homes.count(device) for device in question.devices]

    return counts


def settings_of(layout: Layout, moved: Moved, pieces: Pieces, wishes: Wishes, base: Settings) -> Settings:
    """The layout in llama.cpp's words, composed with what the user fixed."""
    dealt = dict(zip(layout.devices, layout.counts[1:], strict=True))
    # A tensor on a device that llama.cpp was not told of would end the process.
    wanted = [o.device for o in wishes.tensor_overrides if o.device != layout.cpu]
    offered = dict.fromkeys((*layout.devices, *wanted))
    used = tuple(d for d in offered if dealt.get(d) or d in wanted)
    if used and wishes.tensor_split:
        used = tuple(offered)  # its shares are by position; with nothing to share, devices would only cost
    split = wishes.tensor_split or tuple(float(dealt.get(d, 0)) for d in used)
    return replace(
        base,
        devices=used,
        n_gpu_layers=sum(dealt.values()),
        tensor_split=split if len(used) > 1 else (),
        tensor_overrides=(*wishes.tensor_overrides, *_overrides(moved, pieces)),
    )


def _overrides(moved: Moved, pieces: Pieces) -> Iterator[TensorOverride]:
    """Experts to RAM: whole layers in one pattern, parted ones each in its own."""
    whole = [i for i, names in moved.items() if len(names) == len(pieces.blocks[i].experts)]
    if whole:
        yield TensorOverride(rf"blk\.({_any(whole)})\.{_ALL_EXPERTS}", "CPU")
    for index, names in moved.items():
        if index not in whole:
            yield TensorOverride(rf"blk\.({index})\.({_any(names)})\.", "CPU")


def _any(choices: Sequence[object]) -> str:
    return "|".join(map(str, choices))
