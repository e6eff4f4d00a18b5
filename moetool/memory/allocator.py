"""How large ggml's graph allocator lets a compute buffer grow, for a graph given as a list of steps.

Restates what ggml_gallocr_alloc_graph_impl (ggml/src/ggml-alloc.c) and the splitting of a graph over devices
(ggml_backend_sched_split_graph, ggml/src/ggml-backend.cpp) do to sizes; nothing is allocated or computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_ALIGNMENT = 32  # of tensors in ggml's CPU buffers
_ENDLESS = 1 << 62


@dataclass(frozen=True)
class Step:
    """One tensor of a graph: its bytes, the steps it reads, and those whose memory it may take over.

    `device` is where the weights of the step lie; "" for a step without weights, which runs where its
    neighbours do. An `is_input` is filled from outside: it has its place before anything else is computed.
    """

    n_bytes: int
    reads: tuple[int, ...]
    may_reuse: tuple[int, ...]
    device: str
    is_input: bool = False


class _Arena:
    """Free blocks of one device's buffer, by address; the last one has no end."""

    def __init__(self) -> None:
        self.blocks: list[list[int]] = [[0, _ENDLESS]]
        self.peak = 0

    def take(self, n_bytes: int) -> int:
        """The best fitting block before the last, the latest of equals; else from the last block."""
        best = len(self.blocks) - 1
        smallest = _ENDLESS
        for index in range(len(self.blocks) - 1):
            size = self.blocks[index][1]
            if n_bytes <= size <= smallest:
                best, smallest = index, size
        block = self.blocks[best]
        start = block[0]
        block[0] += n_bytes
        block[1] -= n_bytes
        if not block[1]:
            del self.blocks[best]
        self.peak = max(self.peak, start + n_bytes)
        return start

    def give(self, start: int, n_bytes: int) -> None:
        at = 0
        while at < len(self.blocks) and self.blocks[at][0] < start:
            at += 1
        self.blocks.insert(at, [start, n_bytes])
        self._merge(at)
        if at:
            self._merge(at - 1)

    def _merge(self, at: int) -> None:
        if at + 1 < len(self.blocks) and sum(self.blocks[at]) == self.blocks[at + 1][0]:
            self.blocks[at][1] += self.blocks[at + 1][1]
            del self.blocks[at + 1]


def peak_bytes(steps: Sequence[Step], cpu: str) -> dict[str, int]:
    """Device -> bytes of the compute buffer that the graph needs there."""
    placed = _with_copies(_settled(steps, cpu))
    arenas = {step.device: _Arena() for step in placed}
    readers = [0] * len(placed)
    for step in placed:
        for source in step.reads:
            readers[source] += 1
    # What an input "reads" is kept for good: it never gets its turn to have read it.
    place: dict[int, tuple[int, int]] = {}
    for number, step in enumerate(placed):
        if step.is_input:
            size = _aligned(step.n_bytes)
            place[number] = (arenas[step.device].take(size), size)
    for number, step in enumerate(placed):
        if step.is_input:
            continue
        _allocate(number, step, arenas[step.device], place, readers)
        for source in step.reads:
            readers[source] -= 1
            if not readers[source] and source in place:
                arenas[placed[source].device].give(*place.pop(source))
    return {device: arena.peak for device, arena in arenas.items()}


def _allocate(
    number: int, step: Step, arena: _Arena, place: dict[int, tuple[int, int]], readers: Sequence[int]
) -> None:
    size = _aligned(step.n_bytes)
    if not size:
        return
    for source in step.may_reuse:
        # Taken over where this step is the last to read it.
        if source in place and readers[source] == 1 and place[source][1] == size:
            place[number] = place.pop(source)
            return
    place[number] = (arena.take(size), size)


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT


def _settled(steps: Sequence[Step], cpu: str) -> list[Step]:
    """The steps with a device each.

    Offload devices spread first, forwards and then backwards, over neighbours without weights, and stop at
    steps of the CPU; whatever is left goes with the step before it.
    """
    devices = [step.device for step in steps]
    order = [index for index, step in enumerate(steps) if not step.is_input]
    _spread(devices, order, stops={cpu})
    _spread(devices, order[::-1], stops={cpu})
    _spread(devices, order, stops=set())
    _spread(devices, order[::-1], stops=set())
    return [
        Step(step.n_bytes, step.reads, step.may_reuse, device or cpu, step.is_input)
        for step, device in zip(steps, devices, strict=True)
    ]


def _spread(devices: list[str], order: Sequence[int], stops: set[str]) -> None:
    current = ""
    for index in order:
        if devices[index]:
            current = "" if devices[index] in stops else devices[index]
        else:
            devices[index] = current


def _with_copies(steps: Sequence[Step]) -> list[Step]:
    """The steps with a copy of everything that a device reads and another one made.

    Consecutive steps of one device form a split; its copies come first, and later splits of the same device
    use them again. The original stays until it was copied.
    """
    placed: list[Step] = []
    number_of: list[int] = []
    copies: dict[tuple[int, str], int] = {}
    last = -1
    for index, step in enumerate(steps):
        if step.is_input:
            number_of.append(len(placed))
            reads = tuple(number_of[source] for source in step.reads)
            placed.append(Step(step.n_bytes, reads, (), step.device, is_input=True))
            continue
        if last < index:
            last = _split_end(steps, index)
            _copy_foreign(steps, index, last, placed, number_of, copies)
        renamed = {source: copies.get((source, step.device), number_of[source]) for source in step.reads}
        reads = tuple(renamed[source] for source in step.reads)
        reuse = tuple(renamed[source] for source in step.may_reuse)
        number_of.append(len(placed))
        placed.append(Step(step.n_bytes, reads, reuse, step.device))
    return placed


def _split_end(steps: Sequence[Step], start: int) -> int:
    """The last step of the split that begins at `start`."""
    end = start
    for index in range(start, len(steps)):
        if not steps[index].is_input:
            if steps[index].device != steps[start].device:
                break
            end = index
    return end


def _copy_foreign(
    steps: Sequence[Step],
    start: int,
    end: int,
    placed: list[Step],
    number_of: list[int],
    copies: dict[tuple[int, str], int],
) -> None:
    device = steps[start].device
    for step in steps[start : end + 1]:
        if step.is_input:
            continue
        for source in step.reads:
            foreign = source < start and steps[source].device != device
            if foreign and (source, device) not in copies:
                copies[source, device] = len(placed)
                placed.append(Step(steps[source].n_bytes, (number_of[source],), (), device))
