"""Chat messages and a model's own template become the text of a prompt, in a sandbox.

    messages + template --render_pieces--> Piece, Piece, …   (join their texts: the prompt)

Templates come out of model files, so they are programs by strangers: they reach no attribute outside a short
list, and their work, strings and containers are counted against a budget. Messages are strangers' text too:
a control token that a user typed is marked as such, so that the caller can keep it plain text. Nothing here
knows token ids or a terminal. This is the only room that imports jinja2, and only when it is used.
"""

from moetool.template.control import Piece
from moetool.template.render import CHATML, render_chat, render_pieces

__all__ = ["CHATML", "Piece", "render_chat", "render_pieces"]
