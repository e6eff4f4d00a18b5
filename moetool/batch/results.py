"""Answers as JSON lines, in the order of the prompts; and a file of them that can be gone on with.

Every line begins with its index and the hashes of what it was made from, so that a file tells by itself how
far it came, and whether it is this batch's at all:

    {"index": 0, "settings_hash": "…", "prompt_hash": "…", "id": …, "text": "…", …, "error": null}
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moetool.batch.jobs import Job
from moetool.errors import DiskFull, MoetoolError, NotFound, UsageError

# No answer is longer; a longer line is something else's.
MAX_LINE_BYTES = 256 << 20


@dataclass(frozen=True)
class Answer:
    """What became of a prompt. `text` is None where there is no answer, or none that is valid: `error` says
    why, and `partial` is what was written. `seed` is the last try's."""

    text: str | None = None
    partial: str | None = None
    thinking: str | None = None
    finish_reason: str | None = None
    closing: str = ""
    prompt_tokens: int = 0
    generated_tokens: int = 0
    forced_tokens: int = 0
    seed: int | None = None
    retries: int = 0
    error: MoetoolError | None = None


@dataclass(frozen=True)
class BatchDone:
    """What a batch has come to: of `n_prompts` answers `n_kept` were in the file `out` (None: stdout) before,
    and `n_failed` are none. Sequences, tokens and seconds are those of this run, loading apart."""

    out: Path | None
    n_prompts: int
    n_kept: int
    n_failed: int
    n_parallel: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0

    @property
    def generated_tok_s(self) -> float | None:
        return self.generated_tokens / self.seconds if self.generated_tokens and self.seconds else None

    def with_answer(self, answer: Answer) -> BatchDone:
        """With one more answer."""
        return replace(
            self,
            n_failed=self.n_failed + (answer.error is not None),
            prompt_tokens=self.prompt_tokens + answer.prompt_tokens,
            generated_tokens=self.generated_tokens + answer.generated_tokens,
        )


def answer_line(job: Job, settings_hash: str, answer: Answer) -> str:
    """The line of an answer, with its end."""
    error = answer.error
    fields = {
        **_first_fields(job, settings_hash),
        "id": job.id,
        "text": answer.text,
        "partial": answer.partial,
        "thinking": answer.thinking,
        "finish_reason": answer.finish_reason,
        "closed": bool(answer.closing),
        "closing": answer.closing,
        "prompt_tokens": answer.prompt_tokens,
        "generated_tokens": answer.generated_tokens,
        "forced_tokens": answer.forced_tokens,
        "seed": answer.seed,
        "retries": answer.retries,
        "error": {"code": error.code, "message": error.message, "hint": error.hint} if error else None,
    }
    return json.dumps(fields, ensure_ascii=False) + "\n"


def _first_fields(job: Job, settings_hash: str) -> dict[str, Any]:
    return {"index": job.index, "settings_hash": settings_hash, "prompt_hash": job.prompt_hash}


def line_start(job: Job, settings_hash: str) -> bytes:
    """How the line of this prompt's answer begins."""
    return json.dumps(_first_fields(job, settings_hash)).removesuffix("}").encode() + b", "


class InOrder:
    """Passes lines on in the order of their index, each as soon as all before it are there."""

    def __init__(self, write: Callable[[str], None], first: int) -> None:
        self._write = write
        self._next = first
        self._waiting: dict[int, str] = {}
        self.n_written = 0

    def add(self, index: int, line: str) -> None:
        """Take one line."""
        self._waiting[index] = line
        while self._next in self._waiting:
            self._write(self._waiting.pop(self._next))
            self._next += 1
            self.n_written += 1


class ResultsFile:
    """A file of answers, open for more of them; this process alone writes to it.

    `n_kept` lines are in it already, `n_failed` of them without an answer.
    """

    def __init__(self, path: Path, jobs: Sequence[Job], settings_hash: str) -> None:
        """Open or make the file, and drop a last line that was not written to its end. Raises UsageError for
        a file that holds anything but the first answers to these prompts under these settings."""
        self._path = path
        self._handle = _open(path)
        try:
            _lock(self._handle, path)
            self.n_kept, self.n_failed, size = _read_kept(self._handle, path, jobs, settings_hash)
            os.ftruncate(self._handle, size)
            os.lseek(self._handle, size, os.SEEK_SET)
        except BaseException:
            os.close(self._handle)
            raise

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._handle)

    def write(self, line: str) -> None:
        """Append a line; whatever happens to this process, it is in the file when this returns."""
        data = line.encode("utf-8")
        try:
            while data:
                data = data[os.write(self._handle, data) :]
        except OSError as error:
            kind = DiskFull if error.errno == errno.ENOSPC else MoetoolError
            raise kind(f"Cannot write {self._path}: {error.strerror}", "the same command goes on") from error


def _open(path: Path) -> int:
    # Without O_NONBLOCK, a pipe without a reader would be waited for.
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags, 0o666)
    except FileNotFoundError as error:
        raise NotFound(f"There is no folder {path.parent}", "give --out another place") from error
    except OSError as error:
        raise MoetoolError(f"Cannot write {path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UsageError(f"--out {path} is not a file", "without --out the answers are on stdout")
    return handle


def _lock(handle: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise MoetoolError(f"Another batch is writing {path}", "wait for it, or take another --out") from None


_OTHER_FILE = "take another --out; this one stays as it is"


def _read_kept(handle: int, path: Path, jobs: Sequence[Job], settings_hash: str) -> tuple[int, int, int]:
    """How many whole lines there are, how many of them without an answer, and their bytes."""
    n_failed, size = 0, 0
    with open(handle, "rb", closefd=False) as file:  # noqa: PTH123 (a descriptor, not a path)
        for n_kept, job in enumerate(jobs):
            line = file.readline(MAX_LINE_BYTES)
            if not line.endswith(b"\n"):
                _require_torn(line, path, line_start(job, settings_hash))
                return n_kept, n_failed, size
            n_failed += _failed(line, path, job, settings_hash)
            size += len(line)
        if file.read(1):
            raise UsageError(f"{path} has more lines than there are prompts", _OTHER_FILE)
    return len(jobs), n_failed, size


def _require_torn(line: bytes, path: Path, start: bytes) -> None:
    """UsageError unless a line without an end is the beginning of the one that `start` begins."""
    if not start.startswith(line) and not line.startswith(start):
        raise UsageError(f"{path} holds something else than the answers to these prompts", _OTHER_FILE)


def _failed(line: bytes, path: Path, job: Job, settings_hash: str) -> bool:
    """Whether a kept line has no answer; UsageError when it is not what this batch would have written."""
    try:
        kept = json.loads(line)
        made_with, made_from, error = kept["settings_hash"], kept["prompt_hash"], kept["error"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UsageError(f"{path} holds something else than answers", _OTHER_FILE) from None
    if made_with != settings_hash:
        raise UsageError(f"{path} was made with another model or other options", _OTHER_FILE)
    if made_from != job.prompt_hash or not line.startswith(line_start(job, settings_hash)):
        message = f"{path} was made from other prompts: its line {job.index + 1} answers another one"
        raise UsageError(message, _OTHER_FILE)
    return error is not None
