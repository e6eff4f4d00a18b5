"""HTML built from elements: text that is put in is always escaped, so nothing in a name becomes markup."""

from __future__ import annotations

import html

from moetool.render.plain import safe

# Elements without an end.
_VOID = {"meta", "line", "rect", "circle", "path"}


class Html(str):
    """Markup that was built here; any other string is text."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: object) -> Html:
    """An element. `class_` stands for class, `text_anchor` for text-anchor; None leaves an attribute out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_text(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{written}/>")
    return Html(f"<{name}{written}>{together(*children)}</{name}>")


def together(*children: str) -> Html:
    """Elements and text one after another."""
    return Html("".join(child if isinstance(child, Html) else _text(child) for child in children))


def _text(text: str) -> str:
    return html.escape(safe(text))
