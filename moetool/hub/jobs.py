"""Several things at a time: threads that end when one of them fails, and that Ctrl-C need not wait for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

_Job = Callable[[], None]


def run_jobs(jobs: Sequence[_Job], n_parallel: int) -> None:
    """Run the jobs, so many at a time. The first error is raised at once, and no further job is begun."""
    todo: queue.SimpleQueue[_Job] = queue.SimpleQueue()
    done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    for job in jobs:
        todo.put(job)
    # Daemons: after Ctrl-C a thread that waits for a silent server must not hold up the exit.
    for _ in range(min(n_parallel, len(jobs))):
        threading.Thread(target=_work, args=(todo, done), daemon=True).start()
    try:
        for _ in jobs:
            error = done.get()
            if error is not None:
                raise error
    finally:
        with suppress(queue.Empty):
            while True:
                todo.get_nowait()


def _work(todo: queue.SimpleQueue[_Job], done: queue.SimpleQueue[BaseException | None]) -> None:
    while True:
        try:
            job = todo.get_nowait()
        except queue.Empty:
            return
        try:
            job()
            done.put(None)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for it
            done.put(error)
            return
