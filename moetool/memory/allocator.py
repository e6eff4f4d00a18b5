"""How large ggml's graph allocator lets a compute buffer grow, for a graph given as a list of steps.

Restates what ggml_gallocr_alloc_graph_impl (ggml/src/ggml-alloc.c) and the splitting of a graph over devices
(ggml_backend_sched_split_graph, ggml/src/ggml-backend.cpp) do to sizes; nothing is allocated or computed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

_ALIGNMENT = 32  # of tensors in ggml's CPU buffers
_ENDLESS = 1 << 62
# From so many rows on, GPUs take over what has its weights in host memory (op_offload_min_batch_size).
_MANY_ROWS = 32


class Step(NamedTuple):
    """One tensor of a graph: its bytes, the steps it reads, and those whose memory it may take over.

    `device` is where the weights of the step lie; "" for a step without weights, which runs where its
    neighbours do. With weights, `rows` is how many rows it computes and `weight_bytes` what its matrix takes:
    a GPU may take over a step of many rows, and then needs a copy of the matrix. An `is_input` is filled from
    outside: it has its place before anything else is computed; with `is_kept`, not in this buffer (a cache);
    with `is_leaf`, once for all batches, because nothing from outside is in it.
    A plain tuple, because thousands are made for every plan.
    """

    n_bytes: int
    reads: tuple[int, ...]
    may_reuse: tuple[int, ...]
    device: str
    is_input: bool = False
    rows: int = 0
    weight_bytes: int = 0
    is_kept: bool = False
    is_copy: bool = False
    is_moved: bool = False
    is_leaf: bool = False


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
        at = bisect_left(self.blocks, [start])
        self.blocks.insert(at, [start, n_bytes])
        self._merge(at)
        if at:
            self._merge(at - 1)

    def _merge(self, at: int) -> None:
        if at + 1 < len(self.blocks) and sum(self.blocks[at]) == self.blocks[at + 1][0]:
            self.blocks[at][1] += self.blocks[at + 1][1]
            del self.blocks[at + 1]


def peak_bytes(
    steps: Sequence[Step], cpu: str, helper: str | None = None, n_batches: int = 1
) -> dict[str, int]:
    """Device -> bytes of the compute buffer that the graph needs there.

    `helper` is the device that takes over the CPU's steps of many rows, if any does. With `n_batches` > 1
    so many batches are on their way at once: each has inputs and copies between devices of its own.
    """
    placed = _with_copies(_settled(_taken_over(steps, cpu, helper), cpu))
    arenas = {step.device: _Arena() for step in placed}
    readers = [0] * len(placed)
    for step in placed:
        for source in step.reads:
            readers[source] += 1
    if n_batches > 1:
        placed = [_lasting(step) for step in placed]
    # What an input "reads" is kept for good: it never gets its turn to have read it.
    place: dict[int, tuple[int, int]] = {}
    for number, step in enumerate(placed):
        if step.is_input and not step.is_kept:
            size, times = _aligned(step.n_bytes), 1 if step.is_leaf else n_batches
            place[number] = (arenas[step.device].take(times * size), size)
            readers[number] += times - 1
    for number, step in enumerate(placed):
        if step.is_input:
            continue
        _allocate(number, step, arenas[step.device], place, readers)
        for source in step.reads:
            readers[source] -= 1
            if not readers[source] and source in place:
                arenas[placed[source].device].give(*place.pop(source))
    return {device: arena.peak for device, arena in arenas.items()}


def _lasting(step: Step) -> Step:
    """A copy between devices is there for as long as an input is, when several batches are on their way."""
    return step._replace(is_input=True, reads=()) if step.is_copy else step


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
        step if step.device else Step(step.n_bytes, step.reads, step.may_reuse, device or cpu, step.is_input)
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
    """The steps with a copy of everything that a device reads and another one made or holds.

    Consecutive steps of one device form a split; its copies come first, and later splits of the same device
    use them again. The original stays until it was copied.
    """
    foreign = _foreign(steps)
    if not any(foreign.values()):
        return list(steps)
    # Inputs first: a split's copies are made where it begins, also of an input that is written down later.
    first = [index for index, step in enumerate(steps) if step.is_input and not step.reads]
    placed = [steps[index] for index in first]
    number_of = {index: number for number, index in enumerate(first)}
    copies_on: dict[str, dict[int, int]] = {step.device: {} for step in steps}
    for index, step in enumerate(steps):
        if index in number_of:
            continue
        copies = copies_on[step.device]
        for source in foreign.get(index, ()):
            copies[source] = len(placed)
            if source < 0:
                placed.append(Step(steps[~source].weight_bytes, (), (), step.device, is_copy=True))
            else:
                source_step = number_of[source]
                n_bytes = steps[source].n_bytes
                placed.append(Step(n_bytes, (source_step,), (), step.device, is_copy=True))
        reads = tuple([copies.get(source, number_of[source]) for source in step.reads])
        if step.is_moved:
            reads = (copies[~index], *reads)
        reuse = tuple([copies.get(source, number_of[source]) for source in step.may_reuse])
        number_of[index] = len(placed)
        placed.append(step._replace(reads=reads, may_reuse=reuse, rows=0, weight_bytes=0, is_moved=False))
    return placed


def _foreign(steps: Sequence[Step]) -> dict[int, list[int]]:
    """First step of a split -> what has to be copied before it: steps, and (as ~number) a step's weights.

    A split ends where the device changes, and before a step with foreign weights, so that the memory of
    those before them is free again.
    """
    found: dict[int, list[int]] = {}
    copied: set[tuple[int, str]] = set()
    start, device = -1, ""
    for index, step in enumerate(steps):
        if step.is_input:
            continue
        if step.device != device or (step.is_moved and found[start]):
            start, device = index, step.device
            found[start] = []
        wanted = [~index] if step.is_moved else []
        wanted += [source for source in step.reads if steps[source].device != device]
        for source in wanted:
            if (source, device) not in copied:
                copied.add((source, device))
                found[start].append(source)
    return found


def _taken_over(steps: Sequence[Step], cpu: str, helper: str | None) -> Sequence[Step]:
    """The steps, those with weights and many rows moved from the CPU to the device that takes them over."""
    if helper is None:
        return steps
    return [
        step._replace(device=helper, is_moved=True)
        if step.device == cpu and step.rows >= _MANY_ROWS
        else step
        for step in steps
    ]
