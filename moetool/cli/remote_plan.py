"""From a repo on the Hub to a choice among its quants, before anything is downloaded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from moetool.errors import DoesNotFit, EngineError, HeaderError, HubError, NotFound, UsageError

if TYPE_CHECKING:
    from moetool.choice import Candidate, Choice
    from moetool.cli.local_plan import Asked
    from moetool.gguf import Header
    from moetool.hub import RepoListing
    from moetool.machine import Machine
    from moetool.names import ModelName, QuantFiles
    from moetool.plan import Wishes
    from moetool.remote import RemoteHeader, RemoteHeaders


@dataclass(frozen=True)
class RemoteChoice:
    """What was found out about a repo: its listing, the headers and what they cost, and the choice.

    `notices` are sentences about what the user would not expect.
    """

    listing: RepoListing
    headers: RemoteHeaders
    choice: Choice
    notices: tuple[str, ...]

    @property
    def name(self) -> str:
        """What to type for the pick, or for what comes nearest."""
        quant = self.quant
        is_only = sum(other.label == quant.label for other in self.listing.quants) == 1
        tail = f":{quant.label}" if is_only else f"/{quant.files[0].path}"
        return self.listing.repo + tail

    @property
    def quant(self) -> QuantFiles:
        """The files of the pick, or of what comes nearest."""
        return self._item.quant

    @property
    def header(self) -> Header | None:
        """The header of the same."""
        return self._item.header

    @property
    def _item(self) -> RemoteHeader:
        labels = make_labels([item.quant for item in self.headers.headers])
        return self.headers.headers[labels.index(self.choice.nearest.label)]


def remote_name(name: str, quant: str = "", *, is_choice: bool = False) -> ModelName | None:
    """The name if it means something on the Hub that is not on this disk; with `is_choice`, also if it is.

    Raises UsageError for a `quant` of something that has none.
    """
    from moetool.names import parse_model_name
    from moetool.store import find_local, read_cache_dir

    parsed = parse_model_name(name)
    if quant and parsed.kind not in {"repo", "short"}:
        raise UsageError(f"--quant is for models on the Hub, not for {name}", "leave --quant out")
    parsed = replace(parsed, quant=quant, file="") if quant else parsed
    if parsed.kind != "repo":
        return None
    try:
        is_here = find_local(parsed, read_cache_dir()) is not None
    except NotFound:
        is_here = False  # several quants of it: which one is meant is the question
    return None if is_here and not is_choice else parsed


def choose_remote(
    name: ModelName,
    revision: str,
    read_machine: Callable[[], Machine],
    wishes: Wishes,
    min_tok_s: float | None,
    *,
    pulls: bool = False,
) -> RemoteChoice:
    """Read the headers of a repo's quants (of one, if the name says which), then the machine, and choose.

    Without a Hub within reach, what `pulls` chooses from is what is on this disk.
    Raises NotFound, GatedRepo, HubError, UsageError, and HeaderError when no header can be read.
    """
    from moetool.choice import choose
    from moetool.hub import read_hub
    from moetool.kept_headers import read_kept_folder
    from moetool.kept_runs import read_runs, read_runs_path
    from moetool.remote import read_listing, read_remote_headers

    hub, folder = read_hub(), read_kept_folder()
    listing, notice = read_listing(hub, name.repo, revision or name.revision or "main", folder)
    quants = wanted_quants(listing, name)
    if notice and pulls:
        quants = _those_here(quants, name, hub.cache_dir, notice)
    headers = read_remote_headers(hub, listing, quants, folder)
    candidates = make_candidates(headers, listing, hub.cache_dir)
    choice = choose(candidates, read_machine(), wishes, min_tok_s, read_runs(read_runs_path()))
    problems = [f"{i.quant.label}: its header is damaged. {i.problem}" for i in headers.headers if i.problem]
    return RemoteChoice(listing, headers, choice, tuple(filter(None, (notice, *problems, _beside(listing)))))


def _beside(listing: RepoListing) -> str:
    """Which files go beside the models of the repo, one of each kind, and how to have them too."""
    from moetool.hub import select_sidecars
    from moetool.names import show_name
    from moetool.render.units import show_bytes

    kinds = sorted({sidecar.kind for sidecar in listing.sidecars})
    files = zip(kinds, select_sidecars(listing, kinds), strict=True)
    named = [f"{show_name(f.path)} ({show_bytes(f.size_bytes)}, --include {kind})" for kind, f in files]
    return f"Beside them: {', '.join(named)}" if named else ""


def wanted_quants(listing: RepoListing, name: ModelName) -> tuple[QuantFiles, ...]:
    """The quants to choose from: all that are whole, or the one that is named."""
    from moetool.hub import first_choice, select_quant

    whole = tuple(quant for quant in listing.quants if quant.is_complete)
    if name.quant or name.file or not whole:
        return (select_quant(listing, name, first_choice),)
    return whole


def _those_here(
    quants: Sequence[QuantFiles], name: ModelName, cache_dir: Path, notice: str
) -> tuple[QuantFiles, ...]:
    """The quants that are on this disk; HubError, with the notice why it matters, when there are none."""
    from moetool.store import find_local

    here = tuple(q for q in quants if find_local(replace(name, file=q.files[0].path), cache_dir))
    if not here:
        raise HubError(f"{notice} Nothing of {name.repo} is on this disk.", "moetool list shows what is.")
    return here


def make_candidates(headers: RemoteHeaders, listing: RepoListing, cache_dir: Path) -> list[Candidate]:
    """What can be chosen from; HeaderError when that is nothing."""
    from moetool.anatomy import make_anatomy
    from moetool.choice import Candidate
    from moetool.hub import missing_bytes

    labels = make_labels([item.quant for item in headers.headers])
    found = [
        Candidate(
            label,
            item.quant.size_bytes,
            make_anatomy(item.header, item.quant.size_bytes),
            sum(missing_bytes(cache_dir, listing, file) for file in item.quant.files),
        )
        for label, item in zip(labels, headers.headers, strict=True)
        if item.header
    ]
    if not found:
        raise HeaderError(f"No header can be read: {headers.headers[0].problem}", 0, "Try another repo.")
    return found


def make_labels(quants: Sequence[QuantFiles]) -> list[str]:
    """A label for each quant that no other one has."""
    labels = [quant.label for quant in quants]
    return [
        quant.label if labels.count(quant.label) == 1 else quant.stem.rpartition("/")[2] for quant in quants
    ]


def show_remote(found: RemoteChoice, next_command: Sequence[str], *, on_stderr: bool = False) -> None:
    """The table for people."""
    from moetool.render.choice import HeaderCost, show_choice

    cost = HeaderCost(found.headers.fetched_bytes, found.headers.n_requests, found.headers.seconds)
    show_choice(found.choice, cost, found.notices, next_command, on_stderr=on_stderr)


def refusal(found: RemoteChoice) -> DoesNotFit | None:
    """The error that nothing fits, if so."""
    if found.choice.pick:
        return None
    remedies = "; ".join(remedy.text for remedy in found.choice.remedies)
    one = len(found.choice.options) == 1
    hint = (
        f"moetool plan {found.listing.repo} shows the other quants"
        if one
        else "a smaller model, or --machine"
    )
    what = found.name if one else f"No quant of {found.listing.repo} fits: {found.choice.why.text}"
    return DoesNotFit(f"{what} does not fit" if one else what, remedies or hint)


def plan_remote(name: ModelName, read_machine: Callable[[], Machine], asked: Asked, *, is_here: bool) -> None:
    """`moetool plan` for something that is not on this disk. With `is_here` the machine is this one, and
    llama.cpp's allocator is asked about the pick."""
    found = choose_remote(name, "", read_machine, asked.wishes, asked.min_tok_s)
    found = check_pick(found) if is_here else found
    problem = refusal(found)
    if asked.emit:
        from moetool.cli.local_plan import print_emitted

        print_emitted(found.choice.nearest.plan, asked, repo=found.listing.repo, quant=found.quant.label)
    elif asked.as_json:
        from moetool.cli.boundary import print_result
        from moetool.report.plans import of_choice

        document = of_choice(found.choice, found.headers, found.quant.files[0].path)
        print_result("plan", document, problem)
        return
    else:
        show_remote(found, () if problem else ("moetool", "pull", found.name))
    if problem:
        raise problem


