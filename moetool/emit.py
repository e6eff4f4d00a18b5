"""A plan in other programs' words: llama-server, llama-cli, Ollama, and moetool itself. Pure.

Flags are those of llama.cpp's common/arg.cpp at 0c1e57098.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from moetool.errors import UsageError
from moetool.machine import Machine
from moetool.plan import Limit, Plan, Wishes, make_plan
from moetool.settings import Settings, TensorOverride

TARGETS = ("llama-server", "llama-cli", "ollama", "json")


@dataclass(frozen=True)
class Source:
    """Where another program finds the model: a file, or `repo`:`quant` on the Hub; and what goes with
    it, if anything: the draft model's file, the addresses of workers."""

    path: str = ""
    repo: str = ""
    quant: str = ""
    draft_path: str = ""
    rpc: str = ""


def emit(plan: Plan, target: str, source: Source) -> str:
    """The plan for `target`, to be pasted into a shell (or, for Ollama, a Modelfile). Raises UsageError for
    what the target has no words for."""
    if target == "json":
        return json.dumps({"model": asdict(source), "settings": asdict(plan.settings)}, indent=1)
    if target == "ollama":
        return "\n".join(_modelfile(plan, source))
    return shlex.join([target, *llama_flags(plan, source, is_server=target == "llama-server")])


# --- llama.cpp ----------------------------------------------------------------------------------------------


def llama_flags(plan: Plan, source: Source, *, is_server: bool) -> list[str]:
    """The plan as arguments of llama.cpp's programs. Nothing is left to their own fitting."""
    settings = plan.settings
    flags = ["-m", source.path] if source.path else ["-hf", f"{source.repo}:{source.quant}"]
    flags += ["--rpc", source.rpc] if source.rpc else []
    flags += ["-c", str(settings.n_ctx), "-fit", "off", "-fa", "on" if settings.flash_attn else "off"]
    flags += ["-ctk", settings.type_k, "-ctv", settings.type_v]
    flags += ["-b", str(settings.n_batch), "-ub", str(settings.n_ubatch)]
    flags += ["-t", str(settings.n_threads), "-tb", str(settings.n_threads_batch)]
    flags += _placement_flags(settings, plan.machine)
    if is_server:
        flags += ["-np", str(settings.n_seq)]
    if settings.experts is not None:
        flags += ["--override-kv", f"{plan.anatomy.arch}.expert_used_count=int:{settings.experts}"]
    if plan.draft is not None:
        draft = plan.draft.settings
        flags += ["--spec-type", "draft-simple", "-md", source.draft_path]
        flags += ["-ngld", str(draft.n_gpu_layers)]
        flags += ["-devd", ",".join(draft.devices) or "none"]
    return flags


def _placement_flags(settings: Settings, machine: Machine) -> list[str]:
    flags = ["-dev", ",".join(settings.devices) or "none", "-ngl", str(settings.n_gpu_layers)]
    if settings.tensor_split:
        flags += ["-ts", _joined(settings.tensor_split)]
    if settings.tensor_overrides:
        flags += ["-ot", ",".join(_override(override, machine) for override in settings.tensor_overrides)]
    return flags


def _override(override: TensorOverride, machine: Machine) -> str:
    # The list is cut at each comma, and each part at its first "=", before any pattern is looked at.
    if "," in override.pattern or "=" in override.pattern:
        raise UsageError(
            f"llama.cpp's -ot cannot take the pattern {override.pattern!r}: it has a comma or a =",
            "write it without: a{1,3} is aa?a?",
        )
    return f"{override.pattern}={_buffer_type(override.device, machine)}"


def _buffer_type(name: str, machine: Machine) -> str:
    """What llama.cpp calls a device's memory (parse_tensor_buffer_overrides): by the device's own name, but a
    worker's "RPC<number at the worker>[<address>]" (ggml_backend_rpc_buffer_type)."""
    place = machine.at_worker(name)
    return name if place is None else f"RPC{place[1]}[{place[0]}]"


# --- Ollama -------------------------------------------------------------------------------------------------


