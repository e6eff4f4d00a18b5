"""Two benchmarks side by side: rows of the same test and settings, and whether they really differ.

Rows are read by llama-bench's field names, so results of llama-bench can be compared with ours. What differs
within a file tells rows apart; what differs only between the files is what is compared.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from moetool.errors import UsageError

Row = Mapping[str, Any]
Verdict = Literal["faster", "slower", "no difference", "not known"]

# Fields that say under what a row was measured.
SETTINGS = (
    "model_type",
    "model_filename",
    "n_gpu_layers",
    "n_cpu_moe",
    "experts",
    "repack",
    "load_mode",
    "n_batch",
    "n_ubatch",
    "type_k",
    "type_v",
    "flash_attn",
    "n_threads",
    "cpu_info",
    "gpu_info",
    "backends",
    "build_commit",
)
_TEST = ("n_prompt", "n_gen", "n_depth")
# Less is no difference, however sure it is: the same program differs by as much from start to start.
LEAST = 0.01
# 97.5 % quantiles of Student's t for 1, 2, … degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Ratio:
    """How many times as fast the second is, with its 95 % interval (None where nothing was repeated)."""

    ratio: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> Verdict:
        if self.low is None or self.high is None:
            return "not known"
        if self.low <= 1 <= self.high or abs(self.ratio - 1) < LEAST:
            return "no difference"
        return "faster" if self.ratio > 1 else "slower"


@dataclass(frozen=True)
class Pair:
    """One test under one setting in both files; `setting` names what tells it from other pairs. Rates are
    medians in tokens/s."""

    test: str
    setting: str
    before_tok_s: float
    after_tok_s: float
    ratio: Ratio


@dataclass(frozen=True)
class Comparison:
    """All pairs, all prompts and all generations together (None without any), what the files differ in, and
    how many rows have no partner."""

    pairs: tuple[Pair, ...]
    prompt: Ratio | None
    decode: Ratio | None
    differences: tuple[str, ...]
    n_alone: int


def parse_rows(text: str, name: str) -> tuple[Row, ...]:
    """The rows of a file that `bench` wrote as json or jsonl, or llama-bench did. UsageError for others."""
    try:
        document = json.loads(text)
    except ValueError:
        document = _parse_lines(text)
    if isinstance(document, dict):
        data = document.get("data", document)
        document = data.get("rows", [data]) if isinstance(data, dict) else None
    rows = document if isinstance(document, list) else []
    sound = [row for row in rows if isinstance(row, dict) and _samples(row) and _test_name(row)]
    if not sound or len(sound) < len(rows):
        raise UsageError(
            f"{name} does not hold the rows of a benchmark", f"moetool bench … --output json > {name}"
        )
    return tuple(sound)


def _parse_lines(text: str) -> list[Any] | None:
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError:
        return None


def _samples(row: Row) -> list[float]:
    """Tokens per second of each repetition; none for what is no row."""
    samples = row.get("samples_ts")
    values = samples if isinstance(samples, list) else []
    sound = [float(v) for v in values if isinstance(v, int | float) and 0 < v < math.inf]
    return sound if len(sound) == len(values) else []


def _test_name(row: Row) -> str:
    n_prompt, n_gen, n_depth = (row.get(name, 0) for name in _TEST)
    if not all(isinstance(n, int) for n in (n_prompt, n_gen, n_depth)):
        return ""
    parts = [f"pp{n_prompt}"] if n_prompt else []
    name = "+".join([*parts, f"tg{n_gen}"] if n_gen else parts)
    return f"{name} @ d{n_depth}" if n_depth and name else name


def compare(before: Sequence[Row], after: Sequence[Row]) -> Comparison:
    """Every row of `before` with its partner in `after`."""
    telling = [name for name in SETTINGS if any(_varies(rows, name) for rows in (before, after))]
    first, second = _by_key(before, telling), _by_key(after, telling)
    shared = [key for key in first if key in second]
    pairs = [_pair(key, telling, first[key], second[key]) for key in shared]
    kinds: dict[bool, list[tuple[list[float], list[float]]]] = {True: [], False: []}
    for key in shared:
        kinds["tg" not in key[0]].append((first[key], second[key]))
    return Comparison(
        tuple(pairs),
        ratio_of(kinds[True]) if kinds[True] else None,
        ratio_of(kinds[False]) if kinds[False] else None,
        tuple(_differences(before, after, telling)),
        len(first) + len(second) - 2 * len(shared),
    )


def _varies(rows: Sequence[Row], name: str) -> bool:
    return len({str(row.get(name)) for row in rows}) > 1


def _by_key(rows: Sequence[Row], telling: Sequence[str]) -> dict[tuple[str, ...], list[float]]:
    """Samples by test and by what tells settings apart; those of one and the same are put together."""
    found: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        key = (_test_name(row), *(str(row.get(name)) for name in telling))
        found.setdefault(key, []).extend(_samples(row))
    return found


def _pair(
    key: tuple[str, ...], telling: Sequence[str], before: Sequence[float], after: Sequence[float]
) -> Pair:
    setting = ", ".join(f"{name} {value}" for name, value in zip(telling, key[1:], strict=True))
    middles = statistics.median(before), statistics.median(after)
    return Pair(key[0], setting, *middles, ratio_of([(before, after)]))


def _differences(before: Sequence[Row], after: Sequence[Row], telling: Sequence[str]) -> Iterable[str]:
    for name in SETTINGS:
        one, other = before[0].get(name), after[0].get(name)
        if name not in telling and one is not None and other is not None and one != other:
            yield f"{name}: {one} → {other}"


def ratio_of(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Ratio:
    """The geometric mean of the pairs' ratios, and Welch's interval of it, on logarithms: repetitions of a
    test vary about its own middle, whatever the other tests do."""
    difference = variance = spread = 0.0
    n = len(pairs)
    for before, after in pairs:
        for sign, samples in ((-1, before), (1, after)):
            logs = [math.log(sample) for sample in samples]
            difference += sign * statistics.fmean(logs) / n
            if len(logs) < 2:
                variance = math.inf
                continue
            part = statistics.variance(logs) / len(logs) / n**2
            variance += part
            spread += part**2 / (len(logs) - 1)
    ratio = _exp(difference)
    if math.isinf(variance):
        return Ratio(ratio, None, None)
    reach = _quantile(variance**2 / spread) * math.sqrt(variance) if spread else 0.0
    return Ratio(ratio, _exp(difference - reach), _exp(difference + reach))


def _exp(logarithm: float) -> float:
    """The number, as large as numbers get: files may state any samples."""
    return math.exp(min(logarithm, 709.0))


def _quantile(freedom: float) -> float:
    """Student's t, 97.5 %: by table, and beyond it by the series around the normal distribution."""
    if freedom < len(_T) + 1:
        return _T[max(0, int(freedom) - 1)]
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
