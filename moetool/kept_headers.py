"""Headers and listings that were read from the Hub once, kept on this disk: small JSON files.

    headers/org--repo/<sha256 of the file>.json      a file's header, without its vocabulary
    headers/org--repo/listing-<revision>.json        what the repo held when it was last asked

A header is kept under the hash of the content that it was read from, so it cannot be out of date. A file that
is damaged, or of another version of moetool, is as good as none; one that cannot be written is no error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from moetool.gguf import ArrayRef, Header, Split, TensorInfo, Value
from moetool.home import read_home
from moetool.hub import RepoListing
from moetool.names import ModelFile, QuantFiles, Sidecar
from moetool.quants import quant_by_id
from moetool.store import digest_of, write_atomically

_VERSION = 1
_DAMAGED = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)


def read_kept_folder() -> Path:
    """Where headers and listings are kept."""
    return read_home() / "headers"


def read_kept_header(folder: Path, repo: str, file: ModelFile) -> Header | None:
    """The header of these bytes if it was read before, else None."""
    try:
        return parse_header(_read(_header_path(folder, repo, file)))
    except _DAMAGED:
        return None


def keep_header(folder: Path, repo: str, file: ModelFile, header: Header) -> None:
    """Keep one file's header (not one merged from shards)."""
    if digest_of(file):
        _write(_header_path(folder, repo, file), header_document(header))


def read_kept_listing(folder: Path, repo: str, revision: str) -> RepoListing | None:
    """What the repo held when the Hub was last asked, else None."""
    try:
        return parse_listing_document(_read(_listing_path(folder, repo, revision)))
    except _DAMAGED:
        return None


def keep_listing(folder: Path, listing: RepoListing) -> None:
    """Keep what a repo holds, for use without a network."""
    _write(_listing_path(folder, listing.repo, listing.revision), asdict(listing))


# --- files ------------------------------------------------------------------------------------------------


def _header_path(folder: Path, repo: str, file: ModelFile) -> Path:
    return _repo_folder(folder, repo) / f"{digest_of(file)}.json"


def _listing_path(folder: Path, repo: str, revision: str) -> Path:
    # A branch may have slashes in its name.
    name = hashlib.sha256(revision.encode()).hexdigest()[:16]
    return _repo_folder(folder, repo) / f"listing-{name}.json"


def _repo_folder(folder: Path, repo: str) -> Path:
    # One for all ways to type the name.
    return folder / repo.lower().replace("/", "--")


def _read(path: Path) -> Mapping[str, Any]:
    document = json.loads(path.read_text(encoding="utf-8"))
    if document["version"] != _VERSION:
        raise ValueError("written by another version")
    found: Mapping[str, Any] = document["data"]
    return found


def _write(path: Path, data: Mapping[str, Any]) -> None:
    try:
        write_atomically(path, json.dumps({"version": _VERSION, "data": data}))
    except OSError:
        return


# --- headers as JSON --------------------------------------------------------------------------------------


def header_document(header: Header) -> dict[str, Any]:
    """A header as plain JSON values; `parse_header` makes the same header of them."""
    plain = {
        name: getattr(header, name)
        for name in ("version", "byte_order", "alignment", "data_offset", "header_bytes", "file_bytes")
    }
    return plain | {
        "split": asdict(header.split) if header.split else None,
        "metadata": {key: _value_document(value) for key, value in header.metadata.items()},
        "tensors": [[t.name, t.shape, t.type.id, t.offset, t.n_bytes] for t in header.tensors],
    }


def parse_header(document: Mapping[str, Any]) -> Header:
    """The header that `header_document` wrote. Raises ValueError, TypeError or KeyError for anything else."""
    fields = dict(document)
    split = fields.pop("split")
    metadata = {key: _parse_value(value) for key, value in fields.pop("metadata").items()}
    tensors = tuple(_parse_tensor(*row) for row in fields.pop("tensors"))
    made = Split(**split) if split else None
    return Header(**fields, metadata=MappingProxyType(metadata), tensors=tensors, split=made)


def _value_document(value: Value) -> Any:
    return {"array": asdict(value)} if isinstance(value, ArrayRef) else value


def _parse_value(value: Any) -> Value:
    if isinstance(value, dict):
        return ArrayRef(**value["array"])
    found: Value = tuple(value) if isinstance(value, list) else value
    return found


def _parse_tensor(name: str, shape: list[int], type_id: int, offset: int, n_bytes: int) -> TensorInfo:
    quant = quant_by_id(type_id)
    if quant is None:
        raise ValueError("an unknown type")
    return TensorInfo(name, tuple(shape), quant, offset, n_bytes)


# --- listings as JSON -------------------------------------------------------------------------------------


def parse_listing_document(document: Mapping[str, Any]) -> RepoListing:
    """The listing that `keep_listing` wrote. Raises ValueError, TypeError or KeyError for anything else."""
    fields = dict(document)
    quants = tuple(_parse_quant(**quant) for quant in fields.pop("quants"))
    sidecars = tuple(Sidecar(s["kind"], ModelFile(**s["file"])) for s in fields.pop("sidecars"))
    refused = tuple(fields.pop("refused"))
    return RepoListing(**fields, quants=quants, sidecars=sidecars, refused=refused)


def _parse_quant(files: list[dict[str, Any]], **fields: Any) -> QuantFiles:
    return QuantFiles(**fields, files=tuple(ModelFile(**file) for file in files))
