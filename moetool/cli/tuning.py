"""What `tune` does once its flags are read: plan, load, probe changes of the plan, keep what is faster."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from moetool.bench.matrix import Point
from moetool.bench.tuning import PLAN, Probes, Tuned, choose, halve, join, turn_s
from moetool.cli.answer import load_engine, require_fit
from moetool.cli.interrupt import CtrlC
from moetool.cli.opening import Opened, plan_for, read_this_machine
from moetool.cli.sweeping import at_point
from moetool.cli.tuned import subject_of
from moetool.engine.model import Engine
from moetool.errors import EngineError, UsageError
from moetool.kept_tunings import Tuning, keep_tuning, read_tunings_path
from moetool.machine import Machine
from moetool.plan import Plan, Wishes
from moetool.render.progress import work_progress
from moetool.standin import repacked_bytes

# Seconds that one probe should take, its prompt and its decoding alike.
_PROBE_S = 1.0
_UBATCHES = (128, 256, 512, 1024, 2048)
_WARM_TOKENS = 16
# Of the budget, for what takes no other load where something does.
_CHEAP_SHARE = 0.5
# Probes of what takes another load, and of the plan in turn with it.
_AFTER_LOAD = 3


def tune_model(opened: Opened, wishes: Wishes, budget_s: float, rpc: str | None) -> tuple[Plan, Tuned]:
    """Search about so many seconds around the plan for something faster, and keep what was found, if there
    was time to find out: else an earlier tuning still counts."""
    machine = read_this_machine(rpc=rpc, measure="unknown")
    plan = plan_for(opened, machine, wishes)
    require_fit(plan, opened.model.name)
    started = time.monotonic()
    with CtrlC() as ctrl_c, ExitStack() as stack, work_progress("Tuning", budget_s) as on_seconds:
        prober = _Prober(opened, machine, wishes, _Probe.of(plan), ctrl_c.pressed, on_seconds, stack)
        probes = Probes(prober.measure)
        tuned = _search(prober, probes, plan, lambda share: time.monotonic() - started < share * budget_s)
    if not tuned.is_cut_short:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        gain = tuned.gain.ratio if tuned.gain else 1.0
        keep_tuning(read_tunings_path(), Tuning(*subject_of(opened, machine), when, tuned.point, gain))
    return plan, tuned


def _search(prober: _Prober, probes: Probes, plan: Plan, has_time: Callable[[float], bool]) -> Tuned:
    """`has_time` says whether a share of the budget is left."""
    cheap = [point for point in context_changes(plan, prober.probe.n_prompt) if prober.fits(point)]
    dear = [point for point in load_changes(plan) if prober.fits(point)]
    probes.has_time = lambda: has_time(_CHEAP_SHARE if dear else 1.0)
    better = halve(probes, cheap)
    probes.has_time = lambda: has_time(1.0)
    joined = join(better)
    candidates = [*better[:1]]
    if len(joined) > 1 and prober.fits(joined):
        probes.take([joined, PLAN] * _AFTER_LOAD)
        candidates.append(joined)
    best = min(candidates, key=probes.middle, default=PLAN)
    for change in dear:
        both = {**best, **change}
        if not prober.fits(both):
            continue
        # A load is a little faster or slower than the next one of the same: each probe has its own.
        probes.take([both, PLAN] * _AFTER_LOAD)
        candidates.append(both)
    tried = [*cheap, *(point for point in candidates if point not in cheap)]
    return choose(probes, tried, candidates)


# --- what may be changed ------------------------------------------------------------------------------------


def context_changes(plan: Plan, n_prompt: int) -> Iterator[Point]:
    """Changes that need no other load: threads, and how much of a prompt of `n_prompt` tokens is computed at
    once."""
    settings, machine = plan.settings, plan.machine
    n = settings.n_threads
    for other in dict.fromkeys((n - 1, n + 1, n // 2, machine.n_cores, machine.n_hw_threads)):
        can_be = 1 <= other <= max(machine.n_hw_threads, machine.n_cores)
        if plan.wishes.n_threads is None and can_be and other != n:
            yield {"threads": str(other)}
    for ubatch in _UBATCHES:
        if plan.wishes.n_ubatch is None and ubatch != settings.n_ubatch and ubatch <= max(n_prompt, 128):
            yield {"ubatch": str(ubatch)}


def load_changes(plan: Plan) -> Iterator[Point]:
    """Changes for which the model is loaded again: the CPU's own layout of weights, and the placement."""
    tensors = [tensor.info for tensor in plan.anatomy.tensors]
    in_ram = next(row for row in plan.memory if row.device == "CPU").weights_bytes
    if in_ram and plan.wishes.repack is None and repacked_bytes(tensors, plan.machine.arch):
        yield {"repack": "0"}
    if not plan.settings.devices or _is_placed(plan.wishes):
        return
    n_moved = plan.n_layers_experts_in_ram
    if plan.anatomy.is_moe:
        yield from ({"n-cpu-moe": str(n)} for n in (n_moved - 2, n_moved + 2) if n >= 0)
    yield {"gpu-layers": "0"}


