"""A jinja2 environment in which a stranger's template can be compiled and run.

On top of jinja2's own immutable sandbox: attributes are a short list for each type; filters and globals that
no chat template needs are gone; every loop, call, filter, operator, comparison, literal and output is charged
to the budget of the rendering in progress, before the work where its size can be told in advance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols
from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from moetool.template.budget import Budget, BudgetExceeded
from moetool.template.checks import (
    BINOP_CHECKS,
    FILTER_CHECKS,
    check_count,
    check_nothing,
    checked_method,
    listed,
)
from moetool.template.syntax import Charger, Generation

BUDGET: ContextVar[Budget] = ContextVar("BUDGET")
# Characters that stand for others while a template runs; see control.py.
STAND_INS: ContextVar[str] = ContextVar("STAND_INS", default="")

_STR = """capitalize casefold count endswith find format index isalnum isalpha isascii isdecimal isdigit
isidentifier islower isnumeric isprintable isspace istitle isupper join lower lstrip partition removeprefix
removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines startswith strip swapcase title
upper"""
ATTRIBUTES: tuple[tuple[type, frozenset[str]], ...] = (
    (str, frozenset(_STR.split())),
    (dict, frozenset({"get", "items", "keys", "values", "copy"})),
    (list, frozenset({"index", "count", "copy"})),
    (tuple, frozenset({"index", "count"})),
)
# Their public attributes are made for templates.
OPEN_TYPES = (Namespace, LoopContext, Macro, Undefined)

_FILTERS = """abs batch capitalize count d default dictsort e escape first float format groupby indent int
items join last length list lower map max min reject rejectattr replace reverse round safe select selectattr
slice sort string sum title trim truncate unique upper urlencode"""
FILTERS = frozenset(_FILTERS.split())
# These walk their arguments to the bottom: they print or compare them.
_DEEP_FILTERS = """dictsort e escape format groupby join max min replace sort string tojson
unique urlencode"""
DEEP_FILTERS = frozenset(_DEEP_FILTERS.split())
_DEEP_TESTS = """eq equalto ge greaterthan gt in le lessthan lt ne == != > >= < <="""
DEEP_TESTS = frozenset(_DEEP_TESTS.split())
GLOBALS = frozenset({"range", "dict", "namespace"})


class TemplateRefused(Exception):
    """The template itself called `raise_exception`."""


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment; make one per template and keep it. The budget comes from BUDGET at every call."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        # optimized=False: constant expressions would otherwise be computed while compiling.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_charged_output,
            extensions=[Generation, loopcontrols],
        )
        kept = {name: self.filters[name] for name in FILTERS} | {"sum": _sum}
        self.filters = {name: _charged_filter(name, kept[name]) for name in kept}
        self.filters["tojson"] = _charged_filter("tojson", _to_json)
        self.tests = {n: _charged_test(t) if n in DEEP_TESTS else t for n, t in self.tests.items()}
        self.globals = {name: self.globals[name] for name in GLOBALS}
        self.globals["raise_exception"] = _raise_exception
        # What Charger puts calls of into the tree.
        self.tick, self.ticking, self.taken, self.kept, self.spliced = _HOOKS

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        charged: nodes.Template = Charger().visit(tree)
        return charged.set_environment(self)  # type: ignore[return-value]

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Only the attributes listed above, and never one with an underscore in front."""
        if attr.startswith("_") or not super().is_safe_attribute(obj, attr, value):
            return False
        if isinstance(obj, OPEN_TYPES):
            return True
        return any(isinstance(obj, kind) and attr in names for kind, names in ATTRIBUTES)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """Say no at once; the base class prints nothing until the value is used."""
        raise SecurityError(f"attribute {attribute!r} of a {type(obj).__name__} is not available")

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As the base class, charged."""
        BUDGET.get().step()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """As the base class, charged."""
        BUDGET.get().step()
        return super().getitem(obj, argument)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call something from a template; our own hooks directly, everything else charged."""
        if __obj in _HOOKS:
            return __obj(*args)
        budget = BUDGET.get()
        budget.step()
        budget.keep(args)
        budget.keep(kwargs)
        result = super().call(__context, __obj, *checked_method(budget, __obj, args), **kwargs)
        budget.keep(result)
        return result

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """jinja2's safe `str.format`, without widths that fill memory."""
        safe = super().wrap_str_format(value)
        if safe is None or value.__name__ != "format":
            return None if safe is None else _no_format_map
        text = str(value.__self__)

        @wraps(safe)
        def bounded(*args: Any, **kwargs: Any) -> str:
            if re.search(r"\d{4}|\{[^{}]*\{", text):
                raise BudgetExceeded("width in a format")
            BUDGET.get().take([args, kwargs])
            return safe(*args, **kwargs)

        return bounded

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """An operator, refused before it makes something huge."""
        budget = BUDGET.get()
        budget.step()
        BINOP_CHECKS.get(operator, check_nothing)(budget, left, right)
        result = super().call_binop(context, operator, left, right)
        budget.keep(result)
        return result


