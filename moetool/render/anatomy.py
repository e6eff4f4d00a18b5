"""What a model is made of, on one screen: figures, roles with bars, and on demand every layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.text import Text

from moetool.anatomy import Anatomy, Layer, effective_size, state_bytes
from moetool.memory import CacheSize, cache_sizes
from moetool.render.fitted import Fitted, filled_columns
from moetool.render.plain import safe_line
from moetool.render.tables import facts_table, show
from moetool.render.units import show_bytes, show_count, show_share

BAR_CELLS = 32
_SHOWN_UNKNOWN = 8
_SHOWN_CACHES = ("f16", "q8_0", "q4_0")

_MIXERS = {
    "full": "full attention",
    "sliding": "sliding window",
    "mla": "MLA",
    "recurrent": "recurrent state",
    "parallel": "attention beside recurrent state",
}
_FFNS = {"dense": "dense FFN", "moe": "MoE"}


def show_anatomy(anatomy: Anatomy) -> None:
    """What a model is made of, one screen."""
    show(facts_table(_facts(anatomy)), Text(), _role_bars(anatomy))
    if anatomy.unknown:
        names = ", ".join(anatomy.unknown[:_SHOWN_UNKNOWN])
        more = ", …" if len(anatomy.unknown) > _SHOWN_UNKNOWN else ""
        count = f"{len(anatomy.unknown)} of unknown role, counted as read for each token"
        show(Text(safe_line(f"Tensors: {count}: {names}{more}"), style="yellow"))


def _facts(anatomy: Anatomy) -> dict[str, str]:
    facts = {
        "Model": f"{anatomy.name}   {anatomy.arch}",
        "Quantization": f"{anatomy.quant}, {anatomy.bits_per_weight:.2f} bits a weight",
        "Parameters": f"{show_count(anatomy.n_params)}, {show_count(anatomy.n_params_active)} active a token",
        "Layers": _layer_summary(anatomy),
    }
    if anatomy.is_moe:
        shared = f" + {anatomy.n_expert_shared} shared" if anatomy.n_expert_shared else ""
        facts["Experts"] = (
            f"{anatomy.n_expert_used}{shared} of {anatomy.n_expert} used, in {anatomy.n_layer_moe} layers"
        )
    facts["Weights"] = (
        f"{show_bytes(anatomy.weights_bytes)}, {show_bytes(anatomy.bytes_per_token)} read a token"
    )
    facts |= _cache_facts(anatomy)
    facts["Context"] = f"{anatomy.n_ctx_train} tokens trained, vocabulary {anatomy.n_vocab}"
    if anatomy.is_moe:
        guess = show_count(effective_size(anatomy))
        facts["Feels like"] = f"a dense model of about {guess}: √(total × active), a community heuristic"
    return facts


def _layer_summary(anatomy: Anatomy) -> str:
    kinds = Counter(_kind(layer) for layer in anatomy.layers if not layer.mtp)
    parts = [f"{count} × {kind}" for kind, count in kinds.items()]
    if anatomy.n_layer_mtp:
        parts.append(f"and {anatomy.n_layer_mtp} for the next token but one")
    return f"{anatomy.n_layer}: {', '.join(parts)}"


def _kind(layer: Layer) -> str:
    parts = (_MIXERS.get(layer.mixer), _FFNS.get(layer.ffn))
    return " + ".join(part for part in parts if part) or "neither attention nor FFN"


def _cache_facts(anatomy: Anatomy) -> dict[str, str]:
    """What a token of context, full windows, and a sequence cost, each where the model has it."""
    sizes = [size for size in cache_sizes(anatomy) if size.type in _SHOWN_CACHES]
    windows = sorted({row.window for layer in anatomy.layers for row in layer.cache if row.window})
    state = state_bytes(anatomy)
    facts = {}
    if any(size.per_token_bytes for size in sizes):
        facts["KV cache"] = f"{_by_type(sizes, lambda size: float(size.per_token_bytes))} a token of context"
    if windows:
        kept = _by_type(sizes, lambda size: size.window_bytes)
        facts["Windows"] = f"of {' and '.join(map(str, windows))} tokens keep {kept}"
    if state:
        facts["State"] = f"{show_bytes(state)} a sequence, however long it is"
    return facts or {"KV cache": "none"}


def _by_type(sizes: Sequence[CacheSize], measure: Callable[[CacheSize], float]) -> str:
    return ", ".join(f"{show_bytes(measure(size))} at {size.type}" for size in sizes)


def _role_bars(anatomy: Anatomy) -> Fitted:
    legend = "█ read for each token  ░ held for others"
    heads = ("role", "parameters", "size", "share", "read a token", legend)
    whole = max(anatomy.weights_bytes, 1)
    rows = []
    for role, n_bytes in sorted(anatomy.bytes_by_role.items(), key=lambda item: -item[1]):
        read = anatomy.read_by_role.get(role, 0)
        row = (
            role,
            show_count(anatomy.params_by_role[role]),
            show_bytes(n_bytes),
            show_share(n_bytes / whole, 1),
            show_bytes(read) if read else "–",
            Bar(read / whole, n_bytes / whole),
        )
        rows.append(row)
    return filled_columns(heads, rows, left={"role", legend})


@dataclass(frozen=True)
class Bar:
    """A bar that is as long as its column allows."""

    full: float
    whole: float

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield Text(bar(self.full, self.whole, min(BAR_CELLS, options.max_width)), style="cyan")

    def __rich_measure__(self, _console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, min(BAR_CELLS, options.max_width))


def bar(full: float, whole: float, n_cells: int = BAR_CELLS) -> str:
    """A horizontal bar of `whole` × `n_cells` cells, of which `full` are solid, in eighths."""
    eighths = round(max(0.0, min(full, 1.0)) * n_cells * 8)
    solid = "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]
    return solid.ljust(round(min(whole, 1.0) * n_cells), "░")


def show_layers(layers: Sequence[Layer]) -> None:
    """The table of all layers."""
    heads = (
        "layer",
        "mixer",
        "ffn",
        "heads",
        "kv heads",
        "head k/v",
        "window",
        "experts used",
        "size",
        "state",
    )
    show(Text(), filled_columns(heads, [_layer_row(layer) for layer in layers], left={"mixer", "ffn"}))


def _layer_row(layer: Layer) -> tuple[str, ...]:
    attends = layer.mixer not in {"recurrent", "none"}
    return (
        str(layer.index),
        layer.mixer + (" (mtp)" if layer.mtp else ""),
        layer.ffn,
        str(layer.n_head) if attends else "–",
        str(layer.n_head_kv) if attends else "–",
        f"{layer.head_k}/{layer.head_v}" if attends else "–",
        str(layer.window or "–"),
        str(layer.n_expert_used or "–"),
        show_bytes(sum(layer.bytes_by_role.values())),
        show_bytes(4 * layer.state_values) if layer.state_values else "–",
    )
