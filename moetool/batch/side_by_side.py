"""Generations side by side: one decoding for all of them, and the next prompt wherever one has ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from moetool.errors import ContextFull, Interrupted, MoetoolError, OutputInvalid
from moetool.generate import CONTEXT, Generation


class Slot(Protocol):
    """What is needed of one sequence of an engine."""

    def require_room(self, n_more: int) -> None: ...


SlotT = TypeVar("SlotT", bound=Slot)
JobT = TypeVar("JobT")


class Slots(Protocol[SlotT]):
    """What is needed of an engine: sequences that are decoded together, `n_batch` tokens at a time."""

    @property
    def all(self) -> Sequence[SlotT]: ...
    @property
    def n_batch(self) -> int: ...
    def decode(self, parts: Sequence[tuple[SlotT, Sequence[int]]]) -> None: ...


@dataclass(frozen=True)
class _Running(Generic[JobT, SlotT]):
    job: JobT
    slot: SlotT
    generation: Generation


def answer_side_by_side(
    slots: Slots[SlotT], queue: deque[JobT], begin: Callable[[JobT, SlotT], Generation]
) -> Iterator[tuple[JobT, Generation | MoetoolError]]:
    """Each job's finished generation as soon as it has ended, or the error that kept it from going on.

    `begin` makes a slot ready and returns the generation over what is still to be decoded. The queue may grow
    while it is worked off. Interrupted, and errors of decoding, end everything.
    """
    free = list(slots.all)
    running: list[_Running[JobT, SlotT]] = []
    while queue or running:
        while queue and free:
            job, slot = queue.popleft(), free.pop(0)
            try:
                generation = begin(job, slot)
                slot.require_room(len(generation.pending))
            except Interrupted:
                raise
            except MoetoolError as error:
                free.insert(0, slot)
                yield job, error
            else:
                running.append(_Running(job, slot, generation))
        if running:
            _decode_pending(slots, running)
        for one in [one for one in running if not one.generation.pending]:
            outcome = _draw(one)
            if outcome is not None:
                running.remove(one)
                free.append(one.slot)
                yield one.job, outcome


def _decode_pending(slots: Slots[SlotT], running: Sequence[_Running[JobT, SlotT]]) -> None:
    """One batch of what is pending; a long prompt takes what room the others leave: none waits for it."""
    parts: list[tuple[SlotT, Sequence[int]]] = []
    room = slots.n_batch
    for one in sorted(running, key=lambda one: len(one.generation.pending)):
        part = one.generation.pending[:room]
        one.generation.pending = one.generation.pending[room:]
        room -= len(part)
        if part:
            parts.append((one.slot, part))
    slots.decode(parts)


def _draw(one: _Running[JobT, SlotT]) -> Generation | MoetoolError | None:
    """The finished generation if this draw has ended it."""
    generation = one.generation
    try:
        for _ in generation.draw():
            pass
        if not generation.reason:
            one.slot.require_room(len(generation.pending))
            return None
    except ContextFull:
        generation.reason = CONTEXT
    except OutputInvalid as error:
        return error
    generation.finish(generation.reason)
    return generation
