"""How many of its experts a token can be sent to, and what becomes of their weights, as llama.cpp does it.

Most architectures make the weights of the chosen experts add up to one (`norm_w` of build_moe_ffn in
src/models/*.cpp). In the others fewer experts make the experts' part of a layer's output smaller, and more
make it larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moetool.anatomy.layers import Layer
from moetool.anatomy.metadata import Metadata
from moetool.anatomy.roles import RoledTensor

# norm_w is false (llama4: the weights are applied before the experts).
_NEVER_RENORMED = frozenset(
    {"deepseek", "jamba", "llada-moe", "llama4", "nomic-bert-moe", "olmoe", "qwen2moe"}
)
# norm_w is the file's expert_weights_norm.
_RENORMED_BY_KEY = frozenset(
    {
        "afmoe",
        "bailingmoe",
        "bailingmoe2",
        "bailingmoe3",
        "cohere2moe",
        "deepseek2",
        "deepseek2-ocr",
        "deepseek32",
        "deepseek4",
        "dflash",
        "dots1",
        "dots3note",
        "exaone-moe",
        "glm-dsa",
        "glm4moe",
        "glm5-next",
        "hy_v3",
        "hy_v4",
        "kimi-k3",
        "laguna",
        "minimax-m3",
        "mistral4",
        "nemotron_h",
        "nemotron_h_moe",
        "step35",
    }
)
# Where the file does not state an expert's width, the dense width divided by the number used is taken for it.
_WIDTH_BY_USED = frozenset(
    {
        "glm4moe",
        "grovemoe",
        "hy_v3",
        "llada-moe",
        "mellum",
        "nemotron_h",
        "nemotron_h_moe",
        "qwen2moe",
        "qwen35moe",
        "qwen3moe",
        "qwen3next",
        "qwen3vlmoe",
        "qwen4exp",
        "rnd1",
    }
)
_SOFTMAX_WEIGHT = 3
# The only graph that asks for each layer's own number (src/models/nemotron-h.cpp).
_BY_LAYER = frozenset({"nemotron_h", "nemotron_h_moe"})


@dataclass(frozen=True)
class Routing:
    """`most` experts can be asked for, 1 at least. `fixed` says why the number cannot be changed ("": it
    can), `unfit` why llama.cpp would abort on this file or misread it ("": it would not). With `is_renormed`
    the weights of the chosen experts add up to one however many there are; with `is_softmaxed` that is
    because a softmax over them is taken last."""

    most: int
    is_renormed: bool
    is_softmaxed: bool = False
    fixed: str = ""
    unfit: str = ""


def make_routing(metadata: Metadata, tensors: Sequence[RoledTensor], layers: Sequence[Layer]) -> Routing:
    """The routing of a model; of one without experts, that none can be asked for."""
    return Routing(
        most=_most(metadata),
        is_renormed=_is_renormed(metadata),
        is_softmaxed=_is_softmaxed(metadata),
        fixed=_why_fixed(metadata, tensors),
        unfit=_why_unfit(metadata, layers),
    )


def _most(metadata: Metadata) -> int:
    """All experts, of all groups that a token may look into (expert_group_used_count in build_moe_ffn)."""
    n_expert, n_groups = metadata.number("expert_count"), metadata.number("expert_group_count")
    if n_groups < 2:
        return n_expert
    return n_expert // n_groups * metadata.number("expert_group_used_count")


def _is_softmaxed(metadata: Metadata) -> bool:
    """LLAMA_EXPERT_GATING_FUNC_TYPE_SOFTMAX_WEIGHT."""
    return metadata.arch == "gpt-oss" or metadata.number("expert_gating_func") == _SOFTMAX_WEIGHT


def _is_renormed(metadata: Metadata) -> bool:
    if _is_softmaxed(metadata):
        return True
    if metadata.arch in _RENORMED_BY_KEY:
        return metadata.header.get_bool(f"{metadata.arch}.expert_weights_norm", False)
    return metadata.arch not in _NEVER_RENORMED


def _why_fixed(metadata: Metadata, tensors: Sequence[RoledTensor]) -> str:
    if metadata.array("expert_used_count") is not None:
        return "its file states a number for each layer, and llama.cpp heeds no other"
    if any(".ffn_gate_tid2eid" in tensor.info.name for tensor in tensors):
        return "some of its layers look up which experts to use, in a table of just so many columns"
    if metadata.arch in _WIDTH_BY_USED and not metadata.has("expert_feed_forward_length"):
        return "its file does not state how wide an expert is, and llama.cpp tells that from the number used"
    return ""


def _why_unfit(metadata: Metadata, layers: Sequence[Layer]) -> str:
    """Every other graph chooses as many as the first layer's number says, and adds up as many as each layer's
    own: fewer than were weighted, or more than there are, which ends in an assert (build_moe_ffn)."""
    stated = metadata.array("expert_used_count")
    if stated is None or metadata.arch in _BY_LAYER:
        return ""
    routed = [layer.n_expert_used for layer in layers if layer.ffn == "moe" and not layer.mtp]
    if all(count == stated[0] for count in routed):
        return ""
    return (
        "its file states another number of experts for each layer, which in llama.cpp only the graph of "
        f"nemotron_h follows: that of {metadata.arch} would compute something else, or end the process"
    )
