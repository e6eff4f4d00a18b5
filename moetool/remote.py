"""Headers of a repo's quants, read on the Hub: a few hundred KB each, and no weights.

The vocabulary is nearly all of a header (6 to 16 MB), and the same in every quant of a repo. So one header is
read whole. Of the others only what stands before and behind the vocabulary is read, and the result counts
only if it is sound and tells the file's size to the byte; else that header is read whole too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from moetool.errors import HeaderError, HubError
from moetool.gguf import Header, KnownRun, check_data, known_runs, merge_shards, read_header
from moetool.hub import HttpRangeFile, Hub, RepoListing, Trouble, list_files, open_remote, run_jobs
from moetool.kept_headers import keep_header, keep_listing, read_kept_header, read_kept_listing
from moetool.names import ModelFile, QuantFiles
from moetool.pulling import PATIENCE_WHEN_LOCAL_S

Known = Mapping[str, KnownRun]

_N_PARALLEL = 8
# The fullest repos have about 300, shards and all.
_MAX_FILES = 1000
_FIRST_BYTES = 64 << 10
# The shards behind the first have no vocabulary; the tables of all together take about this much.
_TABLES_BYTES = 128 << 10
_LEAST_STEP_BYTES = 4 << 10


@dataclass(frozen=True)
class RemoteHeader:
    """One quant's header, of all its shards, and what it cost. `problem` says why there is none."""

    quant: QuantFiles
    header: Header | None
    problem: str = ""
    fetched_bytes: int = 0
    n_requests: int = 0
    was_kept: bool = False


@dataclass(frozen=True)
class RemoteHeaders:
    """Headers in the order they were asked for; what came over the network for all, and how long it took."""

    headers: tuple[RemoteHeader, ...]
    seconds: float

    @property
    def fetched_bytes(self) -> int:
        return sum(item.fetched_bytes for item in self.headers)

    @property
    def n_requests(self) -> int:
        return sum(item.n_requests for item in self.headers)


def read_listing(hub: Hub, repo: str, revision: str, folder: Path) -> tuple[RepoListing, str]:
    """What the repo holds, and a notice: without a Hub within reach, what it held when it was last asked."""
    kept = read_kept_listing(folder, repo, revision or "main")
    patient = replace(hub, timeout_s=min(hub.timeout_s, PATIENCE_WHEN_LOCAL_S)) if kept else hub
    try:
        listing = list_files(patient, repo, revision)
    except HubError as error:
        if kept is None or not (hub.offline or isinstance(error, Trouble)):
            raise
        return kept, f"{error.message} The list of files is the one that was read last."
    keep_listing(folder, listing)
    return listing, ""


def read_remote_headers(
    hub: Hub, listing: RepoListing, quants: Sequence[QuantFiles], folder: Path
) -> RemoteHeaders:
    """The headers of some of a repo's quants: from `folder` where they are kept, else from the Hub.

    A quant whose header is damaged comes back without one. Raises NotFound, GatedRepo, HubError when the Hub
    fails or the files are too many; what was read until then is kept, and the next call continues.
    """
    n_files = sum(len(quant.files) for quant in quants)
    if n_files > _MAX_FILES:
        message = f"{listing.repo} has {n_files} files to choose from, and {_MAX_FILES} are looked into."
        raise HubError(message, f"Name what you want of it: {listing.repo}:QUANT")
    started = time.monotonic()
    reading = [_Reading(hub, listing, quant, folder) for quant in quants]
    todo = [item for item in reading if not item.read_kept()]
    if todo:
        _read_all(todo)
    return RemoteHeaders(tuple(item.result() for item in reading), time.monotonic() - started)


def _read_all(todo: Sequence[_Reading]) -> None:
    """All beginnings, then one header whole (if it is damaged, the next), then the others beside it."""
    run_jobs([item.begin for item in todo], _N_PARALLEL)
    others = list(todo)
    known: Known = {}
    while others and not known:
        whole = others.pop(0)
        whole.read({})
        known = whole.known_runs()
        if whole.shards and not known:
            break  # there is no vocabulary, and little to save
    run_jobs([partial(item.read, known) for item in others], _N_PARALLEL)


@dataclass
class _Reading:
    """One quant on its way: a stream for each shard, and the headers read so far."""

    hub: Hub
    listing: RepoListing
    quant: QuantFiles
    folder: Path
    streams: list[HttpRangeFile] = field(default_factory=list)
    shards: list[Header] = field(default_factory=list)
    problem: str = ""

    def read_kept(self) -> bool:
        """Take the headers from this disk; False unless all of them are there."""
        kept = [read_kept_header(self.folder, self.listing.repo, file) for file in self.quant.files]
        self.shards = [header for header in kept if header]
        return len(self.shards) == len(kept)

    def begin(self) -> None:
        """Open the streams, and fetch the beginning of the first shard and all of the others."""
        self.streams = [self._open(file, number) for number, file in enumerate(self.quant.files)]
        for stream in self.streams:
            stream.read(1)
            stream.seek(0)

    def _open(self, file: ModelFile, number: int) -> HttpRangeFile:
        return open_remote(self.hub, self.listing.repo, self.listing.commit, file, self._step(number))

    def _step(self, number: int) -> int:
        share = max(_LEAST_STEP_BYTES, _TABLES_BYTES // len(self.quant.files))
        return _FIRST_BYTES if number == 0 else min(_FIRST_BYTES, share)

    def read(self, known: Known) -> None:
        """Read every shard's header and keep it; what is wrong with one becomes the `problem`."""
        try:
            pairs = zip(self.quant.files, self.streams, strict=True)
            self.shards = [
                _read_one(stream, file.size_bytes, known, self._step(number))
                for number, (file, stream) in enumerate(pairs)
            ]
            merge_shards(self.shards)
        except HeaderError as error:
            self.problem, self.shards = error.message, []
            return
        for file, header in zip(self.quant.files, self.shards, strict=True):
            keep_header(self.folder, self.listing.repo, file, header)

    def known_runs(self) -> Known:
        """What the first shard's header knows of its sisters' vocabularies."""
        return known_runs(self.shards[0], self.streams[0]) if self.shards else {}

    def result(self) -> RemoteHeader:
        header = merge_shards(self.shards) if self.shards else None
        fetched = sum(stream.fetched_bytes for stream in self.streams)
        n_requests = sum(stream.n_requests for stream in self.streams)
        return RemoteHeader(self.quant, header, self.problem, fetched, n_requests, not self.streams)


def _read_one(stream: HttpRangeFile, size_bytes: int, known: Known, step: int) -> Header:
    """The header of one file: past what is known, if that gives the file's exact size, else whole."""
    if known:
        with suppress(HeaderError):
            header = read_header(stream, size_bytes, known, step)
            check_data(header, size_bytes)
            # Give or take the padding behind the last tensor, which some writers leave out.
            if size_bytes <= header.file_bytes:
                return header
    header = read_header(stream, size_bytes, step=step)
    check_data(header, size_bytes)
    return header
