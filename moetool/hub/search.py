"""Repos of GGUF files on the Hub, found by words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlencode

from moetool.errors import HubError, NotFound
from moetool.hub.client import Hub, open_url, read_limited, retried
from moetool.hub.jobs import run_jobs
from moetool.hub.listing import list_files
from moetool.names import QuantFiles, is_repo_id

_MAX_ANSWER_BYTES = 4 << 20
_N_PARALLEL = 8


@dataclass(frozen=True)
class FoundRepo:
    """A repo with its whole quants, largest first; () with a `problem` when they cannot be listed."""

    repo: str
    downloads: int
    quants: tuple[QuantFiles, ...]
    problem: str = ""


def search_repos(hub: Hub, words: Sequence[str], limit: int) -> tuple[FoundRepo, ...]:
    """The most downloaded repos of GGUF files whose names have all the words, with their quants' sizes.

    One request, and one for each repo. Raises HubError.
    """
    wanted = {"search": " ".join(words), "filter": "gguf", "sort": "downloads", "direction": -1}
    url = f"{hub.endpoint}/api/models?{urlencode({**wanted, 'limit': limit})}"

    def ask() -> bytes:
        with open_url(hub, url, "the search") as response:
            return read_limited(response, _MAX_ANSWER_BYTES, "the search")

    found = parse_search(retried(hub, ask))[:limit]
    listed: dict[str, FoundRepo] = {}
    run_jobs([partial(_list, hub, repo, downloads, listed) for repo, downloads in found], _N_PARALLEL)
    return tuple(listed[repo] for repo, _ in found)


def parse_search(body: bytes) -> list[tuple[str, int]]:
    """Repos and their downloads of the last month in the Hub's answer; entries that make no sense are left
    out. HubError when it is no answer of a Hub."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, list):
        raise HubError("The answer to the search is not that of a Hub.", "Check HF_ENDPOINT.")
    entries = [
        e for e in answer if isinstance(e, dict) and isinstance(e.get("id"), str) and is_repo_id(e["id"])
    ]
    return list({e["id"]: (e["id"], _count(e.get("downloads"))) for e in entries}.values())


def _count(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < 1 << 50 else 0


def _list(hub: Hub, repo: str, downloads: int, listed: dict[str, FoundRepo]) -> None:
    try:
        quants = tuple(quant for quant in list_files(hub, repo).quants if quant.is_complete)
        problem = "" if quants else "no whole GGUF model"
    except (HubError, NotFound) as error:
        quants, problem = (), error.message
    listed[repo] = FoundRepo(repo, downloads, quants, problem)
