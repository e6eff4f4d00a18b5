"""The search for a placement: what is parted, dealt out, made smaller, and what is said about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plan import DEMO, GIB, MOE, codes, header_named, machine, on
from tiny_model import ARCHS

from moetool.anatomy import Anatomy, make_anatomy
from moetool.errors import UsageError
from moetool.gguf import open_header
from moetool.machine import Device, Machine
from moetool.memory import device_memory
from moetool.plan import (
    Allocated,
    Limit,
    Plan,
    Wishes,
    make_alternatives,
    make_budget,
    make_plan,
    remedies,
    settle_plan,
)
from moetool.plan.pieces import ANSWER_TOKENS, PROMPT_TOKENS, cut_weights
from moetool.plan.result import speed_of
from moetool.plan.search import Question, place
from moetool.plan.wishes import offload_devices, settle
from moetool.settings import Settings, TensorOverride
from moetool.speed import Load

DENSE = header_named("Gemma-3-27B")
F16 = Wishes(n_ctx=8192, type_k="f16", type_v="f16", n_ubatch=512)
MIB = 1 << 20


def text_of(plan: Plan, code: str) -> str:
    return next(reason.text for reason in plan.reasons if reason.code == code)


def with_speeds(here: Machine, *speeds: float | None) -> Machine:
    """The machine with other bandwidths, in the order of its devices."""
    pairs = zip(here.devices, speeds, strict=True)
    return replace(here, devices=tuple(replace(d, bandwidth_bytes_s=s) for d, s in pairs))


def with_links(here: Machine) -> Machine:
    return replace(here, devices=tuple(replace(d, link_bytes_s=16e9) for d in here.devices))


# --- what goes where ---------------------------------------------------------------------------------------


def test_a_card_is_filled_to_less_than_one_expert_matrix() -> None:
    plan = make_plan(MOE, machine(64, 12), F16)
    (matrix,) = {t.info.n_bytes for t in MOE.tensors if t.info.name == "blk.20.ffn_up_exps.weight"}
    left = make_budget(plan.machine, plan.wishes).available["CUDA0"] - on(plan, "CUDA0")
    assert 0 <= left < 1.5 * matrix
    # One of the patterns parts a layer: some of its matrices here, some there.
    assert len(plan.settings.tensor_overrides) == 2
    assert "of 1 of them in part" in text_of(plan, "experts-in-ram")


def brute(anatomy: Anatomy, here: Machine, wishes: Wishes) -> list[float]:
    """Decode speeds of placements with the experts of the first or last N layers in RAM, for every other N,
    that fit."""
    found = []
    for n in range(0, anatomy.n_layer + 1, 2):
        for blocks in (range(n), range(anatomy.n_layer - n, anatomy.n_layer)):
            pattern = rf"blk\.({'|'.join(map(str, blocks))})\.ffn_(up|down|gate)_exps"
            moved = (TensorOverride(pattern, "CPU"),) if n else ()
            plan = make_plan(anatomy, here, replace(wishes, tensor_overrides=moved, n_cpu_moe=0))
            if plan.fits and plan.speed.decode_tok_s:
                found.append(plan.speed.decode_tok_s)
    return found


def test_no_split_by_layers_is_faster() -> None:
    here = machine(64, 8)
    plan = make_plan(MOE, here, F16)
    fixed = replace(F16, n_gpu_layers=MOE.n_layer + 1)
    assert plan.speed.decode_tok_s is not None
    assert plan.speed.decode_tok_s >= max(brute(MOE, here, fixed))


def test_unequal_cards_get_unequal_shares_the_faster_first() -> None:
    here = with_speeds(machine(64, 12, 12), 200e9, 900e9, 60e9)
    plan = make_plan(MOE, here, F16)
    assert plan.settings.devices == ("CUDA1", "CUDA0")
    assert on(plan, "CUDA1") > on(plan, "CUDA0") > 0
    assert sum(plan.settings.tensor_split) == plan.settings.n_gpu_layers == MOE.n_layer + 1
    assert "the faster memory first" in text_of(plan, "split")
    equal = make_plan(MOE, here, replace(F16, tensor_split=(1.0, 1.0)))
    assert (plan.speed.decode_tok_s or 0) > (equal.speed.decode_tok_s or 0)


def test_with_a_smaller_cache_what_computes_moves_too() -> None:
    # More is missing in RAM than the cache takes; but half of it, and three layers, fit onto the card.
    hybrid = make_anatomy(open_header(ARCHS / "kimi-linear-moe.hdr"))
    card = 4 / 3 * 35_975_525 / GIB
    wishes = Wishes(n_ctx=5000, n_seq=4, kv_unified=False, n_ubatch=1024, ram_bytes=12_651_605)
    plan = make_plan(hybrid, machine(1, card), wishes)
    assert plan.fits
    assert plan.settings.type_k == "q8_0"


def test_with_a_smaller_batch_layers_may_move_too() -> None:
    # What 512 tokens at once are computed with fills the card: all layers would have to lie in RAM.
    small = make_anatomy(open_header(ARCHS / "grok-moe.hdr"))
    here = machine(4 / 3 * 27_972_396 / GIB, 1)
    wishes = Wishes(n_ctx=5000, n_seq=2, kv_unified=False, vram=(Limit("", 41_262_429),))
    plan = make_plan(small, here, wishes)
    assert plan.fits
    assert plan.settings.n_ubatch == 128


def test_nothing_is_missing_where_nothing_lies() -> None:
    budget = make_budget(machine(64, 1 / 64), Wishes(reserve_bytes=GIB))
    assert budget.available["CUDA0"] < 0
    assert budget.missing({"CUDA0": 0, "CPU": GIB}) == {}


def test_cards_that_hold_nothing_are_not_opened() -> None:
    # llama.cpp would keep buffers for computing on each, for which there is no room either.
    wishes = replace(F16, vram=(Limit("", GIB // 64),), tensor_split=(1.0, 1.0))
    plan = make_plan(MOE, machine(64, 12, 12), wishes)
    assert plan.fits
    assert (plan.settings.devices, plan.settings.tensor_split) == ((), ())


def test_a_card_that_holds_everything_is_used_alone() -> None:
    plan = make_plan(MOE, machine(64, 8, 48), F16)
    assert plan.settings.devices == ("CUDA1",)
    assert plan.settings.tensor_split == ()


def test_equal_cards_get_about_equal_parts() -> None:
    """The output is a layer too, and not the largest."""
    for sizes in ((12, 12), (16, 16)):
        plan = make_plan(MOE, machine(64, *sizes), F16)
        assert plan.settings.tensor_split == (24, 25)
    three = make_plan(MOE, machine(64, 7.4, 7.4, 7.4), F16)
    used = [on(three, f"CUDA{i}") for i in range(3)]
    assert max(used) < 1.1 * min(used)
    assert make_plan(MOE, machine(64, 24, 24, 24), F16).settings.devices == ("CUDA0",)


def test_a_slow_device_is_left_alone_where_ram_is_faster() -> None:
    here = with_speeds(machine(64, 48), 5e9, 60e9)
    plan = make_plan(MOE, here, F16)
    assert plan.settings.devices == ()
    assert text_of(plan, "cpu-only") == "everything in RAM: CUDA0 would not make it faster"


def test_devices_of_unknown_speed_come_before_ram_and_after_known_ones() -> None:
    unknown = make_plan(MOE, with_speeds(machine(64, 12), None, 60e9), F16)
    assert unknown.settings.n_gpu_layers == MOE.n_layer + 1
    assert 0 < unknown.n_layers_experts_in_ram < MOE.n_layer
    assert unknown.speed.decode_tok_s is None
    assert "order-of-preference" in codes(unknown)
    both = make_plan(MOE, with_speeds(machine(64, 12, 12), None, 500e9, 60e9), F16)
    assert both.settings.devices[0] == "CUDA1"


def test_next_token_layers_do_not_push_a_layer_into_ram() -> None:
    with_mtp = header_named("GLM-4.5-Air")
    assert with_mtp.n_layer_mtp
    plan = make_plan(with_mtp, machine(200, 140), F16)
    assert plan.settings.n_gpu_layers == len(with_mtp.layers) + 1
    assert on(plan, "CPU") < 2 * GIB


# --- time ------------------------------------------------------------------------------------------------


def lent(number: int, kind: str, gib: float, bytes_s: float) -> Device:
    where, size = f"{kind} at 10.0.0.{number}:50052", int(gib * GIB)
    return Device(f"RPC{number}", where, "gpu", size, size, bytes_s, "measured through RPC", 1e9, 1e-4)


def beside(here: Machine, *more: Device) -> Machine:
    return replace(here, devices=(*here.devices[:-1], *more, here.devices[-1]))


RAM = machine(64)
CARD = with_links(machine(64, 6))


@pytest.mark.parametrize(
    "here",
    [
        RAM,
        with_links(machine(64, 8)),
        with_links(machine(64, 8, 6)),
        beside(RAM, lent(0, "CPU", 8, 20e9)),
        beside(RAM, lent(0, "CUDA", 9, 300e9), lent(1, "CPU", 7, 30e9)),
        beside(CARD, lent(0, "CUDA", 9, 300e9)),
    ],
    ids=["RAM", "a card", "two cards", "a worker", "two workers", "a card and a worker"],
)
def test_what_is_searched_by_is_what_is_predicted(here: Machine) -> None:
    """Pieces add up to the time that the speed model gives to the placement; a layer in parts is near."""
    for anatomy in (DEMO, MOE, DENSE):
        for wishes in (Wishes(n_ctx=1024), Wishes(n_gpu_layers=4), Wishes(n_gpu_layers=30, n_cpu_moe=25)):
            base, _ = settle(anatomy, here, wishes)
            names = tuple(device.name for device in offload_devices(here, wishes))
            cut, budget = cut_weights(anatomy, base), make_budget(here, wishes)
            found = place(Question(anatomy, here, wishes, budget, names, cut), base)
            load = Load(PROMPT_TOKENS, base.n_ubatch, min(2048, base.n_ctx // 2))
            speed = speed_of(anatomy, here, found.settings, (), load)
            assert speed.decode_tok_s
            assert speed.prompt_tok_s
            turn_s = ANSWER_TOKENS / speed.decode_tok_s + PROMPT_TOKENS / speed.prompt_tok_s
            is_parted = any(kept.parted for kept in found.layout.kept)
            assert found.layout.seconds == pytest.approx(turn_s, rel=0.02 if is_parted else 1e-6)


# --- cache and batch ---------------------------------------------------------------------------------------


def test_a_smaller_batch_comes_before_a_smaller_cache_and_both_are_said() -> None:
    long = Wishes(n_ctx=65536, reserve_bytes=0)
    need = sum(row.total_bytes for row in make_plan(DENSE, machine(500), long).memory)
    plan = make_plan(DENSE, machine((need - 64 * MIB) / GIB), long)
    assert plan.fits
    assert (plan.settings.type_k, plan.settings.n_ubatch) == ("f16", 256)
    assert text_of(plan, "ubatch-small") == "ubatch 256: with 512 it does not fit"
    tight = make_plan(DENSE, machine((need - 1500 * MIB) / GIB), long)
    assert tight.fits
    assert tight.settings.type_k == tight.settings.type_v == "q8_0"
    assert text_of(tight, "kv-quantized") == "KV cache q8_0: with f16 it does not fit"
    assert not make_plan(DENSE, tight.machine, replace(long, type_k="f16", type_v="f16")).fits


def test_a_quantized_cache_must_be_worth_it() -> None:
    worth = make_plan(MOE, machine(64, 15), Wishes(n_ctx=40960))
    assert worth.settings.type_k == "q8_0"
    f16 = make_plan(MOE, machine(64, 15), Wishes(n_ctx=40960, type_k="f16", type_v="f16"))
    assert (worth.speed.decode_tok_s or 0) > (f16.speed.decode_tok_s or 0)
    assert "makes room" in text_of(worth, "kv-quantized")
    assert make_plan(MOE, machine(64, 48), Wishes(n_ctx=40960)).settings.type_k == "f16"


def test_a_larger_ubatch_reads_experts_from_ram_less_often() -> None:
    plan = make_plan(MOE, with_links(machine(64, 6)), Wishes(n_ctx=8192, type_k="f16", type_v="f16"))
    assert plan.settings.n_ubatch == 1024
    assert "ubatch-large" in codes(plan)
    small = make_plan(MOE, plan.machine, F16)
    assert (plan.speed.prompt_tok_s or 0) > 1.2 * (small.speed.prompt_tok_s or 0)
    # A short context has no such prompts.
    short = make_plan(MOE, plan.machine, Wishes(n_ctx=512, type_k="f16", type_v="f16"))
    assert short.settings.n_ubatch == 512


# --- limits and what was fixed -----------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(each=st.floats(2, 20), one=st.floats(1, 20), ram=st.floats(18, 40))
def test_limits_are_kept(each: float, one: float, ram: float) -> None:
    limits = (Limit("", int(each * GIB)), Limit("CUDA1", int(one * GIB)))
    plan = make_plan(MOE, machine(64, 24, 24), replace(F16, vram=limits, ram_bytes=int(ram * GIB)))
    assert plan.fits
    assert on(plan, "CUDA0") <= each * GIB
    assert on(plan, "CUDA1") <= one * GIB
    assert on(plan, "CPU") <= ram * GIB


def test_the_reserve_is_what_was_asked_for() -> None:
    plan = make_plan(MOE, machine(64, 12), replace(F16, reserve_bytes=4 * GIB))
    assert on(plan, "CUDA0") <= 8 * GIB
    assert make_budget(plan.machine, Wishes(reserve_bytes=0)).available["CUDA0"] == 12 * GIB


def test_what_was_asked_for_is_not_called_too_large() -> None:
    plan = make_plan(MOE, machine(64, 48), replace(F16, n_cpu_moe=18))
    assert text_of(plan, "experts-in-ram") == "experts of 18 layers in RAM: asked for"
    assert text_of(make_plan(MOE, machine(64, 48), replace(F16, n_gpu_layers=5)), "layers-in-ram") == (
        "5 of 49 layers on CUDA0: asked for"
    )
    assert text_of(make_plan(MOE, machine(64, 48), replace(F16, devices=())), "cpu-only").endswith(
        "asked for"
    )


def test_a_device_is_called_full_only_if_it_is() -> None:
    dense = make_plan(DENSE, machine(64, 12), F16)
    assert text_of(dense, "layers-in-ram").endswith(" layers on CUDA0: it is full")
    pair = make_plan(DENSE, machine(64, 6, 6), F16)
    assert text_of(pair, "layers-in-ram").endswith(" layers on CUDA0 + CUDA1: they are full")
    asked = make_plan(
        DENSE, machine(64, 12, 12), replace(F16, vram=(Limit("", 6 * GIB),), tensor_split=(3, 1))
    )
    assert text_of(asked, "layers-in-ram").endswith(": CUDA0 is full")
    # A slow worker with plenty of room takes what the RAM has no room for, and no more.
    worker = replace(lent(0, "CPU", 64, 10e9), link_latency_s=1e-3)
    slow = make_plan(MOE, beside(machine(12), worker), F16)
    assert text_of(slow, "layers-in-ram").endswith(" of 49 layers on RPC0: the others are not slower in RAM")


def test_a_card_that_keeps_its_experts_is_not_called_full() -> None:
    plan = make_plan(MOE, machine(64, 8, 48), replace(F16, tensor_split=(5, 1)))
    assert plan.settings.devices == ("CUDA0", "CUDA1")
    assert text_of(plan, "experts-in-ram").endswith(" in RAM: CUDA0 is full")
    both = make_plan(MOE, machine(64, 8, 8), F16)
    assert text_of(both, "experts-in-ram").endswith(" in RAM: CUDA0 + CUDA1 are full")


def test_the_order_of_devices_is_ours_only_if_it_was_not_asked_for() -> None:
    here = with_speeds(machine(64, 12, 12), 200e9, 900e9, 60e9)
    asked = make_plan(MOE, here, replace(F16, devices=("CUDA0", "CUDA1")))
    assert asked.settings.devices == ("CUDA0", "CUDA1")
    assert "the faster memory first" not in text_of(asked, "split")


def test_a_device_that_is_not_used_holds_nothing() -> None:
    plan = make_plan(MOE, machine(64, 48), replace(F16, n_gpu_layers=0))
    assert [row.device for row in plan.memory] == ["CPU"]
    assert make_plan(MOE, machine(64, 0), F16).fits
    full = make_plan(MOE, machine(64, 24, 24), replace(F16, vram=(Limit("", 1024),)))
    assert full.fits
    assert text_of(full, "cpu-only") == "everything in RAM: there is no room on CUDA0 + CUDA1"


@pytest.mark.parametrize("devices", [None, (), ("CUDA1",)])
def test_llama_cpp_is_told_of_a_device_that_only_an_override_uses(devices: tuple[str, ...] | None) -> None:
    override = TensorOverride(r"blk\.0\..*_exps", "CUDA0")
    wishes = replace(F16, n_gpu_layers=0, devices=devices, tensor_overrides=(override,))
    plan = make_plan(MOE, machine(64, 24, 24), wishes)
    assert plan.settings.devices == ("CUDA0",)
    assert plan.settings.n_gpu_layers == 0
    assert on(plan, "CUDA0") > 300 * MIB


def test_a_squeezed_cache_is_not_called_a_gain() -> None:
    fixed = Wishes(n_ctx=8192, n_gpu_layers=99, n_cpu_moe=10)
    plan = make_plan(MOE, machine(64, 15), fixed)
    assert plan.settings.type_k == "q8_0"
    assert not make_plan(MOE, machine(64, 15), replace(fixed, type_k="f16", type_v="f16")).fits
    assert text_of(plan, "kv-quantized") == "KV cache q8_0: with f16 it does not fit"


def test_another_number_of_experts_is_said() -> None:
    assert "4 experts a token instead of 8" in text_of(
        make_plan(MOE, machine(64), Wishes(experts=4)), "experts-changed"
    )
    assert "experts-changed" not in codes(make_plan(MOE, machine(64), Wishes(experts=8)))


def test_what_cannot_be_meant_is_refused() -> None:
    two: Sequence[tuple[Wishes, str]] = [
        (Wishes(vram=(Limit("CUDA7", GIB),)), "--vram CUDA7"),
        (Wishes(tensor_overrides=(TensorOverride("x", "CUDA7"),)), "--override-tensor"),
        (Wishes(tensor_split=(1.0, 1.0, 1.0)), "--tensor-split"),
    ]
    for wishes, flag in two:
        with pytest.raises(UsageError, match=flag):
            make_plan(MOE, machine(64, 48), wishes)


def test_a_draft_model_takes_its_room_first() -> None:
    plan = make_plan(MOE, machine(64, 12), replace(F16, draft=DEMO))
    assert plan.draft is not None
    drafted = {row.device: row.total_bytes for row in plan.draft.memory}
    available = make_budget(plan.machine, plan.wishes).available
    for row in plan.memory:
        assert row.total_bytes + drafted.get(row.device, 0) <= available[row.device]
    assert "draft" in codes(plan)


# --- answers that are not a yes ----------------------------------------------------------------------------


def test_every_remedy_helps() -> None:
    long = Wishes(n_ctx=32768, type_k="f16", type_v="f16", n_ubatch=512)
    plan = make_plan(MOE, machine(19.5), long)
    said = {remedy.code: remedy.text for remedy in remedies(plan)}
    assert set(said) == {"smaller-cache", "shorter-context", "smaller-quant", "more-memory"}
    assert make_plan(MOE, machine(19.5), replace(long, type_k="q8_0", type_v="q8_0")).fits
    n_ctx = int(said["shorter-context"].split("--ctx ")[1].split()[0])
    assert make_plan(MOE, machine(19.5), replace(long, n_ctx=n_ctx)).fits
    assert not make_plan(MOE, machine(19.5), replace(long, n_ctx=2 * n_ctx)).fits
    more = float(said["more-memory"].split()[0])
    assert make_plan(MOE, machine(19.5 + more), long).fits
    assert not list(remedies(make_plan(MOE, machine(64), long)))


def test_where_nothing_fits_nothing_is_said_of_speed() -> None:
    """Memory that a Mac's GPU shares: there is some, but not for the whole."""
    shared = Device("MTL0", "Apple M1", "gpu", 10 * GIB, 10 * GIB, 68e9)
    plan = make_plan(MOE, beside(machine(9), shared), Wishes())
    assert not plan.fits
    assert text_of(plan, "cpu-only") == "everything in RAM: so the least is missing"


