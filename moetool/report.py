"""Results as plain JSON values, in one versioned envelope. Knows no colours and no width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from moetool.anatomy import effective_size, state_bytes
from moetool.frontier import unbeaten
from moetool.machine import to_json
from moetool.memory import cache_sizes
from moetool.quality import expected_loss

# Every command prints one of these documents, and waits for the rooms of none of the others.
if TYPE_CHECKING:
    from moetool.anatomy import Anatomy, Layer, RoledTensor
    from moetool.batch.results import BatchDone
    from moetool.bench.compare import Comparison, Ratio
    from moetool.bench.constrained import ConstrainedRow
    from moetool.bench.report import Benchmark, Judged
    from moetool.bench.tuning import Tuned
    from moetool.choice import Choice, Option
    from moetool.contest import Contender
    from moetool.doctor import Doctor
    from moetool.engine.measured import BufferSize
    from moetool.engine.rpc_server import Lending
    from moetool.errors import MoetoolError
    from moetool.fitting import Listed, Offered
    from moetool.generate import Stats
    from moetool.kept_sessions import KeptSession
    from moetool.lab.imatrix import Imatrix
    from moetool.lab.layer_map import LayerMap
    from moetool.lab.quant_plan import QuantPlan
    from moetool.lab.sparsity import Sparsity
    from moetool.machine import Machine
    from moetool.memory import DeviceMemory
    from moetool.plan import Alternative, Draft, Plan, Reason
    from moetool.pulling import PullResult
    from moetool.quality import Quality
    from moetool.remote import RemoteHeaders
    from moetool.speed import Speed
    from moetool.store import Removal

ENVELOPE_VERSION = 1


def envelope(command: str, data: Any, error: MoetoolError | None = None) -> dict[str, Any]:
    """The one document a command prints under `--output json`, also when it fails."""
    return {
        "moetool": ENVELOPE_VERSION,
        "command": command,
        "status": "error" if error else "ok",
        "exit_code": error.exit_code if error else 0,
        "data": data,
        "errors": [of_error(error)] if error else [],
    }


def of_error(error: MoetoolError) -> dict[str, str]:
    """An error as scripts read it: a stable code beside the sentence."""
    return {"code": error.code, "message": error.message, "hint": error.hint}


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


def of_plan(
    plan: Plan,
    file_name: str,
    alternatives: Sequence[Alternative] = (),
    remedies: Sequence[Reason] = (),
) -> dict[str, Any]:
    """The plan document: model, machine, settings, memory, speed, expected loss, whether it fits, why, and
    what else could be had (`candidates`) or would help (`remedies`)."""
    return {
        "model": _of_model(plan.anatomy, file_name),
        "machine": to_json(plan.machine),
        "settings": asdict(plan.settings),
        "memory": [_of_memory(row, plan.machine) for row in plan.memory],
        "speed": asdict(plan.speed),
        "quality": _of_quality(expected_loss(plan.anatomy)),
        "fits": plan.fits,
        "missing_bytes": dict(plan.missing),
        "reasons": [asdict(reason) for reason in plan.reasons],
        "remedies": [asdict(remedy) for remedy in remedies],
        "draft": _of_draft(plan.draft, plan.machine) if plan.draft else None,
        "candidates": [_of_alternative(other) for other in alternatives],
    }


def _of_draft(draft: Draft, machine: Machine) -> dict[str, Any]:
    return {
        "name": draft.anatomy.name,
        "settings": asdict(draft.settings),
        "memory": [_of_memory(row, machine) for row in draft.memory],
    }


def of_choice(choice: Choice, headers: RemoteHeaders, file_name: str) -> dict[str, Any]:
    """The plan document of the pick (or of what comes nearest), and a shorter row for every quant."""
    return of_plan(choice.nearest.plan, file_name) | {
        "fits": choice.nearest.fits,
        "pick": choice.pick.label if choice.pick else None,
        "why": asdict(choice.why),
        "remedies": [asdict(remedy) for remedy in choice.remedies],
        "candidates": [_of_option(o, is_pick=o is choice.pick) for o in choice.options],
        "unreadable": [
            {"quant": item.quant.label, "problem": item.problem} for item in headers.headers if item.problem
        ],
        "headers": {
            "fetched_bytes": headers.fetched_bytes,
            "requests": headers.n_requests,
            "seconds": headers.seconds,
        },
    }


def _of_quality(quality: Quality) -> dict[str, Any]:
    """A band and its sources: a figure alone would claim more than is known."""
    return {
        "band": quality.band,
        "band_low": quality.band_low,
        "band_high": quality.band_high,
        "evidence": list(quality.evidence),
    }


def _of_alternative(other: Alternative) -> dict[str, Any]:
    anatomy = other.plan.anatomy
    named = {"quant": anatomy.quant, "file_bytes": anatomy.file_bytes}
    judged = {"quality": expected_loss(anatomy).band, "fits": other.plan.fits, "reason": None}
    measured = {"experts": other.experts, "gain": other.gain, "kld": other.kld}
    shown = {
        "pick": other.is_pick,
        "pareto": other.is_front,
        "other_experts": measured if other.experts else None,
    }
    return _of_candidate(other.plan, named | judged | shown)


def _of_option(option: Option, *, is_pick: bool) -> dict[str, Any]:
    named = {"quant": option.label, "file_bytes": option.candidate.file_bytes}
    judged = {"quality": option.quality.band, "fits": option.fits, "reason": asdict(option.reason)}
    shown = {"pick": is_pick, "pareto": option.is_front, "other_experts": None}
    return _of_candidate(option.plan, named | judged | shown)


def _of_candidate(plan: Plan, judged: dict[str, Any]) -> dict[str, Any]:
    """What else could be had, of this file or of another quant: a plan in short, and how it is judged."""
    return judged | {
        "settings": asdict(plan.settings),
        "memory": [{"device": row.device, "total_bytes": row.total_bytes} for row in plan.memory],
        "decode_tok_s": plan.speed.decode_tok_s,
        "decode_low": plan.speed.decode_low,
        "decode_high": plan.speed.decode_high,
        "prompt_tok_s": plan.speed.prompt_tok_s,
    }


def _of_model(anatomy: Anatomy, file_name: str) -> dict[str, Any]:
    return {
        "name": anatomy.name,
        "arch": anatomy.arch,
        "file": file_name,
        "quant": anatomy.quant,
        "n_params": anatomy.n_params,
        "n_params_active": anatomy.n_params_active,
        "n_layer": anatomy.n_layer,
        "n_expert": anatomy.n_expert,
        "n_expert_used": anatomy.n_expert_used,
        "n_ctx_train": anatomy.n_ctx_train,
        "weights_bytes": anatomy.weights_bytes,
        "bytes_per_token": anatomy.bytes_per_token,
    }


def _of_memory(row: DeviceMemory, machine: Machine) -> dict[str, Any]:
    free = {device.name: device.free_bytes for device in machine.devices}
    return {
        "device": row.device,
        "weights_bytes": row.weights_bytes,
        "kv_bytes": row.kv_bytes,
        "state_bytes": row.state_bytes,
        "compute_bytes": row.compute_bytes,
        "output_bytes": row.output_bytes,
        "total_bytes": row.total_bytes,
        "free_bytes": free.get(row.device, 0),
    }


@dataclass(frozen=True)
class Loaded:
    """What loading a model took: its (first) file, seconds, and the buffers llama.cpp made."""

    file_name: str
    load_s: float
    buffers: tuple[BufferSize, ...]


def of_run(
    text: str, stats: Stats, loaded: Loaded, plan: Plan, predicted: Speed, seed: int
) -> dict[str, Any]:
    """The run document: the answer, what it took, and the promise beside the measurement. `predicted` is the
    speed for this prompt at this depth; the plan's own is for llama-bench's tests. `closed`: the answer was
    cut off, and `closing`, the end of `text`, makes it whole in the model's place. `prompt_tokens_reused` of
    the `prompt_tokens` were not read: a session or an earlier attempt had left them in the cache.
    `shifted_tokens` were forgotten in a full context, so that the answer could go on."""
    return {
        "text": text,
        "finish_reason": stats.finish_reason,
        "closed": bool(stats.closing),
        "closing": stats.closing,
        "prompt_tokens": stats.prompt_tokens + stats.reused_tokens,
        "prompt_tokens_reused": stats.reused_tokens,
        "shifted_tokens": stats.shifted_tokens,
        "generated_tokens": stats.generated_tokens,
        "forced_tokens": stats.forced_tokens,
        "seed": seed,
        "load_s": loaded.load_s,
        "ttft_s": stats.ttft_s,
        "prompt_tok_s": stats.prompt_tok_s,
        "decode_tok_s": stats.decode_tok_s,
        "plan": of_plan(plan, loaded.file_name),
        "predicted": {
            "decode_tok_s": predicted.decode_tok_s,
            "decode_low": predicted.decode_low,
            "decode_high": predicted.decode_high,
            "prompt_tok_s": predicted.prompt_tok_s,
            "total_bytes": sum(row.total_bytes for row in plan.memory),
        },
        "measured": {
            "decode_tok_s": stats.decode_tok_s,
            "prompt_tok_s": stats.prompt_tok_s,
            "total_bytes": sum(buffer.n_bytes for buffer in loaded.buffers),
            "buffers": [asdict(buffer) for buffer in loaded.buffers],
        },
    }


def of_batch(done: BatchDone) -> dict[str, Any]:
    """What a batch has come to; the answers are in the file `out`."""
    return {
        "out": str(done.out),
        "prompts": done.n_prompts,
        "kept": done.n_kept,
        "failed": done.n_failed,
        "parallel": done.n_parallel,
        "prompt_tokens": done.prompt_tokens,
        "generated_tokens": done.generated_tokens,
        "seconds": done.seconds,
        "generated_tok_s": done.generated_tok_s,
    }


BENCH_SCHEMA = "moetool-bench-1"


def of_bench(benchmark: Benchmark, file_name: str = "") -> dict[str, Any]:
    """The bench document (moetool/data/bench.schema.json); a row's `point` says what its setting changes of
    the base. `plan` is that of the first setting."""
    from moetool.bench.report import row_fields

    rows = [row_fields(row) | {"point": dict(row.point)} for row in benchmark.rows]
    return {
        "schema": BENCH_SCHEMA,
        "rows": rows,
        "quality": [_of_judged(judged) for judged in benchmark.judged],
        "notes": list(benchmark.notes),
        "plan": of_plan(benchmark.plan, file_name) if benchmark.plan else None,
    }


def _of_judged(judged: Judged) -> dict[str, Any]:
    about = {
        "point": dict(judged.point),
        "reference": judged.reference,
        "estimated": judged.is_estimated,
    }
    return about | asdict(judged.quality)


def of_comparison(found: Comparison) -> dict[str, Any]:
    """What two benchmarks differ by; ratios are of the second to the first."""
    return {
        "pairs": [asdict(pair) | {"ratio": _of_ratio(pair.ratio)} for pair in found.pairs],
        "prompt": _of_ratio(found.prompt),
        "decode": _of_ratio(found.decode),
        "differences": list(found.differences),
        "rows_alone": found.n_alone,
    }


def _of_ratio(ratio: Ratio | None) -> dict[str, Any] | None:
    return None if ratio is None else asdict(ratio) | {"verdict": ratio.verdict}


def of_tuned(plan: Plan, tuned: Tuned) -> dict[str, Any]:
    """What tuning has found: what to change of the plan, by how much faster a turn is then, all that was
    tried, and the settings of the plan."""
    return {
        "changes": dict(tuned.point),
        "gain": None if tuned.gain is None else asdict(tuned.gain),
        "cut_short": tuned.is_cut_short,
        "tried": [
            {"changes": dict(point), "turn_s": seconds if math.isfinite(seconds) else None}
            for point, seconds in tuned.tried
        ],
        "plan": asdict(plan.settings),
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


def of_constrained(rows: Sequence[ConstrainedRow]) -> dict[str, Any]:
    """Writing under schemas beside free text; `gain` is how many times as fast."""
    return {"constrained": [asdict(row) | {"gain": row.gain} for row in rows]}


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


def of_sessions(kept: Sequence[KeptSession]) -> dict[str, Any]:
    """What `run --session` has kept; model and tokens are null without a state that can be read."""
    return {"sessions": [asdict(item) for item in kept]}


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


def of_removal(removal: Removal) -> dict[str, Any]:
    """What was removed."""
    return asdict(removal) | {
        "names": [str(path) for path in removal.names],
        "contents": [str(path) for path in removal.contents],
    }


def of_pull(result: PullResult) -> dict[str, Any]:
    """What was downloaded, or with `dry_run` would be."""
    lock_path = str(result.lock_path) if result.lock_path else None
    return asdict(result) | {"paths": [str(path) for path in result.paths], "lock_path": lock_path}


def of_worker(lending: Lending) -> dict[str, Any]:
    """What a worker lends, printed when it starts; `address` is what `--rpc` takes."""
    return {
        "address": str(lending.address),
        "host": lending.address.host,
        "port": lending.address.port,
        "open_to_network": lending.is_open,
        "hostname": lending.hostname,
        "devices": [asdict(device) for device in lending.devices],
        "n_threads": lending.n_threads,
    }


def of_doctor(found: Doctor) -> dict[str, Any]:
    """The findings. `machine` is what `--machine FILE` reads back from this document."""
    return asdict(found) | {"machine": to_json(found.machine), "versions": dict(found.versions)}


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


def of_contest(contenders: Sequence[Contender]) -> dict[str, Any]:
    """Models side by side: the plan of each, what was measured of it, and which to take."""
    from moetool.contest import verdict

    return {
        "n_ctx": contenders[0].plan.settings.n_ctx_seq,
        "machine": to_json(contenders[0].plan.machine),
        "models": [_of_contender(one) for one in contenders],
        "verdict": asdict(verdict(contenders)),
    }


def _of_contender(one: Contender) -> dict[str, Any]:
    plan = of_plan(one.plan, "")
    return {
        "label": one.label,
        "model": plan["model"]
        | {"file_bytes": one.plan.anatomy.file_bytes, "effective_size_heuristic": one.size},
        "settings": plan["settings"],
        "memory": plan["memory"],
        "fits": plan["fits"],
        "missing_bytes": plan["missing_bytes"],
        "speed": plan["speed"],
        "measured_speed": asdict(one.speed),
        "quality": plan["quality"],
        "measured_quality": [asdict(quality) for quality in one.qualities],
    }
