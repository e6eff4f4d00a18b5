"""`moetool bench --header-only`: a model that is not here, made up in memory from its header."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from moetool.anatomy import make_anatomy
from moetool.bench.report import Benchmark, BenchRow
from moetool.bench.speed import SpeedTest
from moetool.cli.bench_rows import keep_samples, make_subject
from moetool.cli.measuring import Matrix, Setting, finish, measure_settings, plan_points
from moetool.cli.opening import Opened, plan_for, read_this_machine
from moetool.errors import DoesNotFit
from moetool.gguf import Header, open_header
from moetool.machine import Machine
from moetool.names import parse_model_name
from moetool.plan import Plan, Wishes
from moetool.render.progress import work_progress
from moetool.standin import MemoryFile, repacked_bytes
from moetool.store import LocalModel, read_cache_dir, require_local

if TYPE_CHECKING:
    from moetool.names import ModelName

# Tokens that warm up a prompt: the weights are in memory already.
_WARM_TOKENS = 16
# What is made up whole: more takes longer to hand out and to write than to measure.
_QUICK_BYTES = 4 << 30
# About how long the tests may take that nobody has asked for.
_PROMPT_S, _DECODE_S = 2.0, 2.0
UNKNOWN = (
    "The weights are made up: what the model's text is worth, and how unevenly it chooses its experts, "
    "cannot be known this way."
)


@dataclass(frozen=True)
class HeaderOf:
    """A header, what to call the model it is of, and what it cost to get."""

    name: str
    header: Header
    notes: tuple[str, ...] = ()


def measure_header(name: str, matrix: Matrix, rpc: str | None = None) -> Benchmark:
    """Measure a model by its header alone: made up whole where that is quick, else by two parts of it; whole
    all the same where parts would not stand for it. Without tests in the matrix those are chosen that take
    some seconds. DoesNotFit where there is room for neither."""
    from moetool.cli.header_parts import choose_parts, measure_parts

    machine = read_this_machine(rpc=rpc, measure="again")
    matrix = replace(matrix, warm_tokens=_WARM_TOKENS)
    found = find_header(name, machine)
    opened = stand_in(found)
    whole = with_tests(opened, machine, matrix)
    try:
        settings, notes = plan_points(opened, machine, whole)
    except DoesNotFit:
        settings, notes = [], []
    has_room = settings and all(_has_room(setting.plan, machine) for setting in settings)
    if not has_room or any(_made_bytes(setting.plan, machine) > _QUICK_BYTES for setting in settings):
        try:
            parts = choose_parts(found, machine, matrix.wishes)
        except DoesNotFit:
            if not has_room:
                raise
        else:
            return measure_parts(found, parts, machine, matrix)
    rows, failures = measure_made_up(found, settings, whole)
    plans = {id(setting.plan.settings): setting.plan for setting in settings}
    for row in rows:
        keep_samples(plans[id(row.settings)], row.samples)
    return finish(rows, whole, [*found.notes, *notes, *failures, UNKNOWN])


# --- the header ---------------------------------------------------------------------------------------------


def find_header(name: str, machine: Machine) -> HeaderOf:
    """The header of a file (whose data may be missing), of a model on this disk, or of a quant on the Hub:
    the one that is named, else the one to choose for this machine."""
    from moetool.cli.remote_plan import remote_name

    if Path(name).is_file() and (header := open_header(name)).split is None:
        return HeaderOf(name, header)
    remote = remote_name(name)
    if remote is not None:
        return _remote_header(remote, machine)
    from moetool.cli.opening import read_header_of

    model = require_local(parse_model_name(name), read_cache_dir())
    return HeaderOf(name, read_header_of(model))


def _remote_header(name: ModelName, machine: Machine) -> HeaderOf:
    from moetool.cli.remote_plan import choose_remote
    from moetool.render.units import show_bytes

    found = choose_remote(name, "", lambda: machine, Wishes(), None)
    assert found.header is not None  # what was chosen from has a header
    size = show_bytes(found.quant.size_bytes)
    read = f"{show_bytes(found.headers.fetched_bytes)} of headers were read, {size} would be downloaded."
    return HeaderOf(found.name, found.header, (*found.notices, f"{found.name}: {read}"))


def stand_in(found: HeaderOf, path: Path | None = None) -> Opened:
    """The model as the rest of bench sees it; `path` is where it is made up."""
    anatomy = make_anatomy(found.header)
    model = LocalModel(found.name, paths=(path,) if path else (), size_bytes=anatomy.file_bytes)
    return Opened(model, found.header, anatomy)


# --- what to measure ----------------------------------------------------------------------------------------


def with_tests(opened: Opened, machine: Machine, matrix: Matrix) -> Matrix:
    """The matrix with a prompt and a generation that take some seconds, if it names no tests."""
    if matrix.tests:
        return matrix
    speed = plan_for(opened, machine, replace(matrix.wishes, n_ctx=1024)).speed
    n_prompt = _fitting(speed.prompt_tok_s, _PROMPT_S, (512, 256, 128, 64))
    n_gen = _fitting(speed.decode_tok_s, _DECODE_S, (128, 64, 32, 16, 8, 4))
    return replace(matrix, tests=(SpeedTest(n_prompt, 0), SpeedTest(0, n_gen)))


def _fitting(tok_s: float | None, seconds: float, choices: Sequence[int]) -> int:
    return next((n for n in choices if tok_s and n <= tok_s * seconds), choices[-1])


def _has_room(plan: Plan, machine: Machine) -> bool:
    """Whether there is RAM for the file, for what llama.cpp copies of it, and for the rest."""
    cpu = next(row for row in plan.memory if row.device == "CPU")
    rest = cpu.total_bytes - cpu.weights_bytes
    return _made_bytes(plan, machine) + rest <= free_ram(machine, plan.wishes)


def _made_bytes(plan: Plan, machine: Machine) -> int:
    """The RAM that making it up whole would write: the file, and what llama.cpp copies of it."""
    return plan.anatomy.weights_bytes + ram_for_copies(plan, machine)


def free_ram(machine: Machine, wishes: Wishes) -> int:
    """RAM that may be filled: some is left for everybody else."""
    free = machine.ram_free_bytes - machine.ram_total_bytes // 32
    return free if wishes.ram_bytes is None else min(free, wishes.ram_bytes)


def ram_for_copies(plan: Plan, machine: Machine) -> int:
    """The most that llama.cpp copies of the weights in RAM, beside the file."""
    cpu = next(row for row in plan.memory if row.device == "CPU")
    if not plan.settings.use_mmap:
        return cpu.weights_bytes
    copied = repacked_bytes([t.info for t in plan.anatomy.tensors], machine.arch)
    return min(copied, cpu.weights_bytes) if plan.settings.repack else 0


# --- measuring ----------------------------------------------------------------------------------------------


def measure_made_up(
    found: HeaderOf, settings: Sequence[Setting], matrix: Matrix
) -> tuple[list[BenchRow], list[str]]:
    """Rows of a model that is in memory while this lasts, and nowhere else, and what was not measured."""
    anatomy = settings[0].plan.anatomy
    with MemoryFile(found.header, anatomy.n_vocab) as made:
        with work_progress("Making up weights", anatomy.weights_bytes) as on_bytes:
            made.fill(on_bytes)
        opened = stand_in(found, made.path)
        return measure_settings(opened, make_subject(opened, found.name), settings, matrix)