def _modelfile(plan: Plan, source: Source) -> Iterator[str]:
    """A Modelfile. Ollama knows whole layers only: those that fit without parting them are counted anew."""
    whole = plan
    if plan.settings.tensor_overrides:
        wishes = replace(plan.wishes, n_cpu_moe=0, n_gpu_layers=None, tensor_overrides=())
        whole = make_plan(plan.anatomy, plan.machine, wishes, plan.calibration, plan.taken)
    settings = whole.settings
    yield f"FROM {source.path or f'hf.co/{source.repo}:{source.quant}'}"
    yield f"PARAMETER num_ctx {settings.n_ctx_seq}"  # times OLLAMA_NUM_PARALLEL, says its scheduler
    yield f"PARAMETER num_gpu {settings.n_gpu_layers}"
    yield f"PARAMETER num_batch {settings.n_ubatch}"
    yield f"PARAMETER num_thread {settings.n_threads}"
    for text in _beyond_ollama(plan, whole):
        yield f"# {text}"


def _beyond_ollama(plan: Plan, whole: Plan) -> Iterator[str]:
    settings = plan.settings
    if settings.tensor_overrides:
        yield (
            "This plan parts layers (experts in RAM), which Ollama cannot: here "
            f"{whole.settings.n_gpu_layers} whole layers are offloaded instead of {settings.n_gpu_layers}."
        )
    if settings.tensor_split:
        yield f"Ollama shares layers out by itself; the plan says {_joined(settings.tensor_split)}."
    if (settings.type_k, settings.type_v) != ("f16", "f16"):
        kind = f"OLLAMA_FLASH_ATTENTION=1 OLLAMA_KV_CACHE_TYPE={settings.type_k}"
        yield f"The cache's type is the server's, for all models: {kind} ollama serve"
    if settings.n_seq > 1:
        yield f"So is the number of sequences: OLLAMA_NUM_PARALLEL={settings.n_seq} ollama serve"
    if settings.experts is not None:
        yield f"Ollama cannot change the number of experts ({settings.experts} were asked for)."
    if plan.draft is not None:
        yield "Ollama takes no draft model."


# --- moetool ------------------------------------------------------------------------------------------------


def wish_flags(wishes: Wishes) -> list[str]:
    """What the user fixed, as flags of plan (and of run and bench, for one sequence)."""
    given: list[tuple[str, object]] = [
        ("--parallel", wishes.n_seq if wishes.n_seq > 1 else None),
        ("--ctx", "max" if wishes.n_ctx == 0 else wishes.n_ctx),
        ("--kv", _kv(wishes)),
        ("--threads", wishes.n_threads),
        ("--gpu-layers", wishes.n_gpu_layers),
        ("--n-cpu-moe", wishes.n_cpu_moe),
        *(("--override-tensor", f"{o.pattern}={o.device}") for o in wishes.tensor_overrides),
        ("--tensor-split", _joined(wishes.tensor_split) or None),
        ("--device", None if wishes.devices is None else ",".join(wishes.devices) or "none"),
        ("--batch-size", wishes.n_batch),
        ("--ubatch-size", wishes.n_ubatch),
        ("--experts", wishes.experts),
        ("--vram", ",".join(_limit(limit) for limit in wishes.vram) or None),
        ("--ram", _size(wishes.ram_bytes)),
        ("--reserve", _size(wishes.reserve_bytes)),
    ]
    return [part for flag, value in given if value is not None for part in (flag, str(value))]


def _kv(wishes: Wishes) -> str | None:
    if wishes.type_k is None or wishes.type_v is None:
        return None
    return wishes.type_k if wishes.type_k == wishes.type_v else f"{wishes.type_k},{wishes.type_v}"


def _joined(shares: Sequence[float]) -> str:
    return ",".join(f"{share:g}" for share in shares)


def _limit(limit: Limit) -> str:
    return f"{limit.device}={_size(limit.n_bytes)}" if limit.device else str(_size(limit.n_bytes))


def _size(n_bytes: int | None) -> str | None:
    """A size as it may be typed: in MiB where that is exact."""
    if n_bytes is None:
        return None
    return f"{n_bytes >> 20}MiB" if n_bytes % (1 << 20) == 0 else str(n_bytes)
