"""What a model falls into when it is dealt out over devices: bytes, and seconds of a turn on each device.

Neither depends on the placement, so that a search can add up instead of planning anew.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from moetool.anatomy import Anatomy, RoledTensor
from moetool.anatomy.facts import TIED_TWICE_ON_CPU
from moetool.anatomy.roles import part_of
from moetool.machine import Machine
from moetool.memory.caches import layer_kv_bytes, layer_state_bytes, make_cells, uses_flash_attention
from moetool.memory.placement import Placement, homes, loaded, override_of, padded
from moetool.settings import Settings
from moetool.speed import DeviceWork, Lane, Load, Where, Work, load_constants, make_lanes, make_work
from moetool.speed.anatomical import ACTIVATION_BYTES, GRAPH_BYTES
from moetool.speed.predict import decode_s, prompt_s

# By which placements are compared: a question of so many tokens, answered with so many, in a talk under way.
PROMPT_TOKENS = 1024
ANSWER_TOKENS = 256
_DEPTH = 2048

# Matrices of routed experts as llama.cpp's --n-cpu-moe names them (common/arg.cpp).
_MOVABLE = re.compile(r"ffn_(up|down|gate|gate_up)_(ch|)exps")
# Nobody knows how fast a device is: then offload devices come before the RAM, and known ones before both.
_NOMINAL_RAM_BYTES_S = 50e9
_NOMINAL_FACTOR = 2.0


@dataclass(frozen=True)
class Matrix:
    """One matrix of all routed experts of a layer, by its tensor's name in the layer."""

    name: str
    n_bytes: int
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Block:
    """One layer: what must lie together (weights, caches, states), and the experts, which need not.

    `seconds` is what a turn spends on it, by device.
    """

    held_bytes: int
    seconds: Mapping[str, float]
    experts: tuple[Matrix, ...]


@dataclass(frozen=True)
class Link:
    """Seconds of a turn on the way to a worker's device and back: where activations come in, where they
    leave, where the output is, for each layer with experts in RAM, and once if there is any such layer."""

    enter_s: float
    leave_s: float
    output_s: float
    moved_s: float
    parted_s: float


@dataclass(frozen=True)
class Pieces:
    """A model in pieces: its layers, and the output behind them as the last block.

    `fixed` are bytes that lie where the user put them, `input_bytes` stay in RAM, `shared_bytes` are held on
    every device with layers, `tied_bytes` are saved where the output is in RAM too. `hop_s` is what each
    change between RAM and a device costs a turn, `border_s` each between two devices, `start_s` what a turn
    costs beside its layers, by the first device that has any. `links` is what the way to each device costs.
    `ram_s` is a whole turn with everything in RAM, where no device helps with a prompt.
    """

    blocks: tuple[Block, ...]
    fixed: Mapping[str, int]
    input_bytes: int
    shared_bytes: int
    tied_bytes: int
    hop_s: float
    border_s: float
    start_s: Mapping[str, float]
    links: Mapping[str, Link]
    ram_s: float


@dataclass(frozen=True)
class Cut:
    """The weights by piece: "3" is layer 3, "3/ffn_up_exps" a matrix of its experts, the number behind the
    last layer the output; "shared" and "tied" as in Pieces; else a device. `where` is by tensor."""

    held_bytes: Mapping[str, int]
    where: Mapping[str, str]


def cut_weights(anatomy: Anatomy, settings: Settings) -> Cut:
    """The weights of a model in pieces; the overrides in `settings` are those of the user."""
    held: Counter[str] = Counter()
    where: dict[str, str] = {}
    for tensor in loaded(anatomy, settings):
        places = _places(anatomy, settings, tensor)
        where[tensor.info.name] = places[-1]
        for place in places:
            held[place] += padded(tensor.info.n_bytes, 32)
    return Cut(held, where)


def make_pieces(
    anatomy: Anatomy, cut: Cut, settings: Settings, machine: Machine, devices: Sequence[str]
) -> Pieces:
    """The pieces of a model under `settings`, whatever placement these ask for."""
    n_layer = len(anatomy.layers)
    held = Counter(cut.held_bytes)
    cells, flash_attn = make_cells(anatomy, settings), uses_flash_attention(anatomy, settings)
    for layer in anatomy.layers:
        caches = layer_kv_bytes(layer, settings, cells, flash_attn) + layer_state_bytes(layer, settings)
        held[str(layer.index)] += caches
    names = tuple(str(index) for index in range(n_layer))
    work = make_work(anatomy, settings, Where(cut.where, names, str(n_layer)))
    cpu = next(device.name for device in machine.devices if device.kind == "cpu")
    costs = _Costs(make_lanes(machine, settings.n_threads), (*devices, cpu), settings)
    own = {device.name for device in machine.devices}
    of_pieces = {share.device: costs.of_piece(share) for share in work.devices if share.device not in own}
    return Pieces(
        blocks=_blocks(held, n_layer, lambda place: of_pieces.get(place, costs.nothing).by_device),
        fixed={d.name: held[d.name] for d in machine.devices if d.name != cpu and held[d.name]},
        input_bytes=held[cpu],
        shared_bytes=held["shared"],
        tied_bytes=held["tied"],
        hop_s=costs.of_change(n_hops=1),
        border_s=costs.of_change(n_borders=1),
        start_s=costs.start.by_device,
        links=_links(anatomy, costs, devices),
        ram_s=costs.start.alone_s + sum(cost.alone_s for cost in of_pieces.values()),
    )


