"""`moetool run` on a terminal without a prompt: a conversation."""

from moetool.cli.chat.loop import chat

__all__ = ["chat"]