def _is_placed(wishes: Wishes) -> bool:
    fixed = (wishes.n_gpu_layers, wishes.n_cpu_moe, wishes.devices)
    return any(value is not None for value in fixed) or bool(wishes.tensor_overrides or wishes.tensor_split)


# --- probing ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Probe:
    """How much is read and decoded in one probe."""

    n_prompt: int
    n_gen: int

    @classmethod
    def of(cls, plan: Plan) -> _Probe:
        prompt, decode = plan.speed.prompt_tok_s or 100.0, plan.speed.decode_tok_s or 10.0
        n_ctx = plan.settings.n_ctx_seq
        n_prompt = next((n for n in (1024, 512, 256) if n <= prompt * _PROBE_S and 2 * n <= n_ctx), 128)
        return cls(min(n_prompt, n_ctx // 2), max(4, min(64, int(decode * _PROBE_S), n_ctx // 4)))


@dataclass
class _Prober:
    """Probes settings: one engine at a time, loaded again only where weights would lie otherwise."""

    opened: Opened
    machine: Machine
    wishes: Wishes
    probe: _Probe
    is_cancelled: Callable[[], bool]
    on_seconds: Callable[[float], None]
    stack: ExitStack
    engine: Engine | None = None
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def fits(self, point: Point) -> bool:
        """Whether the plan with this change can be."""
        try:
            return self._plan(point).fits
        except UsageError:
            return False

    def measure(self, point: Point) -> float:
        """Seconds that a turn would take; infinite for a change that llama.cpp does not take. EngineError
        where it does not take the plan."""
        started = time.monotonic()
        try:
            engine = self._engine(self._plan(point))
        except EngineError:
            self.stack.close()
            self.engine = None  # one that could not change is good for nothing more
            if point == PLAN:
                raise
            return float("inf")  # llama.cpp does not take it: nobody is slower
        prompt = self._tokens(engine, self.probe.n_prompt)
        answer = self._tokens(engine, self.probe.n_gen)
        engine.rewind(0)
        prompt_s = self._timed(engine, [prompt])
        decode_s = self._timed(engine, [[token] for token in answer])
        self.on_seconds(time.monotonic() - started)
        return turn_s(len(prompt) / prompt_s, len(answer) / decode_s)

    def _plan(self, point: Point) -> Plan:
        return plan_for(self.opened, self.machine, at_point(self.wishes, point))

    def _engine(self, plan: Plan) -> Engine:
        settings = plan.settings
        if self.engine is not None and self.engine.settings.load_part == settings.load_part:
            if self.engine.settings == settings:
                return self.engine
            self.engine.change_context(settings)
        else:
            self.stack.close()
            self.engine = self.stack.enter_context(load_engine(self.opened, plan, self.is_cancelled))
        # The first tokens of a context find nothing prepared.
        self._timed(self.engine, [self._tokens(self.engine, _WARM_TOKENS), self._tokens(self.engine, 1)])
        return self.engine

    def _tokens(self, engine: Engine, count: int) -> list[int]:
        return [self.rng.randrange(engine.n_vocab) for _ in range(count)]

    def _timed(self, engine: Engine, batches: Sequence[Sequence[int]]) -> float:
        started = time.perf_counter()
        for tokens in batches:
            engine.decode(tokens)
            engine.synchronize()
        return time.perf_counter() - started
