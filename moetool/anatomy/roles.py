"""What a tensor is for, told from its name and its layer.

The names are llama.cpp's (LLM_TENSOR_NAMES, src/llama-arch.cpp), which all architectures share: no list of
architectures is needed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from moetool.gguf import TensorInfo

Role = Literal[
    "embedding",  # looked up by token or position: one row a token, no matrix product
    "attention",
    "recurrent",  # Mamba, DeltaNet, KDA, RWKV time mixing, short convolutions
    "router",
    "routed experts",
    "shared experts",
    "dense ffn",
    "norm",
    "residual",  # hyper-connections, AltUp, per-layer scales: what mixes the residual stream
    "output",
    "mtp",  # next-token-prediction layers, for drafting only
    "vision",  # read for image tokens only
    "unknown",
]

ROLES: tuple[Role, ...] = Role.__args__  # type: ignore[attr-defined]


@dataclass(frozen=True)
class RoledTensor:
    """A tensor, what it is for, and the layer it belongs to (None: the input or output side)."""

    info: TensorInfo
    role: Role
    layer: int | None


# The first pattern that matches a name without its `blk.N.` decides. The order matters: a norm inside the
# attention is a norm, a shared expert is not a dense FFN.
_PATTERNS: tuple[tuple[Role, str], ...] = (
    ("mtp", r"nextn\.|fc\.|d2t|markov_|conf_proj|selector_|masked_embd_|(attn|ffn)_conv_(base|proj)"),
    ("vision", r"vis_|v\.|mm\.|a\.|resampler\.|convnext\.|posnet\.|conv1d\."),
    ("residual", r"hc_|output_hc_|altup_|laurel_|(attn|ffn|output)_res_score|layer_output_scale"),
    ("residual", r"inp_gate|proj\.|hrm\.|per_layer_model_proj"),
    ("embedding", r"token_embd\.|per_layer_token_embd|position_embd|token_types|ple_(?!norm)"),
    ("norm", r".*norm(_\d|_exps|_conv|_key|_query)?(\.weight|\.bias)?$|.*_lerp_|time_mix_ln"),
    ("shared experts", r"ffn_.*_shexp|ffn_gate_inp_shexp"),
    ("router", r"ffn_gate_inp|exp_probs_b|ffn_gate_tid2eid"),
    ("routed experts", r"ffn_\w+_c?h?exps|ffn_(gate|up|down)\.\d+\."),
    ("dense ffn", r"ffn|channel_mix_"),
    ("recurrent", r"ssm_|shortconv\.|time_mix_"),
    ("attention", r"attn_|indexer|cross_attn_|rope_freqs|rope_factors"),
    ("output", r"output\.|cls|dense_[23]|altup_unembd"),
)
_RULES = tuple((role, re.compile(pattern)) for role, pattern in _PATTERNS)

_BLOCK = re.compile(r"^(?:enc\.|dec\.)?blk\.(\d+)\.(.*)$")


def layer_of(name: str) -> int | None:
    """The number of the layer that a tensor belongs to; None for the input and output side."""
    match = _BLOCK.match(name)
    return int(match[1]) if match else None


def part_of(name: str) -> str:
    """The tensor's name without its layer: `ffn_up_exps.weight`."""
    match = _BLOCK.match(name)
    return match[2] if match else name.removeprefix("enc.").removeprefix("dec.")


def role_of(name: str) -> Role:
    """What the tensor is for; "unknown" if its name says nothing."""
    return _role_of_part(part_of(name))


@functools.lru_cache(maxsize=4096)
def _role_of_part(part: str) -> Role:
    # A model repeats the same few dozen parts in every layer.
    return next((role for role, rule in _RULES if rule.match(part)), "unknown")


def roled(tensors: Sequence[TensorInfo], n_trunk: int, recurrent: Collection[int]) -> tuple[RoledTensor, ...]:
    """Every tensor with its role. Whatever lies in a layer behind the trunk is there for drafting; what a
    `recurrent` layer projects is named as if for attention (attn_qkv), but feeds its state."""
    found = []
    for tensor in tensors:
        layer, role = layer_of(tensor.name), role_of(tensor.name)
        if layer is not None and layer >= n_trunk:
            role = "mtp"
        elif role == "attention" and layer in recurrent:
            role = "recurrent"
        found.append(RoledTensor(tensor, role, layer))
    return tuple(found)
