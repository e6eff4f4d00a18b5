"""ggml's allocator, restated: small graphs whose peak can be told by hand, and bounds for all others."""

from __future__ import annotations

import hypothesis
from hypothesis import given
from hypothesis import strategies as st

from moetool.memory.allocator import Step, peak_bytes
from moetool.memory.tape import Tape

CPU, GPU = "CPU", "GPU"


def peaks(tape: Tape) -> dict[str, int]:
    return peak_bytes(tape.steps, CPU)


def test_a_result_is_freed_when_its_last_reader_ran() -> None:
    tape = Tape(8, CPU)
    x = tape.input(32 * 8, CPU)
    for _ in range(5):
        x = tape.product(8, x)
    # The input, and two results at a time: what is read and what is written.
    assert peaks(tape) == {CPU: 2 * 256}


def test_in_place_only_where_nobody_else_reads() -> None:
    alone, shared = Tape(8, CPU), Tape(8, CPU)
    for tape in (alone, shared):
        x = tape.product(16, tape.input(256, CPU))
        y = tape.over(x)
        if tape is shared:
            y = tape.over(y, x)
        tape.over(y)
    assert peaks(alone) == {CPU: 256 + 512}
    assert peaks(shared) == {CPU: 256 + 2 * 512}


def test_a_view_keeps_what_it_shows() -> None:
    """The sum may not take the place of a tensor that is seen through a view."""
    whole, seen = Tape(8, CPU), Tape(8, CPU)
    for tape in (whole, seen):
        x = tape.input(256, CPU)
        big = tape.new(32, x)
        tape.over(tape.view(big) if tape is seen else big)
    assert peaks(whole) == {CPU: 256 + 1024}
    assert peaks(seen) == {CPU: 256 + 2 * 1024}


def test_the_best_fitting_hole_is_taken() -> None:
    tape = Tape(8, CPU)
    x = tape.input(32, CPU)
    large, wall, small, end = (tape.raw(n, x) for n in (1024, 32, 256, 32))
    tape.raw(0, large)
    tape.raw(0, small)
    tape.raw(256, x)  # into the hole of `small`, not into that of `large`
    tape.raw(1024, x)  # so this still fits
    tape.raw(0, wall, end)
    assert peaks(tape) == {CPU: 32 + 1024 + 32 + 256 + 32}


def test_sizes_are_aligned() -> None:
    tape = Tape(1, CPU)
    tape.raw(33, tape.input(1, CPU))
    assert peaks(tape) == {CPU: 32 + 64}


def test_another_device_gets_a_copy() -> None:
    """Tokens lie on the CPU, the layer on the GPU: the GPU holds the row it was sent and its result."""
    tape = Tape(8, CPU)
    x = tape.product(8, tape.input(32, CPU))
    tape.on(GPU)
    y = tape.product(16, x)
    tape.over(y)
    assert peaks(tape) == {CPU: 32 + 256, GPU: 256 + 512}


def test_steps_without_weights_run_where_their_neighbours_do() -> None:
    tape = Tape(8, CPU)
    x = tape.product(8, tape.input(32, CPU))
    tape.on(GPU)
    x = tape.product(8, x)
    x = tape.new(64, x)
    tape.on(CPU)
    tape.product(8, x)
    found = peaks(tape)
    assert found[GPU] == 256 + 256 + 2048
    assert found[CPU] >= 2048


def test_what_is_kept_is_not_overwritten() -> None:
    free, kept = Tape(8, CPU), Tape(8, CPU)
    for tape in (free, kept):
        x = tape.product(16, tape.input(256, CPU))
        if tape is kept:
            tape.keep(x)
        tape.over(x)
    assert peaks(free) == {CPU: 256 + 512}
    assert peaks(kept) == {CPU: 256 + 2 * 512}


def taken_over(tokens: int, *weights: int) -> dict[str, int]:
    tape = Tape(tokens, CPU)
    x = tape.input(32 * tokens, CPU)
    for n_bytes in weights:
        x = tape.product(8, x, weight_bytes=n_bytes)
    return peak_bytes(tape.steps, CPU, helper=GPU)


