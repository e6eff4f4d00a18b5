"""How much a model's output suffers when weights are rounded: KL divergence per relative error of a tensor.

A weight matrix whose rounding error has a share e of its squares makes an error of that share in what it
computes; for small ones the divergence grows in proportion. That factor is measured by rounding the tensors
of one group in the loaded model, everything else as it was, and reading a text; or it is taken from a table
of what was found for other models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from moetool.anatomy import RoledTensor
from moetool.anatomy.roles import part_of

# Layers that are measured apart for each kind of tensor; deeper models are cut into as many bands.
N_BANDS = 8

# Nats per relative squared error of all layers' tensors of a kind together; a layer's share is one part in
# the number of layers. From the demo model, by scripts/check_quantize.py: geometric means over layers, in
# steps of two. The first pattern that is found in the part's name counts.
_TYPICAL: tuple[tuple[str, float], ...] = (
    (r"_down|ffn_gate_up", 0.8),
    (r"^ffn_", 0.4),
    (r"^attn_(q|k)\.|^attn_q_|^indexer|_norm", 0.4),
    (r"^attn_|^ssm_|^shortconv|^time_mix|^channel_mix", 2.0),
)
_TYPICAL_OTHER = 2.0
# What is outside of the layers stands once: as the output it is what everything passes through.
_TYPICAL_OUTPUT, _TYPICAL_LOOKUP = 1.0, 0.2


@dataclass(frozen=True)
class Group:
    """Tensors of one kind in neighbouring layers, which are rounded together."""

    name: str
    tensors: tuple[RoledTensor, ...]


@dataclass(frozen=True)
class Sensitivity:
    """Nats of divergence per relative squared error, by tensor; `source` says where that is from."""

    per_error: Mapping[str, float]
    source: str
    is_measured: bool = True

    def loss(self, tensor: str, error: float) -> float:
        """What a relative squared error of this tensor should cost."""
        return self.per_error[tensor] * error


def make_groups(tensors: Sequence[RoledTensor]) -> tuple[Group, ...]:
    """Tensors by kind and band of layers."""
    layers = 1 + max((t.layer for t in tensors if t.layer is not None), default=0)
    found: dict[str, list[RoledTensor]] = {}
    for tensor in tensors:
        band = "" if tensor.layer is None else f"{tensor.layer * min(layers, N_BANDS) // layers}."
        found.setdefault(band + part_of(tensor.info.name), []).append(tensor)
    return tuple(Group(name, tuple(group)) for name, group in found.items())


def typical_sensitivity(tensors: Sequence[RoledTensor], *, tied: bool) -> Sensitivity:
    """What is to be expected of a model that nobody has measured."""
    n_layer = 1 + max((t.layer for t in tensors if t.layer is not None), default=0)
    return Sensitivity(
        {t.info.name: _typical(t, n_layer, tied) for t in tensors}, "typical, not measured", is_measured=False
    )


def _typical(tensor: RoledTensor, n_layer: int, tied: bool) -> float:
    if tensor.layer is None:
        return _TYPICAL_LOOKUP if tensor.role == "embedding" and not tied else _TYPICAL_OUTPUT
    part = part_of(tensor.info.name)
    total = next((value for rule, value in _TYPICAL if re.search(rule, part)), _TYPICAL_OTHER)
    return total / n_layer


def measured_sensitivity(
    groups: Sequence[Group],
    round_group: Callable[[Group], float],
    read_divergence: Callable[[], float],
    restore: Callable[[], None],
    source: str,
    on_group: Callable[[], None] = lambda: None,
) -> Sensitivity:
    """Round one group after the other (`round_group` returns the sum of its tensors' relative squared
    errors), read the text, put the group back."""
    found: dict[str, float] = {}
    for group in groups:
        try:
            error = round_group(group)
            per_error = read_divergence() / error if error > 0 else 0.0
        finally:
            restore()
        found |= {tensor.info.name: per_error for tensor in group.tensors}
        on_group()
    return Sensitivity(found, source)
