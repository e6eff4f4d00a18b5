"""A plan for people: where everything goes, how fast, why, what else could be had, what to type."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from moetool.memory import DeviceMemory
from moetool.plan import Alternative, Plan, Reason
from moetool.quality import Quality
from moetool.render.fitted import Fitted, filled_columns
from moetool.render.plain import safe_line
from moetool.render.tables import facts_table, machine_phrase, model_phrase, show, show_command
from moetool.render.units import show_bytes, show_gib, show_range, show_rate
from moetool.speed import Load

_PLACES = ("cpu-only", "all-offloaded", "experts-in-ram", "layers-in-ram", "ubatch-small", "ubatch-large")


def show_plan(
    plan: Plan,
    quality: Quality,
    alternatives: Sequence[Alternative],
    remedies: Sequence[Reason],
    next_command: Sequence[str],
) -> None:
    """One screen; `next_command` is shown for a plan that fits, `remedies` for one that does not."""
    show(*_parts(plan, quality, alternatives, remedies))
    if plan.fits:
        show_command(*next_command)


def _parts(
    plan: Plan, quality: Quality, alternatives: Sequence[Alternative], remedies: Sequence[Reason]
) -> Iterator[RenderableType]:
    yield facts_table(_facts(plan, quality))
    yield Text()
    yield _memory_table(plan)
    yield Text()
    style = "bold green" if plan.fits else "bold red"
    yield Text("It fits." if plan.fits else "It does not fit.", style=style)
    yield from (Text(f"· {safe_line(reason.text)}", style="dim") for reason in plan.reasons)
    yield from (Text(f"→ {safe_line(remedy.text)}") for remedy in remedies)
    yield Text(f"Speed basis: {plan.speed.missing or plan.speed.basis}", style="dim")
    worth = [other for other in alternatives if other.is_front or other.is_pick]
    if len(worth) > 1:
        yield Text()
        yield _alternatives_table(worth)
        yield Text()


def _facts(plan: Plan, quality: Quality) -> dict[str, str]:
    settings = plan.settings
    depth = settings.n_ctx_seq
    deep = plan.predict(Load(n_ubatch=settings.n_ubatch, depth=depth))
    sequences = f" for each of {settings.n_seq} sequences" if settings.n_seq > 1 else ""
    return {
        "Model": f"{plan.anatomy.name}   {model_phrase(plan.anatomy)}",
        "This machine": machine_phrase(plan.machine),
        "Context": f"{depth} tokens{sequences}, KV cache {settings.type_k}/{settings.type_v}",
        "Decode": f"{show_range(plan.speed.decode_low, plan.speed.decode_high)} tok/s at first, "
        f"{show_range(deep.decode_low, deep.decode_high)} with {depth} tokens in context",
        "Prompt": f"{show_range(plan.speed.prompt_low, plan.speed.prompt_high)} tok/s at first",
        "Expected loss": "; ".join([_loss_phrase(quality), *quality.evidence[:1]]),
    }


def quality_band(quality: Quality) -> str:
    """ "low", or "very low–moderate" where the range spans bands."""
    ends = quality.band_low, quality.band_high
    return ends[0] if ends[0] == ends[1] else "–".join(ends)


def _loss_phrase(quality: Quality) -> str:
    """ "none", or "moderate (low–high)": the middle, and what four models of five lie between."""
    band = quality_band(quality)
    return band if band == quality.band else f"{quality.band} ({band})"


def _memory_table(plan: Plan) -> Fitted:
    heads = ("device", "weights", "KV", "state", "compute", "output", "total", "free")
    free = {device.name: show_bytes(device.free_bytes) for device in plan.machine.devices}
    rows = [(row.device, *_sizes(row), free.get(row.device, "")) for row in plan.memory]
    if plan.draft is not None:
        rows += [(f"{row.device} draft", *_sizes(row), "") for row in plan.draft.memory]
    return filled_columns(heads, rows, left={"device"})


def _sizes(row: DeviceMemory) -> tuple[str, ...]:
    sizes = (row.weights_bytes, row.kv_bytes, row.state_bytes, row.compute_bytes, row.output_bytes)
    return tuple(show_bytes(n) if n else "–" for n in (*sizes, row.total_bytes))


def _alternatives_table(alternatives: Sequence[Alternative]) -> Fitted:
    """What else could be had, the plan marked."""
    heads = ("", "context", "KV", "VRAM", "RAM", "decode tok/s", "prompt tok/s", "placement")
    rows = []
    for other in alternatives:
        cells = ("▸" if other.is_pick else "", *_alternative_cells(other))
        rows.append([Text(cell, style="bold") for cell in cells] if other.is_pick else cells)
    return filled_columns(heads, rows, left={"", "KV", "placement"})


def _alternative_cells(other: Alternative) -> tuple[str, ...]:
    plan, settings = other.plan, other.plan.settings
    kinds = dict.fromkeys((settings.type_k, settings.type_v))
    vram, ram = device_bytes(plan)
    return (
        str(settings.n_ctx_seq),
        "/".join(kinds),
        show_gib(vram) if vram else "–",
        show_gib(ram),
        show_rate(plan.speed.decode_tok_s),
        show_rate(plan.speed.prompt_tok_s),
        ", ".join(filter(None, (_experts_phrase(other), placement_phrase(plan)))),
    )


def _experts_phrase(other: Alternative) -> str:
    """ "6 experts instead of 8: +18 % speed, KLD 0.010 as measured"."""
    if other.experts is None or other.gain is None or other.kld is None:
        return ""
    instead = f"--experts {other.experts} instead of {other.plan.anatomy.n_expert_used}"
    return f"{instead}: {100 * other.gain:+.0f} % speed, KLD {other.kld:.3g} as measured"


def placement_phrase(plan: Plan) -> str:
    """Where things go, and in batches of what size if not the usual, without why: the first half of the
    reasons."""
    texts = [reason.text.partition(":")[0] for reason in plan.reasons if reason.code in _PLACES]
    return safe_line(", ".join(texts))


def device_bytes(plan: Plan) -> tuple[int, int]:
    """Bytes on all offload devices together, and in RAM."""
    offload = {device.name for device in plan.machine.devices if device.kind != "cpu"}
    vram = sum(row.total_bytes for row in plan.memory if row.device in offload)
    return vram, sum(row.total_bytes for row in plan.memory) - vram
