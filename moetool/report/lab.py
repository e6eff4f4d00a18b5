"""Documents of the lab: routing, numbers of experts, importance matrices, quantizations."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from moetool.frontier import unbeaten
from moetool.report.benchmarks import of_bench

if TYPE_CHECKING:
    from moetool.lab.examined import Examined
    from moetool.lab.imatrix import Imatrix
    from moetool.lab.layer_map import LayerMap
    from moetool.lab.quant_plan import QuantPlan
    from moetool.lab.sparsity import Sparsity


def of_examined(found: Examined) -> dict[str, Any]:
    """The document; counts are sums over the texts (--npz has them by text). Unknown figures are null."""
    profile = found.profile
    texts = zip(profile.texts, profile.n_tokens, strict=True)
    return {
        "model": asdict(found.model),
        "texts": [{"name": name, "n_tokens": n_tokens} for name, n_tokens in texts],
        "seconds": found.seconds,
        "answer": found.answer,
        "findings": [asdict(finding) for finding in found.findings],
        "distances": np.round(found.distances, 6).tolist(),
        "layers": [_of_routing(found, at) for at in range(len(found.layers))],
    }


def _of_routing(found: Examined, at: int) -> dict[str, Any]:
    figures, profile = found.layers[at], found.profile
    return asdict(figures) | {
        "cache": [{"n_experts": n, "hits": hits} for n, hits in figures.cache],
        "counts": profile.counts[:, at, : figures.n_expert].sum(axis=0).tolist(),
        "mass": np.round(profile.mass[:, at, : figures.n_expert].sum(axis=0), 3).tolist(),
    }


def of_sparsity(found: Sparsity, file_name: str) -> dict[str, Any]:
    """Speed and fidelity by number of experts (`kld` and `same_top` against the model's `own`), what was
    wished and which number gives it at least cost, and the rows and readings that this was made of."""
    frontier = found.frontier
    best = unbeaten(frontier.points)
    return {
        "own": frontier.own,
        "frontier": [
            asdict(point) | {"gain": frontier.gain(point), "pareto": point.experts in best}
            for point in frontier.points
        ],
        "min_tok_s": found.min_tok_s,
        "pick": found.pick.experts if found.pick else None,
        "bench": of_bench(found.benchmark, file_name),
    }


def of_layer_map(found: LayerMap) -> dict[str, Any]:
    """What fewer experts cost in each layer (`keep` instead of `own`; mean nats of divergence), in all of
    them `together`, and the halves of the layers that cost least and most."""
    return {
        "own": found.own,
        "keep": found.keep,
        "n_tokens": found.n_tokens,
        "layers": [asdict(cost) for cost in found.layers],
        "together": {"kld": asdict(found.together.kld), "same_top": found.together.same_top},
        "tolerant": list(found.tolerant),
        "sensitive": list(found.sensitive),
    }


def of_quant_plan(plan: QuantPlan, imatrix: Imatrix | None, target: str | None) -> dict[str, Any]:
    """A quantization: sizes in bytes, by role and in all, types by tensor; `file` is null after a dry run."""
    return {
        "file": target,
        "recipe": plan.recipe,
        "basis": plan.basis,
        "file_type": plan.file_type,
        "source_bytes": plan.source_bytes,
        "file_bytes": plan.file_bytes,
        "weights_bytes": plan.weights_bytes,
        "n_params": plan.n_params,
        "bits_per_weight": plan.bits_per_weight,
        "expected_kld": plan.expected_kld,
        "roles": [
            {
                "role": row.role,
                "n_params": row.n_params,
                "before_bytes": row.before_bytes,
                "after_bytes": row.after_bytes,
                "params_by_type": {quant.name: n for quant, n in row.types},
            }
            for row in plan.rows
        ],
        "types": {name: quant.name for name, quant in plan.types.items()},
        "unseen_experts": _of_unseen(imatrix) if imatrix else {},
    }


def of_imatrix(imatrix: Imatrix, target: str) -> dict[str, Any]:
    """An importance matrix: what was read, how often each expert was seen, of which nothing is known."""
    return {
        "file": target,
        "n_chunks": imatrix.n_chunks,
        "chunk_tokens": imatrix.chunk_tokens,
        "counts": {name: inputs.counts.tolist() for name, inputs in imatrix.entries.items()},
        "unseen_experts": _of_unseen(imatrix),
    }


def _of_unseen(imatrix: Imatrix) -> dict[str, list[int]]:
    return {name: list(experts) for name, experts in imatrix.unseen().items()}
