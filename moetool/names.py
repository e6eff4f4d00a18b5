"""Names as users write them: of models, of quants, of the files that belong together.

Pure: nothing here looks at a disk or a network. File names come from strangers, so what could leave a
folder or write to a terminal (`..`, absolute paths, control characters) is refused here, once.

    org/repo          org/repo:Q4_K_M      org/repo/folder/file.gguf     short-name    demo    ./file.gguf
    hf.co/org/repo    https://huggingface.co/org/repo/blob/main/file.gguf
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import unquote, urlsplit

from moetool.errors import NotFound, UsageError

HUB_HOSTS = {"hf.co", "huggingface.co", "www.huggingface.co", "hf-mirror.com"}
SUFFIX = ".gguf"
# No file of a repo is larger; who states more is lying.
MAX_FILE_BYTES = 1 << 50

_REPO_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,249}")
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
# What quantizers call their files. The label is the last match, so that "NVFP4-Q8_0" is a Q8_0.
_QUANT = re.compile(
    r"(?<![A-Za-z0-9])"
    r"(?:UD-)?(?:I?Q[1-9]|TQ[12]|MXFP[468]|NVFP4|BF16|FP?(?:8|16|32))(?:_[A-Z0-9]+)*"
    r"(?![A-Za-z0-9_])",
    re.IGNORECASE,
)
# Files that are loaded beside a model, by the prefix or the folder that the community gives them.
_SIDECAR_PREFIX = re.compile(r"(mmproj|mtp|draft|dflash|imatrix)(?=$|[-._])", re.IGNORECASE)
_SIDECAR_ANYWHERE = re.compile(r"(?:^|[-._/])(mmproj|imatrix)(?=$|[-._/])", re.IGNORECASE)
_SIDECAR_KINDS = {"dflash": "draft"}

Kind = Literal["demo", "path", "repo", "short"]


@dataclass(frozen=True)
class ModelName:
    """What a user typed, taken apart.

    `kind` "repo" has `repo` ("org/repo") and perhaps `quant`, `file` (its path in the repo) or `revision`
    (from a URL); "short" has the short name in `repo` and perhaps `quant`; "path" has `text` only.
    """

    text: str
    kind: Kind
    repo: str = ""
    quant: str = ""
    file: str = ""
    revision: str = ""


@dataclass(frozen=True)
class ModelFile:
    """One file of a repo: its path there, its size, and what its bytes hash to, as far as it is stated.

    `sha256` is of the content (large files); `git_oid` is git's SHA-1 of the blob (small files).
    """

    path: str
    size_bytes: int
    sha256: str = ""
    git_oid: str = ""


@dataclass(frozen=True)
class QuantFiles:
    """One loadable model of a repo: its label ("Q4_K_M", "UD-Q4_K_XL") and its shards in order.

    `n_shards` is what the file names promise; there are fewer `files` when some are missing.
    """

    label: str
    stem: str
    files: tuple[ModelFile, ...]
    n_shards: int

    @property
    def size_bytes(self) -> int:
        return sum(f.size_bytes for f in self.files)

    @property
    def is_complete(self) -> bool:
        return len(self.files) == self.n_shards


@dataclass(frozen=True)
class Sidecar:
    """A file that is loaded beside a model: `kind` is "mmproj", "mtp", "draft" or "imatrix"."""

    kind: str
    file: ModelFile


def is_safe_path(path: str) -> bool:
    """Whether a path from a repo stays inside its folder on every system, can be printed, and runs nothing
    when it is pasted into a shell as part of a command."""
    parts = path.split("/") + unquote(path).split("/")
    return (
        0 < len(path) <= 512
        and path.isprintable()
        and not any(c in path for c in '\\:*?"<>|$`;&')
        and all(part not in {"", ".", ".."} and len(part.encode()) <= 255 for part in parts)
    )


def is_repo_id(text: str) -> bool:
    """Whether `text` is "org/repo" in the Hub's alphabet."""
    parts = text.split("/")
    return (
        len(parts) == 2
        and all(_REPO_PART.fullmatch(p) for p in parts)
        and not any(bad in text for bad in ("..", "--"))
    )


def is_revision(text: str) -> bool:
    """Whether `text` can be a branch, a tag or a commit, and nothing else."""
    return bool(_REVISION.fullmatch(text)) and all(p not in {"", ".", ".."} for p in text.split("/"))


