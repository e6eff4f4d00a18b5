"""Writing down a graph step by step, for the allocator: what a forward pass computes, in order."""

from __future__ import annotations

from moetool.memory.allocator import Step


class Tape:
    """A graph being written. Widths are F32 values per token; `tokens` is how many are computed now.

    Products with weights, and norms, happen on `device`, where the weights are; with `norms_at_home`, a norm
    as a whole.

    A step is named by its number. A view of it (another shape, a part, a permutation) by a negative one: it
    takes no memory, and keeps what it shows from being computed over, which ggml does for whole tensors only.
    """

    def __init__(self, tokens: int, device: str) -> None:
        self.tokens = tokens
        self.device = device
        self.norms_at_home = False
        self._last_device = device
        self.steps: list[Step] = []
        self._shown: list[int] = []

    def input(self, n_bytes: int, device: str) -> int:
        """Something filled from outside: tokens, positions, masks."""
        return self._add(Step(n_bytes, (), (), device, is_input=True))

    def leaf(self, n_bytes: int, device: str) -> int:
        """Something that is there before anything runs, and filled on its device."""
        return self._add(Step(n_bytes, (), (), device, is_input=True, is_leaf=True))

    def cache(self, n_bytes: int) -> int:
        """What a cache on this device holds: not in the compute buffer, unless another device reads it."""
        return self._add(Step(n_bytes, (), (), self.device, is_input=True, is_kept=True))

    def store(self, *reads: int) -> int:
        """Something is written into a cache on this device."""
        return self._add(Step(0, tuple(map(self.shown, reads)), (), self.device))

    def product(self, width: int, *reads: int, weight_bytes: int = 1) -> int:
        """A product with weights: `width` values for each token. Small weights need not be counted."""
        reads = tuple(map(self.shown, reads))
        n_bytes = 4 * width * self.tokens
        return self._add(Step(n_bytes, reads, (), self.device, rows=self.tokens, weight_bytes=weight_bytes))

    def rows(self, width: int, index: int) -> int:
        """Rows of a matrix, which are looked up where the matrix is."""
        return self._add(Step(4 * width * self.tokens, (index,), (), self.device))

    def norm(self, x: int, in_place: bool = True) -> int:
        """A norm with its weight: RMS norms happen in place if nobody else reads `x`, LayerNorms do not.

        Where another device takes over, the old one still norms, and the new one multiplies by the weight;
        unless `norms_at_home`.
        """
        reuse = (x,) if in_place and x >= 0 else ()
        if self.device != self._last_device and not self.norms_at_home:
            x = self._add(Step(self.size(x), (self.shown(x),), reuse, ""))
            reuse = (x,)
        self._last_device = self.device
        return self._add(
            Step(self.size(x), (self.shown(x),), reuse, self.device, rows=self.tokens, weight_bytes=1)
        )

    def new(self, width: int, *reads: int) -> int:
        """A result of `width` values for each token: a copy, a gated activation."""
        return self.raw(4 * width * self.tokens, *reads)

    def raw(self, n_bytes: int, *reads: int, device: str = "") -> int:
        """A result of a fixed number of bytes; on `device`, where what it reads besides lies there."""
        return self._add(Step(n_bytes, tuple(map(self.shown, reads)), (), device))

    def like(self, first: int, *others: int) -> int:
        """A result of the size of `first` that cannot take its place: a product of two."""
        return self.raw(self.size(first), first, *others)

    def over(self, first: int, *others: int) -> int:
        """A result of the size of `first`, in its place if nobody else still reads it: norm, bias, rope.

        Of `others`, those of the same size may give up their place too (an addition's other side).
        """
        size = self.size(first)
        reuse = tuple(s for s in (first, *others) if s >= 0 and self.size(s) == size)
        reads = tuple(map(self.shown, (first, *others)))
        return self._add(Step(size, reads, reuse, ""))

    def keep(self, step: int) -> None:
        """Nobody may take the place of `step`: it is handed out with the results."""
        self._add(Step(0, (step, step), (), "", is_input=True))

    def view(self, step: int) -> int:
        """Another look at the memory of `step`."""
        self._shown.append(self.shown(step))
        return -len(self._shown)

    def shown(self, step: int) -> int:
        """The step itself, or what a view shows."""
        return step if step >= 0 else self._shown[-step - 1]

    def size(self, step: int) -> int:
        """Bytes of a step, or of the whole that a view shows."""
        return self.steps[self.shown(step)].n_bytes

    def on(self, device: str | None) -> Tape:
        """Write the next steps for `device` (None: stay where it is)."""
        self.device = device or self.device
        return self

    def _add(self, step: Step) -> int:
        self.steps.append(step)
        return len(self.steps) - 1
