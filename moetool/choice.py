"""Which quant of a model to take: anatomies of all of them + machine + wishes -> a pick, with reasons. Pure.

Of the quants that fit and are fast enough, the one with the least expected loss is picked; when none is fast
enough, the fastest whose loss is acceptable. Losses too small to be told apart count as none: of two quants
that lose nothing the faster is better.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from moetool.anatomy import Anatomy
from moetool.machine import Machine
from moetool.plan import Plan, Reason, Wishes, make_plan, remedies
from moetool.plan.reasons import ceil_size
from moetool.quality import Quality, expected_loss
from moetool.speed import Calibration

# Without a wish: faster than most people read, so that an answer is not waited for.
READING_TOK_S = 10.0
# Expected losses up to here are worth having for speed's sake; below the first of them they are none.
_ACCEPTABLE = ("none", "very low", "low", "moderate")


@dataclass(frozen=True)
class Candidate:
    """One quant of a model: its label, the bytes of its files, what its header says, and how many of the
    bytes would have to be written to this disk (None: all)."""

    label: str
    file_bytes: int
    anatomy: Anatomy
    new_bytes: int | None = None


@dataclass(frozen=True)
class Option:
    """A candidate with its plan. `disk_missing_bytes` is what the disk lacks for its files.

    `is_front` marks the options that no other one beats in both expected loss and speed.
    """

    candidate: Candidate
    plan: Plan
    quality: Quality
    disk_missing_bytes: int
    is_front: bool = False
    reason: Reason = Reason("", "")

    @property
    def label(self) -> str:
        return self.candidate.label

    @property
    def fits(self) -> bool:
        return self.plan.fits and not self.disk_missing_bytes

    @property
    def loss(self) -> float:
        """Expected loss, nothing where it is too small to be told."""
        return 0.0 if self.quality.band == "none" else self.quality.expected

    @property
    def decode_tok_s(self) -> float | None:
        return self.plan.speed.decode_tok_s


@dataclass(frozen=True)
class Choice:
    """All options, least expected loss first, each with its reason; the pick, or what comes nearest to one.

    `pick` is None when nothing fits; `nearest` then is the option that misses least, and `remedies` say what
    would make something fit. `floor` is the speed that was looked for, wished for or not.
    """

    options: tuple[Option, ...]
    pick: Option | None
    nearest: Option
    why: Reason
    remedies: tuple[Reason, ...] = ()
    floor: float = READING_TOK_S
    is_wished: bool = False


def choose(
    candidates: Sequence[Candidate],
    machine: Machine,
    wishes: Wishes,
    min_tok_s: float | None = None,
    calibration: Sequence[Calibration] = (),
) -> Choice:
    """The quant to take of at least one candidate. `min_tok_s` is the decode speed that is wished for,
    `calibration` are this machine's own runs.

    Raises UsageError for wishes that no plan can be made of.
    """
    made = [_make_option(candidate, machine, wishes, calibration) for candidate in candidates]
    options = _with_front(sorted(made, key=lambda o: (o.quality.expected, o.candidate.file_bytes)))
    floor = READING_TOK_S if min_tok_s is None else min_tok_s
    return _decide(options, floor, is_wished=min_tok_s is not None)


def _decide(options: Sequence[Option], floor: float, *, is_wished: bool) -> Choice:
    fitting = [option for option in options if option.fits]
    if not fitting:
        return _nothing_fits(options)
    pick, why = _pick(fitting, floor, is_wished=is_wished)
    judged = tuple(replace(o, reason=why if o is pick else _refusal(o, pick, floor)) for o in options)
    chosen = _same(options, judged, pick)
    return Choice(judged, chosen, chosen, why, floor=floor, is_wished=is_wished)


def with_plan(choice: Choice, plan: Plan) -> Choice:
    """The choice with another plan for its pick: the one that llama.cpp's allocator agreed to. If that does
    not fit, what is picked is thought over."""
    pick = choice.pick
    if pick is None:
        return choice
    changed = replace(pick, plan=plan)
    options = tuple(changed if option is pick else option for option in choice.options)
    if plan.fits:
        return replace(choice, options=options, pick=changed, nearest=changed)
    return _decide(options, choice.floor, is_wished=choice.is_wished)


def _same(before: Sequence[Option], after: Sequence[Option], option: Option) -> Option:
    """The option of `after` that stands where `option` stands in `before`."""
    return next(new for old, new in zip(before, after, strict=True) if old is option)


def _make_option(
    candidate: Candidate, machine: Machine, wishes: Wishes, calibration: Sequence[Calibration]
) -> Option:
    plan = make_plan(candidate.anatomy, machine, wishes, calibration)
    written = candidate.file_bytes if candidate.new_bytes is None else candidate.new_bytes
    missing = max(0, written - machine.disk_free_bytes)
    return Option(candidate, plan, expected_loss(candidate.anatomy), missing)


def _with_front(options: Sequence[Option]) -> list[Option]:
    return [replace(o, is_front=o.fits and not any(_beats(other, o) for other in options)) for o in options]


def _beats(one: Option, other: Option) -> bool:
    """Whether `one` is as good in both respects and better in one."""
    if not one.fits or one.decode_tok_s is None or other.decode_tok_s is None:
        return False
    ahead = one.loss <= other.loss and one.decode_tok_s >= other.decode_tok_s
    return ahead and (one.loss < other.loss or one.decode_tok_s > other.decode_tok_s)


def _pick(fitting: Sequence[Option], floor: float, *, is_wished: bool) -> tuple[Option, Reason]:
    """The best of those that fit, and why. A speed that nobody asked for is not worth a high loss."""
    known = [option for option in fitting if option.decode_tok_s is not None]
    if not known:
        best = min(fitting, key=_by_loss)
        return best, Reason("best-that-fits", "the best expected quality that fits; speed is unknown here")
    acceptable = [option for option in known if option.quality.band in _ACCEPTABLE]
    fast = [option for option in (known if is_wished else acceptable) if _speed(option) >= floor]
    if fast:
        text = f"the best expected quality above {floor:g} tok/s"
        return min(fast, key=_by_loss), Reason("best-quality", text)
    if acceptable:
        text = f"nothing that fits reaches {floor:g} tok/s; this is the fastest of acceptable quality"
        return max(acceptable, key=_speed), Reason("best-speed", text)
    text = "nothing of acceptable quality fits; this is what loses least"
    return min(known, key=_by_loss), Reason("least-loss", text)


def _by_loss(option: Option) -> tuple[float, float, int]:
    return option.loss, -_speed(option), option.candidate.file_bytes


def _speed(option: Option) -> float:
    return option.decode_tok_s or 0.0


def _refusal(option: Option, pick: Option, floor: float) -> Reason:
    """Why an option is not the pick."""
    if not option.fits:
        return Reason("disk" if option.plan.fits else "does-not-fit", _missing_text(option))
    if option.decode_tok_s is None:
        return Reason("speed-unknown", "its speed here is unknown")
    if option.decode_tok_s < floor <= _speed(pick):
        return Reason("too-slow", f"slower than {floor:g} tok/s")
    if option.loss > pick.loss and option.quality.band not in _ACCEPTABLE:
        return Reason("more-loss", f"its expected loss is {option.quality.band}")
    if option.loss > pick.loss:
        return Reason("more-loss", f"loses more than {pick.label}")
    return Reason("slower", f"slower than {pick.label}")


def _missing_text(option: Option) -> str:
    texts = [reason.text for reason in option.plan.reasons if reason.code == "does-not-fit"]
    if option.disk_missing_bytes:
        texts.append(f"{ceil_size(option.disk_missing_bytes)} of disk are missing")
    return ", ".join(texts)


# --- nothing fits -----------------------------------------------------------------------------------------


def _nothing_fits(options: Sequence[Option]) -> Choice:
    nearest = min(options, key=_missing_bytes)
    judged = tuple(replace(option, reason=_refusal(option, option, 0.0)) for option in options)
    found = _same(options, judged, nearest)
    why = Reason("nothing-fits", f"{nearest.label} comes nearest: {found.reason.text}")
    return Choice(judged, None, found, why, tuple(_remedies(nearest)))


def _missing_bytes(option: Option) -> int:
    return sum(option.plan.missing.values()) + option.disk_missing_bytes


def _remedies(option: Option) -> Iterator[Reason]:
    """What would make the nearest option fit, the cheapest first; a smaller quant there is not."""
    if option.disk_missing_bytes:
        missing = ceil_size(option.disk_missing_bytes)
        yield Reason("free-disk", f"{missing} more of disk would do for {option.label}")
    for remedy in remedies(option.plan):
        if remedy.code != "smaller-quant":
            yield replace(remedy, text=f"{option.label}: {remedy.text}")
