"""What decoding one token reads and computes with: all of some tensors, a share of others, rows of a few."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from moetool.anatomy.layers import Layer
from moetool.anatomy.roles import Role, RoledTensor
from moetool.quants import row_bytes


def used_experts(tensors: Sequence[RoledTensor], layers: Sequence[Layer]) -> dict[str, int]:
    """For each tensor of routed experts, by name, how many of its layer's experts one token uses."""
    used = {layer.index: layer.n_expert_used for layer in layers}
    return {t.info.name: used.get(t.layer or 0, 0) for t in tensors if t.role == "routed experts"}


def active_params(tensors: Sequence[RoledTensor], used: Mapping[str, int], n_expert: int, tied: bool) -> int:
    """Parameters that take part in computing one text token (see Anatomy)."""
    read = [t for t in tensors if _is_read_whole(t, tied)]
    whole = sum(t.info.n_elements for t in read if t.info.name not in used)
    experts = sum(t.info.n_elements * used[t.info.name] for t in read if t.info.name in used)
    return whole + experts // max(1, n_expert)


def read_by_role(
    tensors: Sequence[RoledTensor], used: Mapping[str, int], n_expert: int, tied: bool
) -> dict[Role, int]:
    """Bytes of weights that decoding one text token must read, by what they are for; caches apart.

    A tied embedding is read whole, as the output matrix it is too, and besides the row that is looked up
    costs nothing more.
    """
    read: Counter[Role] = Counter()
    experts = 0
    for tensor in tensors:
        info = tensor.info
        if info.name in used:
            experts += info.n_bytes * used[info.name]
        elif _is_read_whole(tensor, tied):
            read[tensor.role] += info.n_bytes
        elif _is_lookup(tensor) and info.shape:
            read[tensor.role] += row_bytes(info.type, info.shape[0])
    if experts:
        read["routed experts"] = experts // max(1, n_expert)
    return dict(read)


def _is_read_whole(tensor: RoledTensor, tied: bool) -> bool:
    if tensor.role in {"mtp", "vision"}:
        return False
    return not _is_lookup(tensor) or (tied and tensor.info.name == "token_embd.weight")


def _is_lookup(tensor: RoledTensor) -> bool:
    """Whether only one row is taken per token (GGML_OP_GET_ROWS in LLM_TENSOR_INFOS)."""
    return tensor.role == "embedding" and tensor.layer is None
