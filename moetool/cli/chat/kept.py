"""A chat under `--session`: its conversation goes on where the last one ended, and is kept as it goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from moetool.cli.chat.commands import n_messages, shortened
from moetool.cli.chat.talk import Talk
from moetool.cli.session import Session
from moetool.conversation import Conversation, load_conversation, save_conversation
from moetool.errors import MoetoolError
from moetool.kept_sessions import only_chat_of
from moetool.render.plain import show_error


class KeptChat:
    """The conversation of a session in one chat. It is written after each change, the engine's memory at the
    end: that can be large."""

    def __init__(self, session: Session, talk: Talk) -> None:
        self._session = session
        self._talk = talk
        self._kept = talk.conversation

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Go on with what was kept, which no other chat has meanwhile; keep the engine's memory in the end.
        SessionError or MoetoolError when there is something that cannot be gone on with."""
        with only_chat_of(self._session.files):
            self._take_up()
            yield
            if self._talk.totals.read:
                self._session.tell_kept(self._session.keep(self._talk.engine))

    def _take_up(self) -> None:
        session, talk = self._session, self._talk
        if session.files.conversation.exists():
            kept = load_conversation(session.files.conversation)
            talk.conversation = Conversation(talk.conversation.system or kept.system, kept.turns)
            told = f"{n_messages(kept)}, {talk.engine.n_past} tokens in memory"
            last = f"; the last: {shortened(kept.turns[-1].content)}" if kept.turns else ""
            session.tell(f"Session {session.files.name}: {told}{last}")
        self._kept = talk.conversation

    def keep(self) -> None:
        """Write the conversation if it has changed; what prevents that is told, and the chat goes on."""
        talk = self._talk
        if talk.conversation == self._kept:
            return
        try:
            save_conversation(self._session.files.conversation, talk.conversation, talk.opened.model.name)
            self._kept = talk.conversation
        except MoetoolError as error:
            show_error(error)
