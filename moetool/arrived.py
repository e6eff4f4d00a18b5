"""What has arrived, read as a model: its header is sound, and its tensors are those it was planned from."""

from __future__ import annotations

from pathlib import Path

from moetool.errors import HeaderError, VerificationFailed
from moetool.gguf import Header, check_data, merge_shards, open_header
from moetool.kept_headers import keep_header, read_kept_header
from moetool.names import SUFFIX, ModelFile, parse_sidecar, show_name
from moetool.pulling import PullResult
from moetool.store import linked_digest


def check_arrived(result: PullResult, folder: Path) -> None:
    """Parse the headers of the pulled model and hold them against those in `folder` (see kept_headers),
    which a plan before the download was made from; without such a plan, only parse them.

    Raises HeaderError when it cannot be loaded though its bytes are those of the Hub, and VerificationFailed
    when the tensor tables differ.
    """
    pairs = zip(result.files, result.paths, strict=True)
    models = [(name, path) for name, path in pairs if _is_model(name)]
    headers = [_read(result, name, path) for name, path in models]
    if headers:
        _merged(result, models[0][0], headers)
    for (name, path), header in zip(models, headers, strict=True):
        _compare(result, ModelFile(name, path.stat().st_size, linked_digest(path)), header, folder)


def _is_model(name: str) -> bool:
    return name.lower().endswith(SUFFIX) and not parse_sidecar(name)


def _read(result: PullResult, name: str, path: Path) -> Header:
    try:
        header = open_header(path)
        check_data(header, path.stat().st_size)
    except HeaderError as error:
        raise _unusable(result, name, error) from error
    return header


def _merged(result: PullResult, name: str, headers: list[Header]) -> None:
    try:
        merge_shards(headers)
    except HeaderError as error:
        raise _unusable(result, name, error) from error


def _unusable(result: PullResult, name: str, error: HeaderError) -> HeaderError:
    message = f"{show_name(name)} is what the Hub states, but no model: {error.message}"
    return HeaderError(message, error.offset, f"Another quant or repo may be sound; moetool rm {result.name}")


def _compare(result: PullResult, file: ModelFile, header: Header, folder: Path) -> None:
    planned = read_kept_header(folder, result.repo, file) if file.sha256 else None
    if planned == header:
        return
    keep_header(folder, result.repo, file, header)
    if planned and planned.tensors != header.tensors:
        raise VerificationFailed(
            f"{show_name(file.path)} has other tensors than the header that was planned from.",
            f"Its bytes are what the Hub states, the plan was wrong: moetool plan {result.name}",
        )
