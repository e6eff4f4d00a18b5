"""What an operator, a method or a filter is about to make, judged before it is made. Knows no jinja2."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from moetool.template.budget import MAX_COUNT_ARGUMENT, MAX_INT_BITS, Budget, BudgetExceeded


def listed(budget: Budget, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments, with a lazy first one (the result of `map` and the like) drawn up to the limit."""
    if not args or not isinstance(args[0], Iterator):
        return args
    items = []
    for item in args[0]:
        budget.step()
        items.append(item)
    budget.keep(items)
    return (items, *args[1:])


def check_nothing(_budget: Budget, *_args: Any, **_kwargs: Any) -> None:
    pass


def check_count(value: Any) -> None:
    if isinstance(value, int) and abs(value) > MAX_COUNT_ARGUMENT:
        raise BudgetExceeded("count in an argument")


def checked_method(budget: Budget, method: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a method of a string, after the method was charged for reading it."""
    text = getattr(method, "__self__", None)
    if not isinstance(text, str):
        return args
    budget.read(len(text))
    if method.__name__ == "replace" and len(args) >= 2:
        _check_replace(budget, text, *args[:2])
    if method.__name__ == "join" and args:
        args = listed(budget, (iter(args[0]),))
        _check_join(budget, args[0], text)
    return args


def _check_replace(
    budget: Budget, text: Any, old: Any = "", new: Any = "", *_rest: Any, **_named: Any
) -> None:
    text, old, new = str(text), str(old), str(new)
    budget.make(len(text) + text.count(old) * max(0, len(new) - len(old)))


def _check_join(budget: Budget, items: Any, glue: Any = "", *_rest: Any, **_named: Any) -> None:
    weight = budget.weigh(items)
    budget.make(weight.chars + weight.nodes * len(str(glue)))


def _check_indent(budget: Budget, text: Any, width: Any = 4, *_rest: Any, **_named: Any) -> None:
    step = len(width) if isinstance(width, str) else int(width)
    budget.make(len(str(text)) + (str(text).count("\n") + 1) * step)


def _check_format(_budget: Budget, text: Any, *_rest: Any, **_named: Any) -> None:
    # "%9999999d" and "%*d" make as much as they are told to.
    if isinstance(text, str) and re.search(r"%[^a-zA-Z%]*(\d{4}|\*)", text):
        raise BudgetExceeded("width in a format")


def _check_multiply(budget: Budget, left: Any, right: Any) -> None:
    for value, count in ((left, right), (right, left)):
        if isinstance(value, str) and isinstance(count, int):
            budget.make(len(value) * max(0, count))
        elif isinstance(value, (list, tuple)) and isinstance(count, int):
            _check_nodes(budget, len(value) * count)
    _check_bits(_bits(left) + _bits(right))


def _check_power(_budget: Budget, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(_bits(left) * abs(right))


def _check_add(budget: Budget, left: Any, right: Any) -> None:
    if isinstance(left, str) and isinstance(right, str):
        budget.make(len(left) + len(right))
    elif isinstance(left, (list, tuple)):
        budget.step(len(left))


def _check_percent(budget: Budget, left: Any, right: Any) -> None:
    if isinstance(left, str):
        _check_format(budget, left)
        budget.take(right)


def _check_nodes(budget: Budget, n_nodes: int) -> None:
    if n_nodes > budget.max_nodes:
        raise BudgetExceeded("values in one container")


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _check_bits(bits: int) -> None:
    if bits > MAX_INT_BITS:
        raise BudgetExceeded("digits in one number")


BINOP_CHECKS: dict[str, Callable[[Budget, Any, Any], None]] = {
    "*": _check_multiply,
    "**": _check_power,
    "+": _check_add,
    "%": _check_percent,
}
FILTER_CHECKS: dict[str, Callable[..., None]] = {
    "replace": _check_replace,
    "join": _check_join,
    "indent": _check_indent,
    "format": _check_format,
}