def test_a_fixed_flag_that_is_in_the_way_is_named() -> None:
    plan = make_plan(MOE, machine(64, 12), replace(F16, n_gpu_layers=49, n_cpu_moe=0))
    assert not plan.fits
    assert {"without --gpu-layers it fits", "without --n-cpu-moe it fits"} <= {r.text for r in remedies(plan)}


def test_what_lacks_on_two_devices_is_one_remedy() -> None:
    plan = make_plan(MOE, machine(8, 8), Wishes(n_gpu_layers=49, n_cpu_moe=24))
    assert set(plan.missing) == {"CPU", "CUDA0"}
    (more,) = [remedy.text for remedy in remedies(plan) if remedy.code == "more-memory"]
    assert "of RAM and " in more
    kept = make_plan(MOE, machine(64), Wishes(reserve_bytes=100 * GIB))
    assert "without --reserve it fits" in {remedy.text for remedy in remedies(kept)}


def test_what_the_user_kept_from_a_plan_is_not_missing_in_the_machine() -> None:
    """Each remedy, taken at its word, makes it fit."""

    def more(plan: Plan) -> str:
        return next(remedy.text for remedy in remedies(plan) if remedy.code == "more-memory")

    reserved = make_plan(MOE, machine(64), Wishes(reserve_bytes=100 * GIB))
    lacking = float(text_of(reserved, "does-not-fit").split()[0])
    assert text_of(reserved, "does-not-fit").endswith("GiB of RAM are missing")
    assert make_plan(MOE, machine(64 + lacking), reserved.wishes).fits
    limited = make_plan(MOE, machine(64), Wishes(ram_bytes=4 * GIB))
    assert text_of(limited, "does-not-fit").endswith("GiB of RAM are missing under --ram")
    flag, size, *rest = more(limited).split()
    assert (flag, *rest) == ("--ram", "would", "do")
    assert make_plan(MOE, machine(64), Wishes(ram_bytes=int(float(size.removesuffix("GiB")) * GIB))).fits
    card = Wishes(n_gpu_layers=49, n_cpu_moe=0, vram=(Limit("", 8 * GIB),))
    assert more(make_plan(MOE, machine(64, 24), card)).startswith("--vram CUDA0=")
    assert more(make_plan(MOE, machine(64, 12), card)).split()[2:] == [
        "and",
        "6.5",
        "GiB",
        "more",
        "of",
        "memory",
        "on",
        "CUDA0",
        "would",
        "do",
    ]


