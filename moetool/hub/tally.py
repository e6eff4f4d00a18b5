"""How far a download is, over all of its files and threads, and whether it should stop."""

from __future__ import annotations

import threading
import time

from moetool.errors import Interrupted
from moetool.store import OnProgress

_SHORTEST_INTERVAL_S = 0.05


class Tally:
    """Bytes done (verified or arrived), bytes that came over the network, and notices for the user.

    `on_progress` is called from whatever thread has news, one call at a time and at most every 50 ms.
    """

    def __init__(self, total_bytes: int, on_progress: OnProgress | None) -> None:
        self.total_bytes = total_bytes
        self.done_bytes = 0
        self.fetched_bytes = 0
        self.notices: list[str] = []
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._shown_at = 0.0

    def add(self, n_bytes: int, file: str, fetched: bool = False) -> None:
        """Count bytes; fewer than none when what had arrived must be thrown away."""
        with self._lock:
            self.done_bytes += n_bytes
            self.fetched_bytes += n_bytes if fetched else 0
            now = time.monotonic()
            due = self.done_bytes == self.total_bytes or now - self._shown_at >= _SHORTEST_INTERVAL_S
            if self._on_progress and due:
                self._shown_at = now
                self._on_progress(self.done_bytes, self.total_bytes, file)

    def note(self, sentence: str) -> None:
        with self._lock:
            self.notices.append(sentence)

    def stop(self) -> None:
        """Ask all threads to end at their next piece."""
        self._stop.set()

    def check(self) -> None:
        if self._stop.is_set():
            raise Interrupted("The download was stopped.", "The next pull continues where it was.")

    def wait(self, wait_s: float) -> None:
        """Sleep, unless it is time to stop."""
        self._stop.wait(wait_s)
        self.check()
