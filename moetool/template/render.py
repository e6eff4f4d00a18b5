"""Rendering: one template, one chat, one prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from moetool.errors import TemplateError
from moetool.template.budget import Budget, BudgetExceeded
from moetool.template.control import Disguise, Known, Piece, Shaped

if TYPE_CHECKING:
    import jinja2

MAX_TEMPLATE_CHARS = 256 << 10
MAX_TIME_FORMAT_CHARS = 100
_HINT = "moetool run … --raw continues the bare text without it"

# For models that bring no template: the most common format among those that do.
CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

Messages = Sequence[Mapping[str, Any]]


def render_chat(
    template_text: str,
    messages: Messages,
    *,
    add_generation_prompt: bool = True,
    bos_token: str = "",
    eos_token: str = "",
    **extra: Any,
) -> str:
    """The prompt as the Hub's libraries render it; TemplateError in one sentence when that fails.

    `extra` reaches the template under its own names (`tools`, `enable_thinking`, `documents`, …). The text
    may begin with `bos_token`: then none must be added while tokenizing. Control tokens in messages look like
    those of the template here; `render_pieces` tells them apart.
    """
    special = {"bos_token": bos_token, "eos_token": eos_token}
    given = {"add_generation_prompt": add_generation_prompt, "tools": None, "documents": None, **extra}
    return _run(_compiled(template_text), {**given, **special, "messages": list(messages)}, "")


def render_pieces(
    template_text: str,
    messages: Messages,
    *,
    control_tokens: Iterable[str] | None = None,
    bos_token: str = "",
    eos_token: str = "",
    **extra: Any,
) -> tuple[Piece, ...]:
    """As `render_chat`, in pieces, so that control tokens in messages, tools and `extra` stay plain text.

    control_tokens: the texts of all tokens that a tokenizer recognises only when it parses special tokens.
    Without them, everything in messages that looks like one (`<…>`, `[…]`) is kept plain: as safe for such
    tokens, but text around it may be cut into tokens slightly differently.
    """
    template = _compiled(template_text)
    special = {"bos_token": bos_token, "eos_token": eos_token}
    given = {"add_generation_prompt": True, "tools": None, "documents": None, **extra}
    tokens = Shaped() if control_tokens is None else Known(control_tokens)
    texts = [template_text, *special.values(), *_strings([given, messages])]
    disguise = Disguise(tokens, _literals(template_text), texts)
    turns = [disguise.cover(m, own_turn=m.get("role") == "assistant") for m in messages]
    covered = {**disguise.cover(given), "messages": turns}
    rendered = _run(template, {**covered, **special}, disguise.stand_ins)
    roles = {str(m.get("role", "")) for m in messages} | {"assistant"}
    sources = (template_text, *special.values())
    return disguise.reveal(rendered, lru_cache(lambda token: _can_write(token, sources, roles)))


def _can_write(token: str, sources: Sequence[str], roles: Iterable[str]) -> bool:
    """Whether `token` stands in the template, or is put together there: by a format of its constants, or
    around a role (`<|` + role + `|>`)."""
    if any(token in source for source in sources) or token in _formatted(sources[0]):
        return True
    around = (token.split(role) for role in roles if role and role in token)
    return any(all(part in sources[0] for part in parts) for parts in around)


def _run(template: jinja2.Template, variables: dict[str, Any], stand_ins: str) -> str:
    from moetool.template import sandbox

    budget = Budget()
    reset_budget = sandbox.BUDGET.set(budget)
    reset_stand_ins = sandbox.STAND_INS.set(stand_ins)
    try:
        budget.admit(variables.values())
        chunks = template.generate(**variables, strftime_now=_strftime_now)
        return _collected(chunks, budget)
    # Whatever a stranger's program raises is an answer, not a bug of ours.
    except Exception as error:  # noqa: BLE001
        raise _as_template_error(error) from error
    finally:
        sandbox.STAND_INS.reset(reset_stand_ins)
        sandbox.BUDGET.reset(reset_budget)


def _collected(chunks: Iterator[str], budget: Budget) -> str:
    parts: list[str] = []
    n_chars = 0
    for chunk in chunks:
        parts.append(chunk)
        n_chars += len(chunk)
        if n_chars > budget.max_string:
            raise BudgetExceeded("output")
    return "".join(parts)


def _strftime_now(format_text: str) -> str:
    # Local time, as the Hub's libraries do: a model is told the user's date.
    return datetime.now().strftime(str(format_text)[:MAX_TIME_FORMAT_CHARS])


@lru_cache(maxsize=8)
def _compiled(template_text: str) -> jinja2.Template:
    from moetool.template.sandbox import compile_template

    if len(template_text) > MAX_TEMPLATE_CHARS:
        raise TemplateError(f"The chat template has more than {MAX_TEMPLATE_CHARS} characters.", _HINT)
    try:
        return compile_template(template_text)
    # jinja2's own errors, and Python's from the code that jinja2 makes (nesting, memory).
    except Exception as error:  # noqa: BLE001
        raise _as_template_error(error) from error


@lru_cache(maxsize=8)
def _literals(template_text: str) -> frozenset[str]:
    from moetool.template.syntax import literals_of

    return literals_of(template_text)


@lru_cache(maxsize=8)
def _formatted(template_text: str) -> frozenset[str]:
    from moetool.template.syntax import formatted_constants

    return formatted_constants(template_text)


def _strings(value: object) -> Iterator[str]:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            stack.extend((*item.keys(), *item.values()))
        elif isinstance(item, (list, tuple)):
            stack.extend(item)


def _as_template_error(error: Exception) -> TemplateError:
    return TemplateError(_told(error), _HINT)


def _told(error: Exception) -> str:
    import jinja2

    from moetool.template.sandbox import TemplateRefused

    if isinstance(error, (RecursionError, MemoryError)):
        return "The chat template is nested too deeply."
    told = " ".join(str(error).split())[:300].rstrip(".")
    if isinstance(error, TemplateRefused):
        return f"The chat template refuses these messages: {told}."
    if isinstance(error, BudgetExceeded):
        return f"The chat template asks for too much: {told}."
    if isinstance(error, jinja2.exceptions.SecurityError):
        return f"The chat template does what templates may not: {told}."
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"The chat template is wrong in line {error.lineno}: {told}."
    return f"The chat template fails: {told or type(error).__name__}."