def check_pick(found: RemoteChoice) -> RemoteChoice:
    """The choice with its pick held against llama.cpp's allocator; if it does not fit after all, the next."""
    from moetool.choice import with_plan
    from moetool.cli.opening import check_header_by_dry_run

    pick, header = found.choice.pick, found.header
    if pick is None or header is None:
        return found
    try:
        plan = check_header_by_dry_run(pick.plan, header)
    except (EngineError, OSError) as error:
        text = f"llama.cpp's allocator was not asked about {pick.label}: {error}"
        return replace(found, notices=(*found.notices, text))
    return replace(found, choice=with_plan(found.choice, plan))


def choose_for_pull(name: ModelName, revision: str, kinds: Sequence[str], *, ask: bool) -> str | None:
    """The full name of the quant to pull for this machine; None when the user says no to it.

    The table goes to stderr. Without a Hub within reach, and nothing known of the repo, the name comes back
    as it is: what is on this disk may be meant. Raises DoesNotFit when nothing fits.
    """
    from moetool.cli.opening import read_this_machine
    from moetool.hub import Trouble, read_hub
    from moetool.plan import Wishes

    def read_machine() -> Machine:
        return read_this_machine(measure="unknown")

    try:
        found = choose_remote(name, revision, read_machine, Wishes(), None, pulls=True)
    except HubError as error:
        if not read_hub().offline and not (isinstance(error, Trouble) and error.is_unreachable):
            raise
        return name.text
    found = check_pick(found)
    show_remote(found, (), on_stderr=True)
    problem = refusal(found)
    if problem:
        raise problem
    return found.name if not ask or _agrees(found, kinds) else None


def _agrees(found: RemoteChoice, kinds: Sequence[str]) -> bool:
    import typer

    from moetool.hub import missing_bytes, read_hub, select_sidecars
    from moetool.render.units import show_bytes

    files = found.quant.files + select_sidecars(found.listing, kinds)
    new_bytes = sum(missing_bytes(read_hub().cache_dir, found.listing, file) for file in files)
    size = f"{show_bytes(new_bytes)} to download" if new_bytes else "all of it is on this disk"
    return typer.confirm(f"Pull {found.choice.nearest.label}, {size}?", default=True, err=True)


def is_interactive() -> bool:
    """Is there somebody to ask?"""
    return sys.stdin.isatty() and sys.stderr.isatty()
