"""Documents of models: one from its header, those on this disk and on the Hub, what came and went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from moetool.anatomy import effective_size, state_bytes
from moetool.memory import cache_sizes

if TYPE_CHECKING:
    from moetool.anatomy import Anatomy, Layer, RoledTensor
    from moetool.fitting import Listed, Offered
    from moetool.pulling import PullResult
    from moetool.store import Removal


def of_anatomy(anatomy: Anatomy) -> dict[str, Any]:
    """A model from its header. Sizes in bytes, counts in pieces.

    `kv_bytes_per_token` and `kv_window_bytes` are by cache type, of those that the model can have.
    """
    caches = cache_sizes(anatomy)
    return {
        "name": anatomy.name,
        "arch": anatomy.arch,
        "quant": anatomy.quant,
        "n_params": anatomy.n_params,
        "n_params_active": anatomy.n_params_active,
        "effective_size_heuristic": effective_size(anatomy),
        "n_layer": anatomy.n_layer,
        "n_layer_moe": anatomy.n_layer_moe,
        "n_layer_mtp": anatomy.n_layer_mtp,
        "n_embd": anatomy.n_embd,
        "n_vocab": anatomy.n_vocab,
        "n_ctx_train": anatomy.n_ctx_train,
        "n_expert": anatomy.n_expert,
        "n_expert_used": anatomy.n_expert_used,
        "n_expert_shared": anatomy.n_expert_shared,
        "weights_bytes": anatomy.weights_bytes,
        "file_bytes": anatomy.file_bytes,
        "bytes_per_token": anatomy.bytes_per_token,
        "bits_per_weight": anatomy.bits_per_weight,
        "bytes_by_role": dict(anatomy.bytes_by_role),
        "params_by_role": dict(anatomy.params_by_role),
        "read_by_role": dict(anatomy.read_by_role),
        "kv_bytes_per_token": {size.type: float(size.per_token_bytes) for size in caches},
        "kv_window_bytes": {size.type: size.window_bytes for size in caches},
        "state_bytes": state_bytes(anatomy),
        "unknown_tensors": list(anatomy.unknown),
        "tied_embeddings": anatomy.tied,
        "layers": [_of_layer(layer) for layer in anatomy.layers],
        "tensors": [_of_tensor(tensor) for tensor in anatomy.tensors],
    }


def _of_tensor(tensor: RoledTensor) -> dict[str, Any]:
    return {
        "name": tensor.info.name,
        "role": tensor.role,
        "layer": tensor.layer,
        "type": tensor.info.type.name,
        "shape": list(tensor.info.shape),
        "bytes": tensor.info.n_bytes,
    }


def _of_layer(layer: Layer) -> dict[str, Any]:
    return {
        "index": layer.index,
        "mixer": layer.mixer,
        "ffn": layer.ffn,
        "n_head": layer.n_head,
        "n_head_kv": layer.n_head_kv,
        "head_k": layer.head_k,
        "head_v": layer.head_v,
        "window": layer.window,
        "n_expert_used": layer.n_expert_used,
        "state_bytes": 4 * layer.state_values,
        "bytes_by_role": dict(layer.bytes_by_role),
        "mtp": layer.mtp,
    }


def of_models(models: Sequence[Listed]) -> dict[str, Any]:
    """What is on this disk; what the header says is null where it cannot be read."""
    return {"models": [_of_listed(item) for item in models]}


def _of_listed(item: Listed) -> dict[str, Any]:
    model, anatomy = item.model, item.anatomy
    return {
        "name": model.name,
        "repo": model.repo,
        "quant": model.quant,
        "revision": model.revision,
        "size_bytes": model.size_bytes,
        "verified": model.verified,
        "paths": [str(path) for path in model.paths],
        "arch": anatomy.arch if anatomy else None,
        "n_params": anatomy.n_params if anatomy else None,
        "n_params_active": anatomy.n_params_active if anatomy else None,
        "fits": item.fits,
    }


def of_offered(offered: Sequence[Offered]) -> dict[str, Any]:
    """What a search found; `largest_that_fits` is by file size alone."""
    return {"repos": [_of_offered(item) for item in offered]}


def _of_offered(item: Offered) -> dict[str, Any]:
    return {
        "repo": item.found.repo,
        "downloads": item.found.downloads,
        "quants": [{"quant": q.label, "size_bytes": q.size_bytes} for q in item.found.quants],
        "largest_that_fits": item.largest.label if item.largest else None,
        "problem": item.found.problem,
    }


def of_pull(result: PullResult) -> dict[str, Any]:
    """What was downloaded, or with `dry_run` would be."""
    lock_path = str(result.lock_path) if result.lock_path else None
    return asdict(result) | {"paths": [str(path) for path in result.paths], "lock_path": lock_path}


def of_removal(removal: Removal) -> dict[str, Any]:
    """What was removed."""
    return asdict(removal) | {
        "names": [str(path) for path in removal.names],
        "contents": [str(path) for path in removal.contents],
    }