# -- run time: the hooks -------------------------------------------------------------------------------


def _tick(n_steps: int, n_chars: int) -> None:
    BUDGET.get().step(n_steps)
    BUDGET.get().make(n_chars)


class _Ticking:
    """An iterable that charges a step for each item, also where a filter drops the item."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __len__(self) -> int:
        return len(self._value)

    def __iter__(self) -> Iterator[Any]:
        for item in self._value:
            BUDGET.get().step()
            yield item


def _taken(value: Any) -> Any:
    BUDGET.get().take(value)
    return value


def _kept(value: Any) -> Any:
    BUDGET.get().keep(value)
    return value


def _spliced(*values: Any) -> str:
    budget = BUDGET.get()
    budget.take(values)
    text = "".join(map(str, values))
    budget.keep(text)
    return text


_HOOKS = (_tick, _Ticking, _taken, _kept, _spliced)


@pass_context
def _charged_output(context: Any, value: Any) -> Any:
    budget = BUDGET.get()
    if not isinstance(value, str):
        budget.take(value)
        value = str(value)
    budget.make(len(value))
    return value


def _charged_filter(name: str, function: Any) -> Callable[..., Any]:
    charge = Budget.take if name in DEEP_FILTERS else Budget.glance
    check: Callable[..., None] = FILTER_CHECKS.get(name, check_nothing)
    n_own = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def charged(*args: Any, **kwargs: Any) -> Any:
        budget = BUDGET.get()
        budget.step()
        own, args = args[:n_own], listed(budget, args[n_own:])
        for value in (*args, *kwargs.values()):
            charge(budget, value)
            check_count(value)
        check(budget, *args, **kwargs)
        result = function(*own, *args, **kwargs)
        budget.keep(result)
        return result

    return charged


def _charged_test(function: Any) -> Callable[..., Any]:
    @wraps(function)
    def charged(*args: Any) -> Any:
        for value in args:
            BUDGET.get().take(value)
        return function(*args)

    return charged


def _raise_exception(message: Any) -> None:
    raise TemplateRefused(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as the Hub's libraries write it: no HTML escapes, other letters as they are."""
    if not isinstance(indent, (int, type(None))) or (indent or 0) > 64:
        raise BudgetExceeded("indentation")
    text = json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    if ensure_ascii:
        for char in STAND_INS.get():
            text = text.replace(json.dumps(char)[1:-1], char)
    return text


def _sum(values: Any, start: Any = 0) -> Any:
    for value in values:
        if not isinstance(value, (int, float)):
            raise SecurityError("sum is for numbers")
        start = start + value
    return start


def _no_format_map(*_args: Any, **_kwargs: Any) -> str:
    raise SecurityError("format_map is not available")


def compile_template(text: str) -> jinja2.Template:
    """Compile in a sandbox of its own; jinja2's exceptions, RecursionError or SyntaxError when it fails."""
    return Sandbox().from_string(text)