def test_a_plan_that_the_allocator_finds_too_large_is_made_anew() -> None:
    here = machine(64, 12)
    plan = make_plan(MOE, here, F16)

    def allocate(tried: Plan) -> Allocated:
        own = {row.device: row.compute_bytes for row in tried.memory}
        kv_bytes = sum(row.kv_bytes for row in tried.memory)
        return Allocated(kv_bytes, own | {"CUDA0": own["CUDA0"] + 900 * MIB})

    settled = settle_plan(plan, allocate)
    assert settled.fits
    assert settled.n_layers_experts_in_ram > plan.n_layers_experts_in_ram
    assert on(settled, "CUDA0") <= make_budget(here, F16).available["CUDA0"]
    assert "the larger counts" in text_of(settled, "dry-run")


def test_alternatives_fit_and_the_front_is_not_beaten() -> None:
    plan = make_plan(MOE, machine(64, 12), Wishes(n_ctx=8192))
    others = make_alternatives(plan)
    assert others[0].plan is plan
    assert others[0].is_pick
    assert {other.plan.settings.type_k for other in others} == {"f16", "q8_0"}
    assert max(other.plan.settings.n_ctx for other in others) > 8192
    assert all(other.plan.fits for other in others)
    front = [o.plan for o in others if o.is_front]
    for one in front:
        for other in front:
            better = (
                one.settings.n_ctx > other.settings.n_ctx
                and (one.speed.decode_tok_s or 0) > (other.speed.decode_tok_s or 0)
                and on(one, "CUDA0") < on(other, "CUDA0")
                and one.settings.type_k == other.settings.type_k
            )
            assert not better


# --- parted layers in the memory model ---------------------------------------------------------------------


def test_a_parted_layer_computes_on_both_sides() -> None:
    here = machine(64, 48)
    base = Settings(n_ctx=4096, devices=("CUDA0",), n_gpu_layers=MOE.n_layer + 1)
    parted = replace(base, tensor_overrides=(TensorOverride(r"blk\.7\.(ffn_down_exps)\.", "CPU"),))
    whole = {row.device: row.compute_bytes for row in device_memory(MOE, base, here.devices)}
    both = {row.device: row.compute_bytes for row in device_memory(MOE, parted, here.devices)}
    assert both["CUDA0"] > whole["CUDA0"]  # a copy of the matrix, for long batches
