"""`--think`: what to do about a model's thinking."""

from __future__ import annotations

from enum import Enum


class Think(str, Enum):
    """Show it, hide it, or ask the model to do without."""

    show = "show"
    hide = "hide"
    off = "off"
