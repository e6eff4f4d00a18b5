"""Fixtures that several test files share."""

from cli_fixture import moetool
from hub_fixture import world

__all__ = ["moetool", "world"]
