"""Ways to deal the pieces out over the devices, and the best of them by the time that a turn takes.

Layers lie in one row: the first ones in RAM, the next on the first device, and so on; the output is the last.
On each device the experts that find no room go to RAM, from whichever end costs less, and the matrices of one
more layer are parted if some of them still fit.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, combinations
from typing import Any

from moetool.plan.budget import Budget
from moetool.plan.pieces import Matrix, Pieces

# What lies besides the pieces on a device (compute buffers), by device, by whether layers are in RAM, and by
# whether experts are.
ExtraKey = tuple[str, bool, bool]
Extra = Mapping[ExtraKey, int]
# Layer -> names of matrices.
Moved = Mapping[int, tuple[str, ...]]
# How many layers each device gets of so many.
Shares = Callable[[int], Sequence[int]]

_STEPS = (16, 4, 1)
# Seconds are sums in another order for every layout: beyond these digits there is nothing but rounding.
_DIGITS = 9


@dataclass(frozen=True)
class Kept:
    """The experts of one device's layers, from `start` to `end`: those from `first` to `last` stay whole, of
    one more layer the matrices `parted`; the others go to RAM. What stays and goes in bytes, and the seconds
    of a turn."""

    start: int
    end: int
    first: int
    last: int
    parted: tuple[int, tuple[Matrix, ...]] | None
    n_bytes: int
    moved_bytes: int
    seconds: float


@dataclass(frozen=True)
class Layout:
    """How many layers are in RAM and on each of `devices`, and which experts stay with them.

    `held_bytes` is what the pieces take, by device; `missing` what each device lacks when the rest is counted
    too; `seconds` is what a turn takes; `filled` is the largest part of its room that they take on a device.
    """

    cpu: str
    devices: tuple[str, ...]
    counts: tuple[int, ...]
    kept: tuple[Kept, ...]
    held_bytes: Mapping[str, int]
    missing: Mapping[str, int]
    seconds: float
    filled: float

    @property
    def has_moved(self) -> bool:
        """Whether experts are in RAM whose layers are not."""
        return any(kept.moved_bytes for kept in self.kept)

    @property
    def rank(self) -> tuple[int, int, float, float]:
        """The smaller, the better: what devices lack (RAM can always take it), what all lack, time; of what
        takes the same time, what fills devices evenly."""
        offload = sum(n_bytes for name, n_bytes in self.missing.items() if name != self.cpu)
        return offload, sum(self.missing.values()), round(self.seconds, _DIGITS), self.filled

    def extra_key(self, device: str) -> ExtraKey:
        """What the bytes besides the pieces depend on."""
        return device, self.counts[0] > 0, self.has_moved


class Layouts:
    """All layouts of one model over `devices` (in this order). With `n_cpu_moe` the experts of so many layers
    are in RAM, no more and no fewer."""

    def __init__(self, pieces: Pieces, devices: Sequence[str], budget: Budget, n_cpu_moe: int | None) -> None:
        self._pieces = pieces
        self._devices = tuple(devices)
        self._budget = budget
        self._n_cpu_moe = n_cpu_moe
        blocks = pieces.blocks
        experts = [sum(m.n_bytes for m in block.experts) for block in blocks]
        places = (*devices, budget.cpu)
        self._held = _sums(block.held_bytes for block in blocks)
        self._experts = _sums(experts)
        self._layers_s = {d: _sums(block.seconds[d] for block in blocks) for d in places}
        self._experts_s = {
            d: _sums(sum(m.seconds[d] for m in block.experts) for block in blocks) for d in places
        }
        self._moe = [index for index, n_bytes in enumerate(experts) if n_bytes]

    def best(self, extra: Extra, n_offload: int | None, shares: Shares | None) -> Layout:
        """The best layout. `n_offload` fixes how many layers are offloaded, `shares` who gets them."""
        n_all = len(self._pieces.blocks)

        @cache
        def at(counts: tuple[int, ...]) -> Layout:
            return self._layout(counts, extra)

        if not self._devices:
            return at((n_all,))
        numbers = range(n_all, -1, -1) if n_offload is None else [min(n_offload, n_all)]
        if shares is not None or len(self._devices) == 1:
            shared = shares or (lambda n: (n,))
            return min((at((n_all - n, *shared(n))) for n in numbers), key=lambda layout: layout.rank)
        starts = list(self._starts(numbers[0]))
        climbed = [_climb(start, at, is_fixed=n_offload is not None) for start in starts]
        return min(climbed, key=lambda layout: layout.rank)

    def full(self, layout: Layout, extra: Extra, shares: Shares | None) -> tuple[str, ...]:
        """The devices that keep layers in RAM by having no room for one more; none if a layer would fit."""
        n_rest, *dealt = layout.counts
        more = [(*dealt[:i], n + 1, *dealt[i + 1 :]) for i, n in enumerate(dealt) if n and n_rest]
        if shares is not None and n_rest:
            more = [tuple(shares(sum(dealt) + 1))]
        missing = [self._layout((n_rest - 1, *counts), extra).missing for counts in more]
        return tuple(d for d in self._devices if all(missing) and any(d in lacking for lacking in missing))

    def moved(self, layout: Layout) -> Moved:
        """Layer -> the names of those of its experts that the layout moves to RAM."""
        found: dict[int, tuple[str, ...]] = {}
        for kept in layout.kept:
            staying = {m.name for m in kept.parted[1]} if kept.parted else set()
            for layer in self._moe:
                if kept.start <= layer < kept.end and not kept.first <= layer < kept.last:
                    stays = staying if kept.parted and layer == kept.parted[0] else set()
                    names = [m.name for m in self._pieces.blocks[layer].experts if m.name not in stays]
                    found[layer] = tuple(names)
        return found

    def _starts(self, n: int) -> Iterator[tuple[int, ...]]:
        """Where to begin the search: everything on one device, and shares by what may be used."""
        rest = len(self._pieces.blocks) - n
        for one in range(len(self._devices)):
            yield (rest, *(n if number == one else 0 for number in range(len(self._devices))))
        free = [max(0, self._budget.available[device]) for device in self._devices]
        ends = [round(n * end / max(1, sum(free))) for end in accumulate(free)]
        yield (rest, *(b - a for a, b in zip([0, *ends], ends, strict=False)))

    def _layout(self, counts: tuple[int, ...], extra: Extra) -> Layout:
        """The layout with these counts: experts stay with their layers if they fit there."""
        if self._n_cpu_moe is not None or not self._moe:
            return self._dealt(counts, extra, moves=self._n_cpu_moe is not None)
        whole = self._dealt(counts, extra, moves=False)
        if not whole.missing:
            return whole
        return min(whole, self._dealt(counts, extra, moves=True), key=lambda layout: layout.rank)

    def _dealt(self, counts: tuple[int, ...], extra: Extra, *, moves: bool) -> Layout:
        cpu, start = self._budget.cpu, counts[0]
        in_ram = start > 0
        used = dict(self._pieces.fixed)
        used[cpu] = self._pieces.input_bytes + self._held[start] + self._experts[start]
        seconds = self._layers_s[cpu][start] + self._experts_s[cpu][start]
        all_kept: list[Kept] = []
        for device, count in zip(self._devices, counts[1:], strict=True):
            if not count:
                continue
            end = start + count
            held = self._held[end] - self._held[start] + self._pieces.shared_bytes + used.get(device, 0)
            room = self._budget.available[device] - held - extra.get((device, in_ram, moves), 0)
            kept = self._kept(device, start, end, room if moves else None)
            seconds += 0.0 if all_kept else self._pieces.start_s[device]
            all_kept.append(kept)
            used[device] = held + kept.n_bytes
            used[cpu] += kept.moved_bytes
            seconds += self._layers_s[device][end] - self._layers_s[device][start] + kept.seconds
            start = end
        if all_kept:
            seconds += (len(all_kept) - 1) * self._pieces.border_s + self._pieces.hop_s
            seconds += self._links_s(list(self._used(counts)), all_kept)
        else:
            seconds = self._pieces.ram_s
            used[cpu] -= self._pieces.tied_bytes
        needed = {name: n + extra.get((name, in_ram, moves), 0) for name, n in used.items()}
        missing = self._budget.missing(needed)
        filled = max((used[d] / max(1, self._budget.available[d]) for d in self._used(counts)), default=0.0)
        return Layout(cpu, self._devices, counts, tuple(all_kept), used, missing, seconds, filled)

    def _links_s(self, devices: Sequence[str], all_kept: Sequence[Kept]) -> float:
        """What the way between RAM and these devices costs, one after the other."""
        links = [self._pieces.links[device] for device in devices]
        seconds = sum(link.enter_s + link.leave_s for link in links[:-1])
        seconds += links[-1].enter_s + links[-1].output_s
        for link, kept in zip(links, all_kept, strict=True):
            n_moved = self._n_moved(kept)
            seconds += n_moved * link.moved_s + (link.parted_s if n_moved else 0.0)
        return seconds

    def _used(self, counts: tuple[int, ...]) -> Iterator[str]:
        return (device for device, count in zip(self._devices, counts[1:], strict=True) if count)

    def _kept(self, device: str, start: int, end: int, room: int | None) -> Kept:
        """Which experts of the layers from `start` to `end` stay on their device when it has so much room."""
        if self._n_cpu_moe is not None:
            return self._between(device, (start, end), (min(max(start, self._n_cpu_moe), end), end), None)
        sums = self._experts
        if room is None or sums[end] - sums[start] <= room:
            return self._between(device, (start, end), (start, end), None)
        room = max(0, room)
        first = bisect_left(sums, sums[end] - room, start, end)
        last = bisect_right(sums, sums[start] + room, start, end) - 1
        return min(
            self._parted(device, (start, end), (first, end), room),
            self._parted(device, (start, end), (start, max(last, start)), room),
            key=lambda kept: kept.seconds,
        )

    def _parted(self, device: str, layers: tuple[int, int], kept: tuple[int, int], room: int) -> Kept:
        """With the layer next to those kept whole in two parts, if one of its matrices still fits."""
        at = bisect_left(self._moe, kept[0]) - 1 if kept[1] == layers[1] else bisect_left(self._moe, kept[1])
        if not 0 <= at < len(self._moe) or not layers[0] <= self._moe[at] < layers[1]:
            return self._between(device, layers, kept, None)
        left = room - (self._experts[kept[1]] - self._experts[kept[0]])
        experts = self._pieces.blocks[self._moe[at]].experts
        stays = _largest_gain(experts, left, device, self._budget.cpu)
        return self._between(device, layers, kept, (self._moe[at], stays) if stays else None)

    def _between(
        self,
        device: str,
        layers: tuple[int, int],
        kept: tuple[int, int],
        parted: tuple[int, tuple[Matrix, ...]] | None,
    ) -> Kept:
        (start, end), (first, last) = layers, kept
        on_cpu, on_device = self._experts_s[self._budget.cpu], self._experts_s[device]
        n_bytes = self._experts[last] - self._experts[first]
        seconds = (
            on_device[last] - on_device[first] + on_cpu[end] - on_cpu[start] - on_cpu[last] + on_cpu[first]
        )
        for matrix in parted[1] if parted else ():
            n_bytes += matrix.n_bytes
            seconds -= matrix.seconds[self._budget.cpu] - matrix.seconds[device]
        n_moved = self._n_moe(start, end) - self._n_moe(first, last)
        seconds += 2 * n_moved * self._pieces.hop_s
        moved_bytes = self._experts[end] - self._experts[start] - n_bytes
        return Kept(start, end, first, last, parted, n_bytes, moved_bytes, seconds)

    def _n_moved(self, kept: Kept) -> int:
        return self._n_moe(kept.start, kept.end) - self._n_moe(kept.first, kept.last)

    def _n_moe(self, start: int, end: int) -> int:
        return bisect_left(self._moe, end) - bisect_left(self._moe, start)


def _sums(numbers: Iterable[float]) -> list[Any]:
    """Sums of the first 0, 1, 2 … numbers."""
    return list(accumulate(numbers, initial=0))


def _largest_gain(matrices: Sequence[Matrix], room: int, device: str, cpu: str) -> tuple[Matrix, ...]:
    """Those matrices of a layer that gain most on the device and still find room there; not all of them."""
    if not matrices or min(m.n_bytes for m in matrices) > room:
        return ()
    sets = [chosen for n in range(1, len(matrices)) for chosen in combinations(matrices, n)]
    fitting = [chosen for chosen in sets if sum(m.n_bytes for m in chosen) <= room]
    return max(
        fitting, key=lambda chosen: sum(m.seconds[cpu] - m.seconds[device] for m in chosen), default=()
    )


def _climb(start: tuple[int, ...], at: Callable[[tuple[int, ...]], Layout], *, is_fixed: bool) -> Layout:
    """From `start` on, move layers between devices as long as that helps."""
    best = at(start)
    for step in _STEPS:
        while True:
            moves = _moves(best.counts, step, first=1 if is_fixed else 0)
            better = min((at(move) for move in moves), key=lambda layout: layout.rank, default=best)
            if better.rank >= best.rank:
                break
            best = better
    return best


def _moves(counts: tuple[int, ...], step: int, first: int) -> Iterator[tuple[int, ...]]:
    """All ways to move `step` layers (or as many as there are) from one place to another."""
    for giver in range(first, len(counts)):
        n = min(step, counts[giver])
        for taker in range(first, len(counts)):
            if n and giver != taker:
                moved = list(counts)
                moved[giver] -= n
                moved[taker] += n
                yield tuple(moved)