def test_large_batches_go_to_the_gpu_with_their_weights() -> None:
    """Fewer than 32 rows stay; more need the tokens, the result, and one matrix at a time."""
    assert taken_over(31, 4096) == {CPU: 31 * 32 + 31 * 32}
    assert taken_over(32, 4096) == {CPU: 1024, GPU: 1024 + 4096 + 1024}
    assert taken_over(32, 4096, 4096) == {CPU: 1024, GPU: 1024 + 4096 + 1024}
    assert taken_over(32, 4096, 8192) == {CPU: 1024, GPU: 4096 + 2 * 1024 + 8192}


def test_a_cache_is_copied_to_the_gpu_that_reads_it() -> None:
    tape = Tape(32, CPU)
    q = tape.product(8, tape.input(32, CPU), weight_bytes=32)
    tape.store(q)
    attended = tape.new(8, q, tape.cache(1 << 20))
    tape.product(8, attended, weight_bytes=32)
    found = peak_bytes(tape.steps, CPU, helper=GPU)
    assert found[GPU] == 32 + 32 + 1024 + (1 << 20) + 1024
    assert found[CPU] == 1024


def test_several_batches_on_their_way_have_inputs_and_copies_of_their_own() -> None:
    tape = Tape(8, CPU)
    x = tape.rows(8, tape.input(32, CPU))
    tape.on(GPU)
    tape.product(64, x)
    one, four = (peak_bytes(tape.steps, CPU, n_batches=n) for n in (1, 4))
    assert one == {CPU: 32 + 256, GPU: 256 + 2048}
    assert four == {CPU: 4 * 32 + 256, GPU: 4 * 256 + 2048}


def test_a_leaf_is_there_once_for_all_batches() -> None:
    tape = Tape(8, CPU)
    leaf = tape.leaf(1024, GPU)
    tape.on(GPU).store(tape.product(8, tape.over(leaf)))
    one, four = (peak_bytes(tape.steps, CPU, n_batches=n) for n in (1, 4))
    assert one == four == {GPU: 1024 + 256}


def test_an_input_written_down_late_is_copied_where_its_split_begins() -> None:
    tape = Tape(8, CPU)
    tape.rows(8, tape.input(32, CPU))
    tape.on(GPU)
    x = tape.product(8, tape.input(64, CPU))
    tape.product(8, x, tape.input(96, CPU))
    assert peaks(tape) == {CPU: 32 + 64 + 96 + 256, GPU: 64 + 96 + 256 + 256}


steps = st.lists(
    st.tuples(
        st.sampled_from(["product", "new", "over", "view", "norm"]),
        st.integers(1, 40),
        st.integers(0, 100),
        st.integers(0, 100),
        st.sampled_from([CPU, GPU]),
    ),
    max_size=30,
)


@given(steps)
@hypothesis.settings(max_examples=80, deadline=None)
def test_peaks_of_any_graph(program: list[tuple[str, int, int, int, str]]) -> None:
    """Never less than the largest step, never more than all steps and their copies together."""
    tape = Tape(4, CPU)
    made = [tape.input(64, CPU)]
    for verb, width, one, other, device in program:
        tape.on(device)
        first, second = made[one % len(made)], made[other % len(made)]
        if verb == "product":
            made.append(tape.product(width, first, second))
        elif verb == "new":
            made.append(tape.new(width, first))
        elif verb == "over":
            made.append(tape.over(first, second))
        elif verb == "norm":
            made.append(tape.norm(first))
        else:
            made.append(tape.view(first))
    found = peaks(tape)
    sizes = [-(-step.n_bytes // 32) * 32 for step in tape.steps]
    assert sum(found.values()) >= max(sizes)
    assert all(peak <= 2 * sum(sizes) for peak in found.values())
    assert isinstance(tape.steps[0], Step)
