"""What `quantize` does once its flags are read: choose types, write, and check what was written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from moetool.anatomy import RoledTensor
from moetool.cli.new_file import new_file
from moetool.cli.opening import Opened
from moetool.cli.sensing import kept_sensitivity, measure_sensitivity
from moetool.engine.quantizer import Importance, Order, quantize_file, short_note, stock_types
from moetool.errors import DiskFull, EngineError, UsageError
from moetool.gguf import Header, check_data, open_header
from moetool.lab.allocation import Choice, Options, allocate, total_bytes, total_loss
from moetool.lab.file_size import quantized_file_bytes
from moetool.lab.imatrix import Imatrix
from moetool.lab.quant_plan import QuantPlan, make_rows
from moetool.lab.recipes import (
    MOE_AWARE,
    NEED_IMPORTANCE,
    candidate_types,
    file_type_of,
    make_options,
    probe_file_type,
)
from moetool.lab.rounding import read_sample, rounding_errors
from moetool.lab.sensitivity import Sensitivity, typical_sensitivity
from moetool.lab.target import Rest, Target, choose_types
from moetool.quants import QuantType
from moetool.render.progress import work_progress
from moetool.render.units import show_bytes


@dataclass(frozen=True)
class Asked:
    """What the flags say; `text` is what sensitivity is measured on, `imatrix` what --imatrix holds."""

    recipe: str
    target: Target
    text: Path | None = None
    imatrix: Imatrix | None = None
    imatrix_name: str = ""
    requantize: bool = False
    n_threads: int = 0


def make_quant_plan(opened: Opened, asked: Asked) -> QuantPlan:
    """Which type each tensor gets, and what becomes of the file."""
    source = _Source.open(opened)
    importance = _importance(asked, source)
    order = Order("F16", importance=importance, requantize=True)
    if asked.recipe != MOE_AWARE:
        types = stock_types(opened.model.paths[0], replace(order, file_type=asked.recipe))
        notes = _notes(asked)
        plan = source.plan(asked.recipe, asked.recipe, types, notes, None, "llama.cpp's own mix")
        _require_importance(plan, asked.imatrix)
        return plan
    probe = probe_file_type([t.info for t in source.tensors])
    changed = stock_types(opened.model.paths[0], replace(order, file_type=probe))
    tensors = [t for t in source.tensors if t.info.name in changed]
    wide = [t for t in tensors if len(candidate_types(t.info)) > 1]
    if not wide:
        raise UsageError("Nothing in this file can be made smaller", "take the F16 or BF16 file")
    sensitivity = _sensitivity(opened, asked, wide)
    options = make_options([t.info for t in tensors], source.errors(wide, importance), sensitivity.loss)
    return _choose(source, asked, tensors, options, sensitivity)


def require_plain(opened: Opened, asked: Asked) -> None:
    """UsageError for a source that is quantized already, before anything is measured on it."""
    if any(t.info.type.block_size > 1 for t in opened.anatomy.tensors) and not asked.requantize:
        raise _quantized(opened)


def write_quant(opened: Opened, plan: QuantPlan, asked: Asked, target: Path) -> None:
    """Write the file; it appears under its name when it is whole and what was planned."""
    _require_room(plan, target)
    source = _Source.open(opened)
    order = Order(
        plan.file_type,
        {} if plan.recipe != MOE_AWARE else plan.types,
        _importance(asked, source),
        plan.notes,
        asked.n_threads,
        asked.requantize,
    )
    with new_file(target, "DST") as part, work_progress("Quantizing", 1.0) as on_share:
        done = 0.0

        def on_tensor(n: int, n_all: int) -> None:
            nonlocal done
            on_share(n / n_all - done)
            done = n / n_all

        quantize_file(opened.model.paths, part, order, on_tensor)
        _check_written(part, plan)


# -- the source --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """The shards of a model with their headers, and its tensors."""

    paths: tuple[Path, ...]
    headers: tuple[Header, ...]
    tensors: tuple[RoledTensor, ...]

    @classmethod
    def open(cls, opened: Opened) -> _Source:
        headers = tuple(open_header(path) for path in opened.model.paths)
        return cls(tuple(opened.model.paths), headers, opened.anatomy.tensors)

    def errors(
        self, tensors: Sequence[RoledTensor], importance: Importance
    ) -> dict[str, dict[QuantType, float]]:
        """What each candidate type makes of a sample of each tensor."""

        def look(tensor: RoledTensor) -> dict[QuantType, float]:
            info = tensor.info
            sample = read_sample(self.paths[info.shard], self.headers[info.shard], info)
            return rounding_errors(sample, candidate_types(info)[:-1], importance.get(info.name))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(look, tensors))
        return {tensor.info.name: errors for tensor, errors in zip(tensors, found, strict=True)}

    def plan(
        self,
        recipe: str,
        file_type: str,
        types: Mapping[str, QuantType],
        notes: Mapping[str, str | int],
        kld: float | None,
        basis: str,
    ) -> QuantPlan:
        return QuantPlan(
            recipe,
            file_type,
            types,
            make_rows(self.tensors, types),
            sum(path.stat().st_size for path in self.paths),
            quantized_file_bytes(self.headers, types, notes),
            sum(tensor.info.n_elements for tensor in self.tensors),
            notes,
            kld,
            basis,
        )


# -- moe-aware ---------------------------------------------------------------------------------------


def _sensitivity(opened: Opened, asked: Asked, tensors: Sequence[RoledTensor]) -> Sensitivity:
    if asked.text is not None:
        return measure_sensitivity(opened, tensors, asked.text, asked.n_threads or None)
    known = kept_sensitivity(opened, tensors)
    return known or typical_sensitivity(tensors, tied=opened.anatomy.tied)


def _choose(
    source: _Source, asked: Asked, tensors: Sequence[RoledTensor], options: Options, sensitivity: Sensitivity
) -> QuantPlan:
    if asked.target.kld is not None and not sensitivity.is_measured:
        raise UsageError("--kld needs the sensitivity of this model", "give a text to measure it on: --text")
    notes = _notes(asked)

    def planned(chosen: Choice) -> QuantPlan:
        types = {name: option.type for name, option in chosen.items()}
        kld = total_loss(chosen) if sensitivity.is_measured else None
        name = file_type_of(types, [tensor.info for tensor in tensors])
        return source.plan(MOE_AWARE, name, types, notes, kld, f"sensitivity {sensitivity.source}")

    smallest = allocate(options, 0)
    least, chosen_bytes = planned(smallest), total_bytes(smallest)
    rest = Rest(least.file_bytes - chosen_bytes, least.weights_bytes - chosen_bytes, least.n_params)
    return planned(choose_types(options, asked.target, rest))


# -- importance --------------------------------------------------------------------------------------


def _importance(asked: Asked, source: _Source) -> Importance:
    if asked.imatrix is None:
        return {}
    wrong = [t.info.name for t in source.tensors if not asked.imatrix.fits(t.info)]
    known = [t.info for t in source.tensors if t.info.name in asked.imatrix.entries]
    if wrong or not known:
        at = f": {wrong[0]} has other rows or experts" if wrong else ""
        raise UsageError(f"This importance matrix is of another model{at}", "make one with moetool imatrix")
    return {info.name: asked.imatrix.importance_of(info) for info in known}


def _notes(asked: Asked) -> dict[str, str | int]:
    """What the file says of how it was made; the importance matrix as llama-quantize writes it down."""
    notes: dict[str, str | int] = {}
    if asked.recipe == MOE_AWARE:
        notes["moetool.quantize.recipe"] = MOE_AWARE
    if asked.imatrix is not None:
        notes["quantize.imatrix.file"] = short_note(asked.imatrix_name)
        if asked.imatrix.datasets:
            notes["quantize.imatrix.dataset"] = short_note(Path(asked.imatrix.datasets[0]).name)
        notes["quantize.imatrix.entries_count"] = len(asked.imatrix.entries)
        notes["quantize.imatrix.chunks_count"] = asked.imatrix.n_chunks
    return notes


def _require_importance(plan: QuantPlan, imatrix: Imatrix | None) -> None:
    """Types that are garbage without an importance matrix get one, and of every expert."""
    outside = {"token_embd.weight", "output.weight"}
    entries = imatrix.entries if imatrix else {}
    for name in (n for n, quant in plan.types.items() if quant.name in NEED_IMPORTANCE and n not in outside):
        if name not in entries:
            raise UsageError(
                f"{plan.recipe} needs an importance matrix: without one {name} would be garbage",
                "make one with moetool imatrix, and give it with --imatrix",
            )
        if unseen := entries[name].unseen:
            experts = ", ".join(map(str, unseen[:8])) + (", …" if len(unseen) > 8 else "")
            raise UsageError(
                f"The importance matrix has not seen {len(unseen)} experts of {name} ({experts}): in"
                f" {plan.types[name]} they would be garbage",
                "collect it on more text (moetool imatrix), or take a wider recipe",
            )


# -- writing -----------------------------------------------------------------------------------------


def require_source(opened: Opened, plan: QuantPlan, asked: Asked) -> None:
    """UsageError where the plan would round again what is rounded already, unless that was asked for."""
    own = {tensor.info.name: tensor.info.type for tensor in opened.anatomy.tensors}
    again = [name for name, quant in plan.types.items() if own[name].block_size > 1 and own[name] != quant]
    if again and not asked.requantize:
        raise _quantized(opened)


def _quantized(opened: Opened) -> UsageError:
    return UsageError(
        f"{opened.model.name} is quantized already ({opened.anatomy.quant}): rounding twice loses more",
        "take its F16 or BF16 file; --requantize does it all the same",
    )


def _require_room(plan: QuantPlan, target: Path) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < plan.file_bytes:
        raise DiskFull(
            f"{target.parent} has {show_bytes(free)} free, {show_bytes(plan.file_bytes)} are to be written",
            "free some, or write elsewhere",
        )


def _check_written(part: Path, plan: QuantPlan) -> None:
    """EngineError unless the file is whole, as large as was said, and of the types that were chosen."""
    size = part.stat().st_size
    header = open_header(part)
    check_data(header, size)
    types = {tensor.name: tensor.type for tensor in header.tensors}
    other = [name for name, quant in plan.types.items() if types.get(name) != quant]
    if size != plan.file_bytes or other:
        what = f"{other[0]} is in {types.get(other[0])}" if other else f"{size} bytes, not {plan.file_bytes}"
        raise EngineError(f"What llama.cpp wrote is not what was planned: {what}", "please report this")
