"""What `bench` does once its flags are read: plan, load, measure each test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from moetool.bench.report import BenchRow
from moetool.bench.speed import SpeedSamples, SpeedTest, measure_speed
from moetool.cli.answer import load_engine, require_fit
from moetool.cli.interrupt import CtrlC
from moetool.cli.opening import Opened, plan_for, read_this_machine
from moetool.cli.recording import Measured, keep_measured
from moetool.engine.devices import read_build
from moetool.errors import UsageError
from moetool.plan import Plan, Wishes
from moetool.render.progress import step_progress
from moetool.speed import Load, Speed


def measure_all(
    opened: Opened,
    wishes: Wishes,
    tests: Sequence[SpeedTest],
    repetitions: int,
    test_time: str,
    rpc: str | None = None,
) -> tuple[BenchRow, ...]:
    """Measure every test on one loaded model; the context is as long as the longest test."""
    needed = max(test.n_prompt + test.n_gen + test.n_depth for test in tests)
    if wishes.n_ctx is not None and 0 < wishes.n_ctx < needed:
        raise UsageError(
            f"--ctx {wishes.n_ctx} is too short for a test of {needed} tokens", "leave --ctx out"
        )
    machine = read_this_machine(rpc=rpc, measure="again")
    plan = plan_for(opened, machine, replace(wishes, n_ctx=wishes.n_ctx or needed))
    require_fit(plan, opened.model.name)
    with (
        CtrlC() as ctrl_c,
        load_engine(opened, plan, ctrl_c.pressed) as engine,
        step_progress("Measuring", len(tests) * (repetitions + 1)) as on_step,
    ):
        measured = [measure_speed(engine, test, repetitions, on_step) for test in tests]
    for samples in measured:
        keep_measured(plan, _measured(plan, samples), "bench")
    return tuple(_row(opened, plan, samples, test_time) for samples in measured)


def _measured(plan: Plan, samples: SpeedSamples) -> Measured:
    test, tok_s = samples.test, samples.median_tok_s
    load = _load(plan, test)
    return Measured(load, prompt_tok_s=tok_s) if test.n_prompt else Measured(load, decode_tok_s=tok_s)


def _load(plan: Plan, test: SpeedTest) -> Load:
    return Load(n_prompt=test.n_prompt or 512, n_ubatch=plan.settings.n_ubatch, depth=test.n_depth)


def _row(opened: Opened, plan: Plan, samples: SpeedSamples, test_time: str) -> BenchRow:
    build = read_build()
    settings, anatomy = plan.settings, opened.anatomy
    gpus = [device for device in plan.machine.devices if device.name in settings.devices]
    test = samples.test
    predicted, low, high = _predicted(plan.predict(_load(plan, test)), is_prompt=test.n_prompt > 0)
    return BenchRow(
        model_filename=str(opened.model.paths[0]),
        model_type=f"{anatomy.name} {anatomy.quant}",
        model_size_bytes=anatomy.weights_bytes,
        model_n_params=anatomy.n_params,
        cpu_name=plan.machine.cpu_name,
        gpu_names=", ".join(device.description for device in gpus),
        backends=",".join(_backends(build.backends, settings.devices)),
        build=build.llama_cpp_python,
        settings=settings,
        n_cpu_moe=plan.n_layers_experts_in_ram,
        samples=samples,
        test_time=test_time,
        predicted_tok_s=predicted,
        predicted_low=low,
        predicted_high=high,
    )


def _backends(built: Sequence[str], devices: Sequence[str]) -> list[str]:
    """What may have computed: the build's back ends, "RPC" only where a worker did ("RPC[address]" is another
    name of it)."""
    local = [name for name in dict.fromkeys(built) if not name.startswith("RPC")]
    return [*local, "RPC"] if any(name.startswith("RPC") for name in devices) else local


def _predicted(speed: Speed, *, is_prompt: bool) -> tuple[float | None, float | None, float | None]:
    if is_prompt:
        return speed.prompt_tok_s, speed.prompt_low, speed.prompt_high
    return speed.decode_tok_s, speed.decode_low, speed.decode_high
