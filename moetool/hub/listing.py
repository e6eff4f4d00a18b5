"""What a repo holds: its commit, its GGUF files with sizes and hashes, and which of them is meant."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from moetool.errors import HubError, NotFound
from moetool.hub.client import Hub, open_url, read_limited, retried
from moetool.names import (
    MAX_FILE_BYTES,
    ModelFile,
    ModelName,
    QuantFiles,
    Sidecar,
    group_files,
    is_repo_id,
    is_revision,
    is_safe_path,
    match_file,
    match_quant,
    parse_quant,
    show_name,
)

# The fullest repos of quants have a few hundred files, 0.3 KB each. Parsed, a list takes 15 times its bytes.
MAX_LISTING_BYTES = 4 << 20

_SHA1 = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

# Without a plan for this machine: the usual compromise first, then what is near it.
_USUAL = ("Q4_K_M", "UD-Q4_K_XL", "MXFP4_MOE", "MXFP4", "Q4_K_S", "IQ4_XS", "Q4_0", "Q5_K_M", "Q6_K", "Q8_0")
_USUAL_SIDECAR = ("F16", "BF16", "Q8_0", "F32")


@dataclass(frozen=True)
class RepoListing:
    """A repo at one commit. `quants` are what can be loaded, largest first; `sidecars` lie beside them.

    `revision` is what was asked for. `refused` names files that were left out, since their names would
    lead out of the cache or cannot be printed (already made printable here).
    """

    repo: str
    revision: str
    commit: str
    quants: tuple[QuantFiles, ...]
    sidecars: tuple[Sidecar, ...]
    refused: tuple[str, ...] = ()


def list_files(hub: Hub, repo: str, revision: str = "main") -> RepoListing:
    """Ask the Hub what `repo` holds, in one request. The listing has the repo's name in the Hub's own case.

    Raises NotFound (repo, revision), GatedRepo, HubError, Trouble.
    """
    revision = revision or "main"
    if not is_repo_id(repo) or not is_revision(revision):
        raise NotFound(f"{show_name(repo)} at {show_name(revision)} cannot be in a Hub.")
    url = f"{hub.endpoint}/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true"
    subject = repo if revision == "main" else f"{repo} at {revision}"

    def ask() -> bytes:
        with open_url(hub, url, subject) as response:
            return read_limited(response, MAX_LISTING_BYTES, repo)

    return parse_listing(retried(hub, ask), repo, revision)


def parse_listing(body: bytes, repo: str, revision: str) -> RepoListing:
    """The Hub's answer about a repo, all of it distrusted. HubError when it is not one."""
    try:
        info = json.loads(body)
    except (ValueError, RecursionError):
        info = None
    if not isinstance(info, dict) or not isinstance(info.get("siblings"), list):
        raise HubError(f"The answer about {repo} is not that of a Hub.", "Check HF_ENDPOINT.")
    named = info.get("id")
    if isinstance(named, str) and named.lower() == repo.lower():
        repo = named  # as its author writes it: one folder in the cache for all ways to type it
    commit = info.get("sha")
    if not isinstance(commit, str) or not _SHA1.fullmatch(commit):
        raise HubError(f"The answer about {repo} names no commit.", "Check HF_ENDPOINT.")
    entries = [e for e in info["siblings"] if isinstance(e, dict) and isinstance(e.get("rfilename"), str)]
    files = [_parse_file(e) for e in entries if is_safe_path(e["rfilename"])]
    refused = tuple(show_name(e["rfilename"], 60) for e in entries if not is_safe_path(e["rfilename"]))
    quants, sidecars = group_files(f for f in files if f.size_bytes >= 0)
    return RepoListing(repo, revision, commit, quants, sidecars, refused[:20])


def _parse_file(entry: dict[str, Any]) -> ModelFile:
    """A file as stated; with size -1 when no size is."""
    lfs = entry.get("lfs") if isinstance(entry.get("lfs"), dict) else {}
    sha256, oid = (lfs or {}).get("sha256"), entry.get("blobId")
    size = (lfs or {}).get("size", entry.get("size"))
    return ModelFile(
        entry["rfilename"],
        size if isinstance(size, int) and 0 <= size < MAX_FILE_BYTES else -1,
        sha256 if isinstance(sha256, str) and _SHA256.fullmatch(sha256) else "",
        oid if isinstance(oid, str) and _SHA1.fullmatch(oid) else "",
    )


Choose = Callable[[RepoListing], QuantFiles]


def select_quant(listing: RepoListing, name: ModelName, choose: Choose | None = None) -> QuantFiles:
    """The files that `name` asks for in the listing; `choose` decides when it names no quant.

    Raises NotFound when there are none, or several that fit, or shards of it are missing.
    """
    if not listing.quants and not listing.sidecars:
        raise _no_gguf(listing)
    if name.file:
        quant = match_file(listing.quants, listing.sidecars, name.file)
    elif name.quant:
        quant = match_quant(listing.quants, name.quant)
    else:
        quant = (choose or first_choice)(listing)
    if not quant.is_complete:
        message = f"{quant.label} of {listing.repo} has {len(quant.files)} of its {quant.n_shards} shards."
        raise NotFound(message, "The upload may still be going on; try again later, or another quant.")
    return quant


def _no_gguf(listing: RepoListing) -> NotFound:
    if listing.refused:
        names = ", ".join(listing.refused[:3])
        return NotFound(f"{listing.repo} has no file with an acceptable name.", f"Refused: {names}.")
    hint = "Repos of GGUF files are often named like the model with -GGUF behind."
    return NotFound(f"{listing.repo} has no GGUF file at {listing.revision}.", hint)


def first_choice(listing: RepoListing) -> QuantFiles:
    """A quant without knowing the machine: the usual compromise, else the smallest that is whole."""
    whole = [q for q in listing.quants if q.is_complete]
    by_label = {q.label: q for q in reversed(whole)}
    usual = next((by_label[label] for label in _USUAL if label in by_label), None)
    if usual or whole:
        return usual or whole[-1]
    if listing.quants:
        return listing.quants[0]
    raise NotFound(
        f"{listing.repo} has no model, only files that go beside one.", "Name one of them in full."
    )


def select_sidecars(listing: RepoListing, kinds: Iterable[str]) -> tuple[ModelFile, ...]:
    """One file of each kind ("mmproj", "mtp", "draft", "imatrix"): of several, the usual precision."""
    return tuple(_select_sidecar(listing, kind) for kind in kinds)


def _select_sidecar(listing: RepoListing, kind: str) -> ModelFile:
    files = [s.file for s in listing.sidecars if s.kind == kind]
    if not files:
        there = sorted({s.kind for s in listing.sidecars})
        raise NotFound(
            f"{listing.repo} has no {show_name(kind)} file.", f"There is {', '.join(there) or 'none at all'}."
        )
    rank = {label: i for i, label in enumerate(_USUAL_SIDECAR)}
    return min(files, key=lambda f: rank.get(parse_quant(f.path), len(rank)))