def _places(anatomy: Anatomy, settings: Settings, tensor: RoledTensor) -> tuple[str, ...]:
    """The pieces that hold a tensor, the one that computes with it last."""
    name, n_layer = tensor.info.name, len(anatomy.layers)
    fixed = override_of(settings.tensor_overrides, name)
    if fixed is not None:
        return (fixed,)
    if tensor.layer is not None and tensor.layer < n_layer:
        stem = part_of(name).partition(".")[0]
        return (f"{tensor.layer}/{stem}",) if _MOVABLE.fullmatch(stem) else (str(tensor.layer),)
    found = homes(anatomy, settings, Placement("CPU", ("first", "next"), "output"), tensor)
    if found == ("first", "next"):
        return ("shared",)
    if found == ("CPU", "output"):
        twice = anatomy.arch in TIED_TWICE_ON_CPU
        return ("CPU", str(n_layer)) if twice else ("CPU", "tied", str(n_layer))
    return tuple({"first": "0", "output": str(n_layer)}.get(place, place) for place in found)


def _blocks(
    held: Mapping[str, int], n_layer: int, seconds: Callable[[str], Mapping[str, float]]
) -> tuple[Block, ...]:
    experts: dict[str, list[Matrix]] = {}
    for place, n_bytes in held.items():
        layer, _, name = place.partition("/")
        if name:
            experts.setdefault(layer, []).append(Matrix(name, n_bytes, seconds(place)))
    return tuple(
        Block(held.get(str(i), 0), seconds(str(i)), tuple(experts.get(str(i), ())))
        for i in range(n_layer + 1)
    )


def _links(anatomy: Anatomy, costs: _Costs, devices: Sequence[str]) -> dict[str, Link]:
    """What moetool.speed.anatomical counts on the way of a token, part by part."""
    activation, logits = ACTIVATION_BYTES * anatomy.n_embd, ACTIVATION_BYTES * anatomy.n_vocab
    parts = (
        DeviceWork("", token_link_bytes=activation),
        DeviceWork("", n_waits=1, token_link_bytes=activation),
        DeviceWork("", n_waits=1, batch_link_bytes=logits),
        DeviceWork("", n_waits=2, token_link_bytes=2 * activation, batch_link_bytes=GRAPH_BYTES),
        DeviceWork("", batch_link_bytes=GRAPH_BYTES),
    )
    found = [costs.of(part).by_device for part in parts]
    return {device: Link(*(seconds[device] for seconds in found)) for device in devices}


@dataclass(frozen=True)
class _Cost:
    """Seconds of a turn by device; in RAM also where no device helps with experts there."""

    by_device: Mapping[str, float]
    alone_s: float


class _Costs:
    """Seconds that a turn spends on a share of the work, by the device that does it. `start` is what it
    spends whatever there is to do."""

    def __init__(self, lanes: Sequence[Lane], devices: Sequence[str], settings: Settings) -> None:
        self._lanes = {lane.device: lane for lane in _with_nominal(lanes)}
        self._devices = tuple(dict.fromkeys(devices))
        self._load = Load(PROMPT_TOKENS, settings.n_ubatch, min(_DEPTH, settings.n_ctx_seq // 2))
        self._known: dict[tuple[object, ...], _Cost] = {}
        self.nothing = _Cost(dict.fromkeys(self._devices, 0.0), 0.0)
        self.start = self._turns(DeviceWork(""))

    def of_piece(self, share: DeviceWork) -> _Cost:
        """The cost of one piece, of which most are alike; the way to it is no matter of a piece by itself."""
        key = (share.reads, share.caches, share.state_bytes, share.n_layers, share.n_moe, share.n_recurrent)
        if key not in self._known:
            self._known[key] = self.of(DeviceWork("", *key))
        return self._known[key]

    def of(self, share: DeviceWork) -> _Cost:
        """The cost of a share of the work."""
        turns, start = self._turns(share), self.start
        by_device = {device: seconds - start.by_device[device] for device, seconds in turns.by_device.items()}
        return _Cost(by_device, turns.alone_s - start.alone_s)

    def of_change(self, **changes: int) -> float:
        """What one change of device costs a turn."""
        first = (DeviceWork(self._devices[0]),)
        decoding = self._decode(Work(first, **changes)) - self._decode(Work(first))
        return ANSWER_TOKENS * decoding

    def _turns(self, share: DeviceWork) -> _Cost:
        # The device that helps with experts in RAM must be seen, though it holds nothing here.
        helper = DeviceWork(self._devices[0])
        turns = {}
        for device in self._devices:
            work = Work((replace(share, device=device),))
            decoding = ANSWER_TOKENS * self._decode(work)
            turns[device] = decoding + self._prompt(Work((helper, *work.devices)))
        return _Cost(turns, decoding + self._prompt(work))  # the CPU is the last

    def _prompt(self, work: Work) -> float:
        return prompt_s(work, self._lanes, self._load, load_constants())

    def _decode(self, work: Work) -> float:
        return decode_s(work, self._lanes, self._load.depth, load_constants())


def _with_nominal(lanes: Sequence[Lane]) -> list[Lane]:
    """The lanes, those of unknown speed with a made-up one: it tells what comes before what."""
    ram = next((lane.bandwidth_bytes_s for lane in lanes if lane.kind == "cpu"), None)
    known = [lane.bandwidth_bytes_s for lane in lanes if lane.bandwidth_bytes_s]
    ram = ram or min([_NOMINAL_RAM_BYTES_S, *(speed / _NOMINAL_FACTOR for speed in known)])
    return [
        lane
        if lane.bandwidth_bytes_s
        else replace(lane, bandwidth_bytes_s=ram if lane.kind == "cpu" else _NOMINAL_FACTOR * ram)
        for lane in lanes
    ]
