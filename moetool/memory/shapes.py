"""Widths of one layer's tensors, for writing down what the layer computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moetool.anatomy import Anatomy, Layer
from moetool.anatomy.roles import part_of


@dataclass(frozen=True)
class Shapes:
    """One layer and the shapes of its tensors, by name without the layer; weights are [in, out, …]."""

    layer: Layer
    parts: Mapping[str, tuple[int, ...]]
    n_bytes: Mapping[str, int]
    n_embd: int
    n_expert: int

    def has(self, *names: str) -> bool:
        """Whether the layer has a tensor of any of these names (without `.weight`)."""
        return any(f"{name}.weight" in self.parts or name in self.parts for name in names)

    def into(self, name: str) -> int:
        """How many values a matrix takes in per token; 0 if there is none."""
        shape = self.parts.get(f"{name}.weight", ())
        return shape[0] if shape else 0

    def out(self, name: str) -> int:
        """How many values a matrix gives out per token (of one expert); 0 if there is none."""
        shape = self.parts.get(f"{name}.weight", ())
        return shape[1] if len(shape) > 1 else (1 if shape else 0)

    def weight_bytes(self, name: str) -> int:
        """Bytes of a matrix; 1 if there is none."""
        return self.n_bytes.get(f"{name}.weight", 1)

    @property
    def signature(self) -> tuple[object, ...]:
        """Layers of one signature compute the same."""
        layer = self.layer
        kind = (layer.mixer, layer.ffn, layer.window, layer.n_head, layer.n_head_kv, layer.n_expert_used)
        return (*kind, layer.cache, layer.state_values, tuple(sorted(self.parts.items())))


def make_shapes(anatomy: Anatomy) -> tuple[Shapes, ...]:
    """The shapes of every layer that runs (next-token layers apart)."""
    by_layer: dict[int, dict[str, tuple[int, ...]]] = {layer.index: {} for layer in anatomy.layers}
    n_bytes: dict[int, dict[str, int]] = {layer.index: {} for layer in anatomy.layers}
    for tensor in anatomy.tensors:
        if tensor.layer in by_layer:
            part = part_of(tensor.info.name)
            by_layer[tensor.layer][part] = tensor.info.shape
            n_bytes[tensor.layer][part] = tensor.info.n_bytes
    own = [by_layer[layer.index] for layer in anatomy.layers if by_layer[layer.index]]
    return tuple(
        # Looped layers (Nanbeige, HRM) borrow the tensors of earlier ones.
        Shapes(
            layer,
            by_layer[layer.index] or (own[layer.index % len(own)] if own else {}),
            n_bytes[layer.index],
            anatomy.n_embd,
            anatomy.n_expert,
        )
        for layer in anatomy.layers
        if not layer.mtp
    )
