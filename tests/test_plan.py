"""Plans on made-up machines: what goes where, what is said about it, and that it always adds up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moetool.anatomy import Anatomy, make_anatomy
from moetool.assets import demo_model_path
from moetool.errors import UsageError
from moetool.gguf import open_header
from moetool.machine import Device, Machine
from moetool.plan import Allocated, Plan, Wishes, check_plan, make_budget, make_plan
from moetool.settings import TensorOverride

GIB = 1 << 30
HEADERS = Path(__file__).parent / "data" / "headers"
DEMO = make_anatomy(open_header(demo_model_path()))


def header_named(part: str) -> Anatomy:
    return make_anatomy(open_header(next(HEADERS.glob(f"*{part}*"))))


MOE = header_named("Qwen3-30B-A3B")


def machine(ram_gib: float, *gpu_gibs: float) -> Machine:
    ram = int(ram_gib * GIB)
    gpus = [
        Device(f"CUDA{i}", "card", "gpu", int(g * GIB), int(g * GIB), 500e9) for i, g in enumerate(gpu_gibs)
    ]
    cpu = Device("CPU", "cpu", "cpu", ram, ram, 60e9)
    return Machine((*gpus, cpu), "cpu", 8, 8, ram, ram, 100 * GIB, "linux", "x86_64")


def codes(plan: Plan) -> set[str]:
    return {reason.code for reason in plan.reasons}


def on(plan: Plan, device: str) -> int:
    return next((row.total_bytes for row in plan.memory if row.device == device), 0)


def test_without_a_gpu_everything_is_in_ram() -> None:
    plan = make_plan(MOE, machine(64), Wishes())
    assert plan.fits
    assert plan.settings.n_gpu_layers == 0
    assert plan.settings.devices == ()
    assert "cpu-only" in codes(plan)
    assert on(plan, "CPU") > MOE.weights_bytes


def test_with_a_large_gpu_all_layers_are_on_it() -> None:
    plan = make_plan(MOE, machine(64, 48), Wishes())
    assert plan.fits
    assert plan.settings.n_gpu_layers == MOE.n_layer + 1
    assert not plan.settings.tensor_overrides
    assert "all-offloaded" in codes(plan)


def test_with_a_small_gpu_the_attention_stays_on_it_and_experts_go_to_ram() -> None:
    plan = make_plan(MOE, machine(64, 12), Wishes(n_ctx=8192))
    assert plan.fits
    assert plan.settings.n_gpu_layers == MOE.n_layer + 1
    moved = plan.n_layers_experts_in_ram
    assert 0 < moved < MOE.n_layer
    assert "experts-in-ram" in codes(plan)
    assert on(plan, "CUDA0") < 12 * GIB
    # No fewer would do: one more layer's experts on the card (another may be there in part) do not fit.
    fewer = make_plan(
        MOE, machine(64, 12), Wishes(n_ctx=8192, n_cpu_moe=moved - 2, n_gpu_layers=MOE.n_layer + 1)
    )
    assert not fewer.fits


def test_what_the_user_fixed_is_kept() -> None:
    override = TensorOverride(r"blk\.0\.", "CPU")
    wishes = Wishes(
        n_ctx=4096, n_gpu_layers=5, tensor_overrides=(override,), n_threads=3, type_k="q8_0", type_v="q8_0"
    )
    chosen = make_plan(MOE, machine(64, 24), wishes).settings
    assert (chosen.n_gpu_layers, chosen.n_threads, chosen.type_k, chosen.n_ctx) == (5, 3, "q8_0", 4096)
    assert chosen.tensor_overrides[0] == override


def test_too_small_a_machine_is_an_answer_that_says_how_much_is_missing() -> None:
    plan = make_plan(MOE, machine(4), Wishes())
    assert not plan.fits
    (reason,) = (r for r in plan.reasons if r.code == "does-not-fit")
    assert "GiB of RAM are missing" in reason.text
    whole = make_budget(plan.machine, Wishes(reserve_bytes=0))
    assert whole.shortfalls(plan.memory)["CPU"] > 10 * GIB


def test_the_default_context_is_modest_and_more_than_trained_is_said() -> None:
    assert make_plan(DEMO, machine(8), Wishes()).settings.n_ctx == DEMO.n_ctx_train == 1024
    assert make_plan(DEMO, machine(8), Wishes(n_ctx=0)).settings.n_ctx == 1024
    beyond = make_plan(DEMO, machine(8), Wishes(n_ctx=4096))
    assert beyond.settings.n_ctx == 4096
    assert "context-untrained" in codes(beyond)
    table = make_anatomy(open_header(HEADERS.parent / "archs" / "gpt2-dense.hdr"))
    assert make_plan(table, machine(8), Wishes()).settings.n_ctx == table.n_ctx_train == 256
    with pytest.raises(UsageError, match="learned where 256 tokens stand"):
        make_plan(table, machine(8), Wishes(n_ctx=257))


def test_weights_are_copied_where_that_pays_and_mapped_elsewhere() -> None:
    small = make_plan(DEMO, machine(8), Wishes())
    assert not small.settings.use_mmap
    assert "copied" in codes(small)
    for plan in (
        make_plan(MOE, machine(64), Wishes()),
        make_plan(DEMO, replace(machine(8), os="darwin"), Wishes()),
        make_plan(DEMO, machine(8, 8), Wishes()),
    ):
        assert plan.settings.use_mmap
        assert "copied" not in codes(plan)
    beside = make_plan(DEMO, machine(64), Wishes(draft=MOE))
    assert beside.draft is not None
    assert beside.draft.settings.use_mmap
    assert not beside.settings.use_mmap


def test_wishes_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="8 experts"):
        make_plan(DEMO, machine(8), Wishes(experts=9))
    with pytest.raises(UsageError, match="CUDA9"):
        make_plan(DEMO, machine(8, 8), Wishes(devices=("CUDA9",)))
    dense = replace(DEMO, n_expert=0)
    with pytest.raises(UsageError, match="no experts"):
        make_plan(dense, machine(8), Wishes(experts=1))


@settings(max_examples=25, deadline=None)
@given(
    ram=st.floats(2, 128),
    gpus=st.lists(st.floats(1, 80), max_size=2),
    n_ctx=st.integers(256, 65536),
    kv=st.sampled_from(["f16", "q8_0"]),
)
def test_a_plan_that_fits_leaves_the_reserve_free_everywhere(
    ram: float, gpus: list[float], n_ctx: int, kv: str
) -> None:
    here = machine(ram, *gpus)
    plan = make_plan(MOE, here, Wishes(n_ctx=n_ctx, type_k=kv, type_v=kv))
    missing = make_budget(here, Wishes()).shortfalls(plan.memory)
    assert plan.fits == (not missing)
    assert plan.reasons
    weights = sum(row.weights_bytes for row in plan.memory)
    assert weights >= MOE.weights_bytes


def test_a_dry_run_that_agrees_is_said_and_one_that_differs_raises_the_plan() -> None:
    plan = make_plan(DEMO, machine(8), Wishes(reserve_bytes=0))
    (row,) = plan.memory
    agreed = check_plan(plan, Allocated(row.kv_bytes, {"CPU": row.compute_bytes}))
    assert agreed.memory == plan.memory
    assert "agrees" in agreed.reasons[-1].text
    more = check_plan(plan, Allocated(3 * row.kv_bytes, {"CPU": 2 * row.compute_bytes}))
    assert (more.memory[0].kv_bytes, more.memory[0].compute_bytes) == (
        3 * row.kv_bytes,
        2 * row.compute_bytes,
    )
    assert "the larger counts" in more.reasons[-1].text
    assert not check_plan(plan, Allocated(20 * GIB, {})).fits
