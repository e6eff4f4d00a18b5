"""Writing down a graph step by step, for the allocator: what a forward pass computes, in order."""

from __future__ import annotations

from moetool.memory.allocator import Step


class Tape:
    """A graph being written. Widths are F32 values per token; `tokens` is how many are computed now."""

    def __init__(self, tokens: int, device: str) -> None:
        self.tokens = tokens
        self.device = device
        self.steps: list[Step] = []

    def input(self, n_bytes: int, device: str) -> int:
        """Something filled from outside: tokens, positions, masks."""
        return self._add(Step(n_bytes, (), (), device, is_input=True))

    def new(self, width: int, *reads: int) -> int:
        """A result of `width` values for each token: a matrix product, a copy, a gated activation."""
        return self.raw(4 * width * self.tokens, *reads)

    def raw(self, n_bytes: int, *reads: int) -> int:
        """A result of a fixed number of bytes."""
        return self._add(Step(n_bytes, reads, (), self.device))

    def over(self, first: int, *others: int) -> int:
        """A result of the shape of `first`, in its place if nobody else still reads it: norm, bias, rope.

        Of `others`, those of the same size may give up their place too (an addition's other side).
        """
        size = self.steps[first].n_bytes
        same = tuple(other for other in others if self.steps[other].n_bytes == size)
        return self._add(Step(size, (first, *others), (first, *same), self.device))

    def over_new(self, first: int, *others: int) -> int:
        """A result of the shape of `first` that cannot take its place: a product."""
        return self.raw(self.steps[first].n_bytes, first, *others)

    def on(self, device: str | None) -> Tape:
        """Write the next steps for `device` (None: stay where it is)."""
        self.device = device or self.device
        return self

    def _add(self, step: Step) -> int:
        self.steps.append(step)
        return len(self.steps) - 1
