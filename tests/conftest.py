"""Fixtures that several test files share."""

from cli_fixture import moetool, moetool_here
from hub_fixture import world

__all__ = ["moetool", "moetool_here", "world"]
