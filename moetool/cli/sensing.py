"""What `quantize --text` measures: what the output suffers when the tensors of one group are rounded."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from moetool.anatomy import RoledTensor
from moetool.cli.answer import load_engine, require_fit
from moetool.cli.interrupt import CtrlC
from moetool.cli.judging import read_text, reading_wishes, source_of
from moetool.cli.opening import Opened, plan_for, read_this_machine
from moetool.engine.model import Engine
from moetool.engine.reading import TextReader
from moetool.engine.rounding import LoadedWeights
from moetool.errors import UsageError
from moetool.eval import Chunks, KeptReference, ReferenceWriter, make_chunks, measure_quality
from moetool.eval.chunks import LONGER_TEXT
from moetool.identity import read_model_digest
from moetool.kept_sensitivities import (
    KeptSensitivity,
    keep_sensitivity,
    read_sensitivities_path,
    read_sensitivity,
)
from moetool.lab.rounding import rounded
from moetool.lab.sensitivity import Group, Sensitivity, make_groups, measured_sensitivity
from moetool.plan import Plan, Wishes
from moetool.quants import BY_NAME, QuantType
from moetool.render.plain import notice
from moetool.render.progress import step_progress

# Rounded so that it shows, and not so much that errors no longer add up.
_TYPE, _SHORT_TYPE = BY_NAME["Q3_K"], BY_NAME["Q4_0"]
_PLAIN = frozenset({"F32", "F16", "BF16", "Q8_0"})


def kept_sensitivity(opened: Opened, tensors: Sequence[RoledTensor]) -> Sensitivity | None:
    """What was measured of this model before, on whatever text."""
    found = read_sensitivity(read_sensitivities_path(), read_model_digest(opened.model.paths))
    return _as_sensitivity(found, tensors) if found else None


def measure_sensitivity(
    opened: Opened, tensors: Sequence[RoledTensor], text: Path, n_threads: int | None
) -> Sensitivity:
    """Measure it on a text and keep it; what was measured on the same text before is taken as it is."""
    _require_plain(opened, tensors)
    content = read_text(text)
    plan = _plan(opened, n_threads)
    with CtrlC() as ctrl_c, load_engine(opened, plan, ctrl_c.pressed) as engine:
        vocabulary = engine.vocabulary
        tokens = vocabulary.tokenize(content, add_special=True)
        bos = vocabulary.bos if vocabulary.adds_bos else None
        chunks = make_chunks(tokens, engine.n_ctx, bos, LONGER_TEXT)
        digest = read_model_digest(opened.model.paths)
        before = read_sensitivity(read_sensitivities_path(), digest, chunks.digest)
        if before and (known := _as_sensitivity(before, tensors)):
            notice(f"Sensitivity was measured on this text before ({before.when}).")
            return known
        groups = make_groups(tensors)
        notice(f"Reading {chunks.n_chunks} chunks of {chunks.n_ctx} tokens {len(groups) + 1} times.")
        with tempfile.TemporaryFile() as stream, step_progress("Rounding", len(groups)) as on_group:
            reference = _read_reference(engine, chunks, stream, opened)
            bench = _Bench(engine, chunks, reference, ctrl_c.pressed)
            found = measured_sensitivity(
                groups, bench.round_group, bench.read_divergence, bench.restore, "measured", on_group
            )
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    kept = KeptSensitivity(opened.anatomy.name, digest, chunks.digest, text.name, when, found.per_error)
    keep_sensitivity(read_sensitivities_path(), kept)
    return replace(found, source=_source(kept))


def _as_sensitivity(kept: KeptSensitivity, tensors: Sequence[RoledTensor]) -> Sensitivity | None:
    if not all(tensor.info.name in kept.per_error for tensor in tensors):
        return None
    return Sensitivity(kept.per_error, _source(kept))


def _source(kept: KeptSensitivity) -> str:
    return f"measured on {kept.text}, {kept.when[:10]}"


def _require_plain(opened: Opened, tensors: Sequence[RoledTensor]) -> None:
    odd = next((t.info for t in tensors if t.info.type.name not in _PLAIN), None)
    if odd:
        raise UsageError(
            f"Sensitivity is measured on unquantized models: {opened.model.name} has {odd.type.name} tensors",
            "take the F16 or BF16 file",
        )


def _plan(opened: Opened, n_threads: int | None) -> Plan:
    """All in RAM, where weights can be written to: not mapped from the file, and not repacked."""
    wishes = reading_wishes(opened, Wishes(devices=(), n_threads=n_threads))
    plan = plan_for(opened, read_this_machine(), wishes)
    require_fit(plan, opened.model.name)
    return replace(plan, settings=replace(plan.settings, use_mmap=False, repack=False))


def _read_reference(engine: Engine, chunks: Chunks, stream: IO[bytes], opened: Opened) -> KeptReference:
    with ReferenceWriter(stream, source_of(engine, opened), chunks) as keeper:
        measure_quality(TextReader(engine), chunks, None, keeper)
    return KeptReference(stream)


@dataclass
class _Bench:
    """The loaded model, whose weights are rounded and put back."""

    engine: Engine
    chunks: Chunks
    reference: KeptReference
    is_cancelled: Callable[[], bool]
    _kept: dict[str, npt.NDArray[np.uint8]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights = LoadedWeights(self.engine)

    def round_group(self, group: Group) -> float:
        errors = 0.0
        for tensor in group.tensors:
            info = tensor.info
            before = self._kept[info.name] = self.weights.read(info.name, info.n_bytes)
            after, error = rounded(before, info.type, _type_for(info.shape[0]), info.shape[0])
            self.weights.write(info.name, after)
            errors += error
        return errors

    def read_divergence(self) -> float:
        scores = measure_quality(TextReader(self.engine, self.is_cancelled), self.chunks, self.reference)
        assert scores.compared is not None
        return max(0.0, float(scores.compared.kld.mean()))

    def restore(self) -> None:
        while self._kept:
            self.weights.write(*self._kept.popitem())


def _type_for(n_columns: int) -> QuantType:
    return _TYPE if n_columns % _TYPE.block_size == 0 else _SHORT_TYPE
