"""Fixtures that several test files share."""

from hub_fixture import world

__all__ = ["world"]
