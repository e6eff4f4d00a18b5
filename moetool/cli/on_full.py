"""`--on-full`: what to do when a text does not fit into the context."""

from __future__ import annotations

from enum import Enum


class OnFull(str, Enum):
    """Say no; leave out what is in the middle; or forget the oldest and go on."""

    refuse = "refuse"
    truncate_middle = "truncate-middle"
    shift = "shift"