def show_name(text: str, limit: int = 120) -> str:
    """An untrusted name for use in a sentence: no control characters, not endless."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


# ---- model names -----------------------------------------------------------------------------------------


def parse_model_name(text: str) -> ModelName:
    """What the user means by `text`; UsageError when it cannot be a model's name."""
    if not text.strip() or not text.isprintable():
        raise UsageError(f"{show_name(text)!r} is not a model name.", _HINT)
    text = text.strip()
    if text.lower() == "demo":
        return ModelName(text, "demo")
    scheme, _, rest = text.rpartition("://")
    if scheme not in {"", "http", "https", "hf"}:
        raise UsageError(f"{show_name(text)} is not a place that models are pulled from.", _HINT)
    if scheme == "hf":
        return _repo_name(text, rest.removeprefix("models/"))
    host, _, path = rest.partition("/")
    if scheme or (host.lower() in HUB_HOSTS and path):
        return _url_name(text, host, path)
    if _looks_like_path(text):
        return ModelName(text, "path")
    return _repo_name(text, text) if "/" in text else _short_name(text)


_HINT = "Models are named org/repo, org/repo:QUANT, org/repo/file.gguf, or by the path of a .gguf file."


def _looks_like_path(text: str) -> bool:
    starts = text.startswith(("/", "./", "../", "~", ".\\", "..\\")) or text in {".", ".."}
    drive = len(text) > 2 and text[1] == ":" and text[2] in "\\/"
    bare_file = text.lower().endswith(SUFFIX) and text.count("/") < 2 and ":" not in text
    return starts or drive or bare_file


def _short_name(text: str) -> ModelName:
    tail, _, quant = text.partition(":")
    return ModelName(text, "short", repo=tail, quant=quant)


def _repo_name(text: str, rest: str, revision: str = "") -> ModelName:
    """`rest` is org/repo, org/repo:QUANT or org/repo/path, already without a host."""
    parts = rest.strip("/").split("/", 2)
    if len(parts) < 2:
        raise UsageError(f"{show_name(text)} names no repo.", _HINT)
    name, _, quant = parts[1].partition(":")
    file = parts[2] if len(parts) == 3 else ""
    repo = f"{parts[0]}/{name}"
    if not is_repo_id(repo):
        raise UsageError(f"{show_name(repo)} cannot be the name of a repo.", _HINT)
    if file and not is_safe_path(file):
        raise UsageError(f"{show_name(file)} is not a file name that is accepted from a repo.", _HINT)
    if file and not file.lower().endswith(SUFFIX):
        return ModelName(text, "repo", repo, quant=file.rstrip("/"), revision=revision)
    return ModelName(text, "repo", repo, quant=quant, file=file, revision=revision)


def _url_name(text: str, host: str, path: str) -> ModelName:
    """https://host/org/repo[/blob|resolve|raw|tree/revision[/path]], or without a scheme."""
    if host.lower() not in HUB_HOSTS:
        hint = f"Mirrors are set with HF_ENDPOINT=https://{show_name(host, 60)}; then use org/repo."
        raise UsageError(f"{show_name(host, 60)} is not a model hub that is known.", hint)
    parts = unquote(urlsplit(path).path).strip("/").split("/")
    if len(parts) >= 4 and parts[2] in {"blob", "resolve", "raw", "tree"}:
        if not is_revision(parts[3]):
            raise UsageError(f"{show_name(parts[3])} cannot be a revision.", _HINT)
        return _repo_name(text, "/".join(parts[:2] + parts[4:]), revision=parts[3])
    return _repo_name(text, "/".join(parts))


# ---- files that belong together --------------------------------------------------------------------------


def group_files(files: Iterable[ModelFile]) -> tuple[tuple[QuantFiles, ...], tuple[Sidecar, ...]]:
    """The models of a repo, largest first, and the files beside them. Files of other kinds are left out."""
    groups: dict[tuple[str, int], dict[int, ModelFile]] = {}
    sidecars = []
    for file in files:
        kind = parse_sidecar(file.path)
        if kind:
            sidecars.append(Sidecar(kind, file))
        elif file.path.lower().endswith(SUFFIX):
            stem, shard, n_shards = parse_shard(file.path)
            groups.setdefault((stem, n_shards), {})[shard] = file
    labels = _labels([stem for stem, _ in groups])
    quants = [
        QuantFiles(labels[stem], stem, tuple(shards[i] for i in sorted(shards)), n_shards)
        for (stem, n_shards), shards in groups.items()
    ]
    quants.sort(key=lambda q: (-q.size_bytes, q.stem))
    return tuple(quants), tuple(sorted(sidecars, key=lambda s: s.file.path))


def parse_sidecar(path: str) -> str:
    """ "mmproj", "mtp", "draft", "imatrix", or "" for what is no sidecar. Models that merely *contain* MTP
    layers have it in the middle of their names."""
    if not path.lower().endswith((SUFFIX, ".dat", ".gguf_file", ".imatrix")):
        return ""
    if path.lower().endswith(".imatrix"):
        return "imatrix"
    prefixes = (_SIDECAR_PREFIX.match(part) for part in path.split("/"))
    found = next((m for m in prefixes if m), None) or _SIDECAR_ANYWHERE.search(path)
    if not found or (not path.lower().endswith(SUFFIX) and found[1].lower() != "imatrix"):
        return ""
    kind = found[1].lower()
    return _SIDECAR_KINDS.get(kind, kind)


