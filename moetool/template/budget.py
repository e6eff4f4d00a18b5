"""What one rendering may cost. Pure counting: it knows sizes of values, not templates.

Every operation of a template is charged for what it reads and what it makes, so that time and memory stay
within a constant plus a multiple of the input, whatever the template does.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, KeysView, Mapping, ValuesView
from dataclasses import dataclass, field

MAX_STEPS = 100_000
MAX_CHARS = 1 << 27
MAX_STRING_CHARS = 4 << 20
MAX_NODES = 50_000
MAX_DEPTH = 64
MAX_INT_BITS = 256
MAX_COUNT_ARGUMENT = 100_000
# A character made costs this many characters read: what is made may stay in memory.
MADE = 4

_VIEWS = (KeysView, ValuesView, ItemsView)


class BudgetExceeded(Exception):
    """A template asks for more than a chat template can need; the text says of what."""


@dataclass(frozen=True)
class Weight:
    """A value written out as a tree: how many values and characters it has, and how many were visited."""

    nodes: int
    chars: int
    visited: int


@dataclass
class Budget:
    """The allowance of one rendering; limits grow with the input so that long chats still fit.

    `known` holds the weights of containers in the input by id, weighed once: those are trees that cannot
    change, and looking at them again is free.
    """

    steps: int = MAX_STEPS
    chars: int = MAX_CHARS
    max_string: int = MAX_STRING_CHARS
    max_nodes: int = MAX_NODES
    known: dict[int, Weight] = field(default_factory=dict)

    def admit(self, values: Iterable[object]) -> None:
        """Weigh the input and widen the limits by it."""
        for value in values:
            weight = self._remember(value, 0)
            self.steps += 256 * weight.nodes
            self.chars += 256 * weight.chars
            self.max_string += 4 * weight.chars
            self.max_nodes += 4 * weight.nodes

    def step(self, n: int = 1) -> None:
        """Charge `n` steps of work."""
        self.steps -= n
        if self.steps < 0:
            raise BudgetExceeded("work")

    def read(self, n_chars: int) -> None:
        """Charge for looking at text."""
        self.chars -= n_chars
        if self.chars < 0:
            raise BudgetExceeded("text")

    def make(self, n_chars: int) -> None:
        """Charge for text about to be made, or just made."""
        if n_chars > self.max_string:
            raise BudgetExceeded("text in one string")
        self.read(MADE * n_chars)

    def glance(self, value: object) -> None:
        """Charge for handing `value` to something that looks at its top level."""
        if isinstance(value, str):
            self.read(len(value))
        elif isinstance(value, (list, tuple, Mapping, *_VIEWS)):
            self.step(1 + len(value) // 16)

    def take(self, value: object) -> None:
        """Charge for handing `value` to something that walks all of it, as comparing and printing do."""
        if isinstance(value, str):
            self.read(len(value))
            return
        weight = self.weigh(value)
        self.step(weight.nodes)
        self.make(weight.chars)

    def keep(self, value: object) -> None:
        """Charge for a value that was just made, and refuse one that is too large to be walked later."""
        if isinstance(value, str):
            self.make(len(value))
            return
        weight = self.weigh(value)
        self.step(weight.visited)
        if weight.nodes > self.max_nodes or weight.chars > self.chars:
            raise BudgetExceeded("values in one container")

    def weigh(self, value: object) -> Weight:
        """The size of `value` as a tree: something that stands in it twice counts twice."""
        nodes = chars = visited = 0
        stack: list[tuple[object, int]] = [(value, 0)]
        while stack:
            item, depth = stack.pop()
            visited += 1
            known = self.known.get(id(item))
            if known is not None:
                nodes, chars = nodes + known.nodes, chars + known.chars
            elif isinstance(item, str):
                nodes, chars = nodes + 1, chars + len(item)
            else:
                nodes += len(item) if isinstance(item, range) else 1
                stack.extend((child, depth + 1) for child in _children(item))
            if depth > MAX_DEPTH or nodes > self.max_nodes or visited > self.steps:
                raise BudgetExceeded("values in one container")
        return Weight(nodes, chars, visited)

    def _remember(self, value: object, depth: int) -> Weight:
        if depth > MAX_DEPTH:
            raise BudgetExceeded("nesting in the messages")
        if isinstance(value, str):
            return Weight(1, len(value), 1)
        parts = [self._remember(child, depth + 1) for child in _children(value)]
        weight = Weight(1 + sum(p.nodes for p in parts), sum(p.chars for p in parts), 1)
        if isinstance(value, (list, tuple, dict)):
            self.known[id(value)] = weight
        return weight


def _children(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return [part for pair in value.items() for part in pair]
    if isinstance(value, (list, tuple, set, frozenset, *_VIEWS)):
        return value
    return _held_by_namespace(value)


def _held_by_namespace(value: object) -> Iterable[object]:
    """What a jinja2 namespace holds (it prints that), without asking objects that invent attributes."""
    try:
        held = object.__getattribute__(value, "_Namespace__attrs")
    except AttributeError:
        return ()
    return held.values() if isinstance(held, dict) else ()
