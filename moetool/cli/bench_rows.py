"""Rows of `bench` from what an engine did under a plan: host, memory, prediction, and what is kept of it."""

from __future__ import annotations

from collections.abc import Sequence

from moetool.bench.report import BenchRow, DeviceUse, Host, Predicted, Subject
from moetool.bench.speed import NOISY, SpeedSamples, SpeedTest
from moetool.cli.opening import Opened
from moetool.cli.recording import Measured, keep_measured
from moetool.engine.devices import device_of_buffer, read_build
from moetool.engine.library import LLAMA_CPP_COMMIT
from moetool.engine.measured import BufferSize
from moetool.plan import Plan
from moetool.speed import Load


def run_s(plan: Plan, test: SpeedTest) -> float:
    """About how long one run takes, in seconds, or in tokens where no speed is known."""
    speed = plan.predict(load_of_test(plan, test))
    prompt = test.n_prompt / (speed.prompt_tok_s or 1.0)
    return prompt + test.n_gen / (speed.decode_tok_s or 1.0)


def load_of_test(plan: Plan, test: SpeedTest) -> Load:
    """What a test asks of the model."""
    return Load(n_prompt=test.n_prompt or 512, n_ubatch=plan.settings.n_ubatch, depth=test.n_depth)


def make_subject(opened: Opened, filename: str = "") -> Subject:
    """What rows say was measured."""
    anatomy = opened.anatomy
    return Subject(
        filename=filename or str(opened.model.paths[0]),
        kind=f"{anatomy.name} {anatomy.quant}",
        size_bytes=anatomy.weights_bytes,
        n_params=anatomy.n_params,
    )


def keep_samples(plan: Plan, samples: SpeedSamples) -> None:
    """Let later predictions learn from a test of a prompt or of a generation alone."""
    test, tok_s = samples.test, samples.median_tok_s
    load = load_of_test(plan, test)
    if not test.n_gen:
        keep_measured(plan, Measured(load, prompt_tok_s=tok_s), "bench")
    elif not test.n_prompt:
        keep_measured(plan, Measured(load, decode_tok_s=tok_s), "bench")


def memory_use(plan: Plan, buffers: Sequence[BufferSize]) -> tuple[DeviceUse, ...]:
    """By device: what the plan says, and the buffers that llama.cpp has made. Weights in a layout of the
    CPU's own are copies of mapped pages, which nothing needs any more: what both hold is counted once."""
    made: dict[str, dict[str, int]] = {}
    for buffer in buffers:
        parts = made.setdefault(device_of_buffer(buffer.buffer), {})
        parts[buffer.holds] = parts.get(buffer.holds, 0) + buffer.n_bytes
    weights = {buffer.buffer: buffer.n_bytes for buffer in buffers if buffer.holds == "weights"}
    mapped, repacked = weights.get("CPU_Mapped", 0), weights.get("CPU_REPACK", 0)
    if mapped and repacked:
        once = sum(row.weights_bytes for row in plan.memory if row.device == "CPU")
        made["CPU"]["weights"] -= min(max(0, mapped + repacked - once), mapped, repacked)
    promised = {row.device: row.total_bytes for row in plan.memory}
    names = dict.fromkeys((*promised, *made))
    return tuple(
        DeviceUse(name, promised.get(name, 0), sum(made.get(name, {}).values()), made.get(name, {}))
        for name in names
    )


def read_bench_host(plan: Plan) -> Host:
    """What computed."""
    build, settings = read_build(), plan.settings
    gpus = [device for device in plan.machine.devices if device.name in settings.devices]
    return Host(
        cpu_name=plan.machine.cpu_name,
        gpu_names=", ".join(device.description for device in gpus),
        backends=",".join(_backends(build.backends, settings.devices)),
        commit=LLAMA_CPP_COMMIT,
        package=build.llama_cpp_python,
    )


def _backends(built: Sequence[str], devices: Sequence[str]) -> list[str]:
    """What may have computed: the build's back ends, "RPC" only where a worker did ("RPC[address]" is another
    name of it)."""
    local = [name for name in dict.fromkeys(built) if not name.startswith("RPC")]
    return [*local, "RPC"] if any(name.startswith("RPC") for name in devices) else local


def predicted(plan: Plan, test: SpeedTest) -> Predicted:
    """What was predicted of a test; of a prompt with a generation after it, from both."""
    speed = plan.predict(load_of_test(plan, test))
    if not test.n_gen:
        return Predicted(speed.prompt_tok_s, speed.prompt_low, speed.prompt_high)
    if not test.n_prompt:
        return Predicted(speed.decode_tok_s, speed.decode_low, speed.decode_high)
    return Predicted(
        _together(test, speed.prompt_tok_s, speed.decode_tok_s),
        _together(test, speed.prompt_low, speed.decode_low),
        _together(test, speed.prompt_high, speed.decode_high),
    )


def _together(test: SpeedTest, prompt_tok_s: float | None, decode_tok_s: float | None) -> float | None:
    if not prompt_tok_s or not decode_tok_s:
        return None
    return test.n_tokens / (test.n_prompt / prompt_tok_s + test.n_gen / decode_tok_s)


def noise_notes(rows: Sequence[BenchRow], flag: str = "-r") -> tuple[str, ...]:
    """What must be said of rows whose repetitions differ much; `flag` is how to get more of them."""
    noisy = [row for row in rows if row.samples.variation > NOISY]
    if not noisy:
        return ()
    worst = max(noisy, key=lambda row: row.samples.variation)
    return (
        f"{len(noisy)} of {len(rows)} rows are noisy: repetitions differ by up to "
        f"{worst.samples.variation:.0%} ({worst.samples.test.name}, coefficient of variation). "
        f"Close what else runs, or take the medians of more with {flag}.",
    )