def parse_shard(path: str) -> tuple[str, int, int]:
    """Path without ending and shard number, the number, and how many: (stem, 1, 1) for a whole file."""
    stem = path[: -len(SUFFIX)] if path.lower().endswith(SUFFIX) else path
    match = _SHARD.search(stem)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        return stem, 1, 1
    return stem[: match.start()], int(match[1]), int(match[2])


def parse_quant(stem: str) -> str:
    """The quant in a stem or in the folder above it, or "": "x/UD-Q4_K_XL/m" -> "UD-Q4_K_XL"."""
    for part in reversed(stem.split("/")):
        found = _QUANT.findall(part)
        if found:
            return str(found[-1]).upper()
    return ""


def _labels(stems: list[str]) -> dict[str, str]:
    """A label for every stem: its quant, or what tells it from the others without one."""
    labels = {stem: parse_quant(stem) for stem in stems}
    nameless = sorted({PurePosixPath(stem).name for stem, label in labels.items() if not label})
    shared = commonprefix(nameless) if len(nameless) > 1 else ""
    shared = shared[: max(shared.rfind(c) for c in "-._") + 1]
    for stem, label in labels.items():
        if not label:
            labels[stem] = PurePosixPath(stem).name.removeprefix(shared)
    return labels


# ---- choosing by name ------------------------------------------------------------------------------------


def match_quant(quants: tuple[QuantFiles, ...], text: str) -> QuantFiles:
    """The one that `text` means: label in any case, with or without separators or "UD-", the beginning of
    a label, a folder, or a part of the file name. NotFound, nearest first, when none or several do.
    """
    found = find_quants(quants, text)
    if len(found) == 1:
        return found[0]
    if found:
        distinct = len({q.label for q in found}) == len(found)
        names = _join(q.label if distinct else q.stem for q in found)
        raise NotFound(f"{show_name(text)} could be {names}.", "Name one of them in full.")
    raise NotFound(f"There is no quant {show_name(text)}.", f"There is {list_labels(quants, text)}.")


def find_quants(quants: tuple[QuantFiles, ...], text: str) -> list[QuantFiles]:
    """All that `text` can mean: those of the strictest way to read it that fits any."""
    return next((found for found in _readings(quants, text) if found), [])


def match_file(quants: tuple[QuantFiles, ...], sidecars: tuple[Sidecar, ...], path: str) -> QuantFiles:
    """The quant that the file belongs to (all of its shards), or a sidecar as a model of one file; in any
    case if no other file differs in case only."""
    models = {f.path: q for q in quants for f in q.files}
    beside = {s.file.path: QuantFiles(s.kind, parse_shard(s.file.path)[0], (s.file,), 1) for s in sidecars}
    known = models | beside
    paths = list(known)
    meant = [path] if path in known else [p for p in paths if p.lower() == path.lower()]
    if len(meant) == 1:
        return known[meant[0]]
    raise NotFound(f"There is no file {show_name(path)}.", f"There is {_join(_nearest(path, paths))}.")


def list_labels(quants: tuple[QuantFiles, ...], text: str = "") -> str:
    """All labels in a phrase, those that look most like `text` first (without it: as they come)."""
    labels = [q.label for q in quants]
    return _join(_nearest(text, labels) if text else dict.fromkeys(labels))


def _nearest(text: str, names: list[str]) -> list[str]:
    def likeness(name: str) -> float:
        return -difflib.SequenceMatcher(None, text.upper(), name.upper()).ratio()

    return sorted(dict.fromkeys(names), key=likeness)


def _join(names: Iterable[str], limit: int = 12) -> str:
    shown = [show_name(n) for n in names]
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return (", ".join(shown[:limit]) or "nothing") + more


def _squeeze(text: str) -> str:
    return re.sub(r"[-._\s]", "", text).upper()


def _readings(quants: tuple[QuantFiles, ...], text: str) -> Iterator[list[QuantFiles]]:
    """The quants that fit each way to read `text`, strict ways before loose ones."""
    upper = text.upper().removesuffix(SUFFIX.upper())
    tight = _squeeze(upper)
    start = re.sub(r"[-.\s]", "_", upper).rstrip("_")
    if not tight:
        return
    yield [q for q in quants if q.label.upper() == upper]
    yield [q for q in quants if upper in {q.stem.upper(), PurePosixPath(q.stem).name.upper()}]
    yield [q for q in quants if _squeeze(q.label) == tight]
    yield [q for q in quants if _squeeze(_plain(q.label)) == _squeeze(_plain(upper))]
    yield [q for q in quants if upper in q.stem.upper().split("/")[:-1]]
    yield [q for q in quants if _plain(q.label).startswith(start + "_")]
    yield [q for q in quants if tight in _squeeze(q.stem)]


def _plain(label: str) -> str:
    return label.upper().removeprefix("UD-")
