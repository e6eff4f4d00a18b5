"""What one token costs to compute: bytes, weights and layers on each device. Pure values.

Knows nothing of headers (see `predict`) and nothing of how fast a device is (see `lanes`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Read:
    """Weights of one ggml type that a device reads to decode one token.

    `n_weights` and `n_bytes` are what one token uses; `held_bytes` what lies there, which is more only
    for routed experts (`routed`): a prompt's many tokens touch nearly all of them. `last_only` are the
    weights that only tokens whose logits are wanted meet, of a prompt its last one: the output matrix and
    the last layer's feed-forward (build_inp_out_ids, src/llama-graph.cpp).
    """

    quant: str
    n_weights: float
    n_bytes: float
    held_bytes: float
    routed: bool = False
    last_only: bool = False


@dataclass(frozen=True)
class Cache:
    """Keys and values of one kind of layer: `cell_bytes` for each token in context, on all such layers.

    `window` is the most cells that are looked at (0: all). `cell_flops` are the operations that one new
    token spends on one cell (4 × heads × head size, on all such layers).
    """

    cell_bytes: float
    window: int = 0
    cell_flops: float = 0.0

    def cells(self, depth: float) -> float:
        """Cells that a token at position `depth` looks at."""
        return min(depth, self.window) if self.window else depth


@dataclass(frozen=True)
class DeviceWork:
    """One device's share: `n_layers` blocks, of which `n_moe` route to experts and `n_recurrent` keep a
    state instead of a cache; `state_bytes` is that state's size (read and written for each token).

    The rest counts where the way to the device is long: `n_waits` times a batch waits for something that
    is fetched from there; `token_link_bytes` go there and back for each token, `batch_link_bytes` for each
    batch besides."""

    device: str
    reads: tuple[Read, ...] = ()
    caches: tuple[Cache, ...] = ()
    state_bytes: float = 0.0
    n_layers: int = 0
    n_moe: int = 0
    n_recurrent: int = 0
    n_waits: int = 0
    token_link_bytes: float = 0.0
    batch_link_bytes: float = 0.0


@dataclass(frozen=True)
class Work:
    """All devices, and how often a token's activations change the device: `n_hops` times between RAM and an
    offload device, `n_borders` times between two offload devices."""

    devices: tuple[DeviceWork, ...]
    n_hops: int = 0
    n_borders: int = 0
