"""Models side by side, for people: a column for each, and which to take."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.text import Text

from moetool.anatomy import state_bytes
from moetool.contest import Contender, verdict
from moetool.memory import cache_sizes
from moetool.render.fitted import NOTHING, columns
from moetool.render.plain import safe_line
from moetool.render.plan import placement_phrase, quality_band
from moetool.render.tables import machine_phrase, show
from moetool.render.units import show_bytes, show_count, show_range, show_rate

_NOTHING = NOTHING[0]
_KV = "q8_0"
_SIZE_NOTE = (
    "¹ a rule of thumb for the dense model of like ability (r/LocalLLaMA, March 2024). Nobody has derived it,"
    " and it knows nothing of data, training or age."
)
_QUALITY_NOTE = (
    "² compare only what was measured on the same text, perplexity only of models with the same vocabulary."
)


def show_contest(contenders: Sequence[Contender]) -> None:
    """One screen."""
    first = contenders[0].plan
    table = columns(["", *(safe_line(one.label) for one in contenders)], left=[""])
    for head, cell in _LINES:
        cells = [safe_line(cell(one)) for one in contenders]
        if any(text not in NOTHING for text in cells):
            table.add_row(head, *cells)
    show(
        Text(safe_line(f"This machine   {machine_phrase(first.machine)}")),
        Text(f"Context        {first.settings.n_ctx_seq} tokens"),
        Text(),
        table,
        Text(),
        Text(safe_line(verdict(contenders).text), style="bold"),
        Text(),
        Text(_SIZE_NOTE, style="dim"),
        *([Text(_QUALITY_NOTE, style="dim")] if any(one.qualities for one in contenders) else []),
    )


def _experts(one: Contender) -> str:
    anatomy = one.plan.anatomy
    if not anatomy.is_moe:
        return "dense"
    shared = f" + {anatomy.n_expert_shared} shared" if anatomy.n_expert_shared else ""
    return f"{anatomy.n_expert_used}{shared} of {anatomy.n_expert}"


def _cache(one: Contender) -> str:
    size = next((size for size in cache_sizes(one.plan.anatomy) if size.type == _KV), None)
    if size is None or not size.per_token_bytes:
        return show_bytes(state_bytes(one.plan.anatomy)) + " in all"
    return show_bytes(float(size.per_token_bytes))


def _memory(one: Contender) -> str:
    parts = [f"{row.device} {show_bytes(row.total_bytes)}" for row in one.plan.memory if row.total_bytes]
    return "\n".join(parts)


def _fits(one: Contender) -> str:
    if one.plan.fits:
        return "yes"
    missing = ", ".join(f"{device} {show_bytes(n)}" for device, n in one.plan.missing.items())
    return f"no: {missing} missing" if missing else "no"


def _if_fits(cell: Callable[[Contender], str]) -> Callable[[Contender], str]:
    return lambda one: cell(one) if one.plan.fits else _NOTHING


def _measured(one: Contender) -> str:
    speed = one.speed
    if not speed.n_runs:
        return _NOTHING
    decode, prompt = (
        _NOTHING if rate is None else show_rate(rate) for rate in (speed.decode_tok_s, speed.prompt_tok_s)
    )
    return f"{decode} decode, {prompt} prompt ({speed.n_runs} runs)"


def _judged(one: Contender) -> str:
    lines = []
    for quality in one.qualities[:2]:
        against = f", KLD {quality.kld:.2g} from {quality.reference}" if quality.kld is not None else ""
        lines.append(f"perplexity {quality.ppl:.4g} on {quality.text}{against}")
    return "\n".join(lines) or _NOTHING


_LINES: tuple[tuple[str, Callable[[Contender], str]], ...] = (
    ("architecture", lambda one: one.plan.anatomy.arch),
    (
        "file",
        lambda one: f"{show_bytes(one.plan.anatomy.file_bytes)}, {one.plan.anatomy.bits_per_weight:.2f} bits",
    ),
    ("parameters", lambda one: show_count(one.plan.anatomy.n_params)),
    ("active a token", lambda one: show_count(one.plan.anatomy.n_params_active)),
    ("experts", _experts),
    ("layers", lambda one: str(one.plan.anatomy.n_layer)),
    ("√(total × active) ¹", lambda one: show_count(one.size)),
    ("read a token", lambda one: show_bytes(one.plan.anatomy.bytes_per_token)),
    (f"KV a token ({_KV})", _cache),
    ("fits", _fits),
    ("memory", _memory),
    ("placement", _if_fits(lambda one: placement_phrase(one.plan))),
    ("KV cache", _if_fits(lambda one: f"{one.plan.settings.type_k}/{one.plan.settings.type_v}")),
    ("decode tok/s", _if_fits(lambda one: show_range(one.plan.speed.decode_low, one.plan.speed.decode_high))),
    ("prompt tok/s", _if_fits(lambda one: show_range(one.plan.speed.prompt_low, one.plan.speed.prompt_high))),
    ("measured here", _measured),
    ("expected loss", lambda one: quality_band(one.quality)),
    ("measured quality ²", _judged),
)
