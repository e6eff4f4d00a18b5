"""Expected loss: orderings that must hold, and published results inside the band."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plan import machine

from moetool import anatomy, gguf
from moetool.plan import Wishes, make_plan
from moetool.quality import (
    BANDS,
    Fit,
    Part,
    band_of,
    effective_bits,
    expected_loss,
    expected_loss_of,
    load_fit,
    log_loss_of,
    make_parts,
)
from moetool.report.plans import of_plan

BITS = st.floats(1.5, 16.0)
ACTIVE = st.floats(1e8, 1e11)


def whole(bits: float, n_active: float) -> tuple[Part, ...]:
    return (Part(bits, n_active),)


@settings(deadline=None)
@given(bits=BITS, more=st.floats(0.01, 8.0), n_active=ACTIVE)
def test_more_bits_are_never_worse(bits: float, more: float, n_active: float) -> None:
    narrow, wide = expected_loss_of(whole(bits, n_active)), expected_loss_of(whole(bits + more, n_active))
    assert wide.expected <= narrow.expected
    assert BANDS.index(wide.band) <= BANDS.index(narrow.band)


@settings(deadline=None)
@given(bits=BITS, n_active=ACTIVE, factor=st.floats(1.0, 100.0))
def test_smaller_active_size_is_never_better(bits: float, n_active: float, factor: float) -> None:
    small, large = expected_loss_of(whole(bits, n_active)), expected_loss_of(whole(bits, n_active * factor))
    assert large.expected <= small.expected


@settings(deadline=None)
@given(parts=st.lists(st.builds(Part, BITS, ACTIVE), min_size=1, max_size=4), which=st.integers(0, 3))
def test_widening_any_part_helps(parts: list[Part], which: int) -> None:
    which %= len(parts)
    wider = [*parts]
    wider[which] = replace(parts[which], bits=parts[which].bits + 1)
    assert expected_loss_of(wider).expected <= expected_loss_of(parts).expected


@settings(deadline=None)
@given(parts=st.lists(st.builds(Part, BITS, ACTIVE), min_size=1, max_size=4))
def test_effective_bits_lie_between_narrowest_and_mean(parts: list[Part]) -> None:
    bits = effective_bits(parts, load_fit())
    mean = sum(part.bits * part.n_active for part in parts) / sum(part.n_active for part in parts)
    assert min(part.bits for part in parts) - 1e-6 <= bits <= mean + 1e-6


@settings(deadline=None)
@given(bits=BITS, n_active=ACTIVE)
def test_the_range_holds_the_expectation(bits: float, n_active: float) -> None:
    quality = expected_loss_of(whole(bits, n_active))
    assert 0 <= quality.low <= quality.expected <= quality.high
    assert BANDS.index(quality.band_low) <= BANDS.index(quality.band) <= BANDS.index(quality.band_high)
    assert quality.evidence


@pytest.mark.parametrize("billions", [0.8, 3, 8, 27, 70])
def test_eight_bits_lose_nothing(billions: float) -> None:
    assert expected_loss_of(whole(8.5, billions * 1e9)).band == "none"


def test_nothing_quantized_is_no_loss() -> None:
    assert expected_loss_of(()).band == "none"


def test_a_sparse_model_pays_more_at_four_bits_than_a_dense_one() -> None:
    sparse, dense = expected_loss_of(whole(4.85, 3.3e9)), expected_loss_of(whole(4.85, 27e9))
    assert sparse.expected > 1.5 * dense.expected


def test_wide_attention_saves_a_sparse_model() -> None:
    """An A3B mixture at 4.25 bits: with its always-active 1.9 B at 8.5 bits it loses less than half."""
    same, kept = whole(4.25, 2.9e9), (Part(8.5, 1.9e9), Part(4.25, 1.0e9))
    assert expected_loss_of(kept).expected < expected_loss_of(same).expected / 2


# Published relative increases of perplexity (llama.cpp tools/perplexity/README.md, Llama-3-8B and
# Llama-2-70B; HF ikawrakow/mixtral-8x7b; ik_llama.cpp discussion 359, Qwen3-30B-A3B).
@pytest.mark.parametrize(
    ("bits", "billions", "loss"),
    [
        (6.57, 7.5, 0.0035),
        (5.70, 7.5, 0.0091),
        (4.90, 7.5, 0.028),
        (4.87, 68.7, 0.0120),
        (3.15, 68.7, 0.088),
        (4.87, 12.7, 0.0147),
        (4.90, 3.0, 0.0153),
    ],
)
def test_published_results_lie_in_the_range(bits: float, billions: float, loss: float) -> None:
    quality = expected_loss_of(whole(bits, billions * 1e9))
    assert quality.low <= loss <= quality.high


def test_most_published_results_lie_in_the_range() -> None:
    fit = load_fit()
    inside = [
        fit.spread_low <= result.loss / log_loss_of(result.bits, result.n_active, fit) <= fit.spread_high
        for result in fit.results
        if result.bits < 6.7 and result.loss > 0.0015  # the others are within the noise
    ]
    assert sum(inside) > 0.7 * len(inside)


def test_evidence_names_the_nearest_sources_and_says_when_there_is_none() -> None:
    near = expected_loss_of(whole(4.9, 8e9)).evidence
    assert "published results within half a bit" in near[0]
    assert any("Llama" in line or "LLaMA" in line for line in near)
    assert "extrapolated" in expected_loss_of(whole(12.0, 1e12)).evidence[0]
    assert expected_loss_of(whole(16.0, 8e9)).evidence == ("no weights are quantized",)


def test_bands_grow_with_the_loss() -> None:
    assert [band_of(loss) for loss in (0.0, 0.005, 0.02, 0.04, 0.1, 1.0)] == list(BANDS)


def test_a_fit_can_be_given() -> None:
    fit = Fit(0.1, 1.0, 0.0, 0.5, 2.0, {}, ())
    assert expected_loss_of(whole(4.5, 1e9), fit).expected == pytest.approx(0.10517, rel=1e-3)


# --- from headers -------------------------------------------------------------------------------------------

HEADERS = Path(__file__).parent / "data" / "headers"


def load(name: str) -> anatomy.Anatomy:
    return anatomy.make_anatomy(gguf.open_header(HEADERS / f"{name}.gguf.hdr"))


def test_all_weights_that_a_token_multiplies_with_are_counted() -> None:
    model = load("Qwen3-30B-A3B-Q4_K_M")
    assert sum(part.n_active for part in make_parts(model)) == pytest.approx(model.n_params_active, rel=0.001)


def test_a_native_narrow_type_has_lost_nothing() -> None:
    """gpt-oss was trained in MXFP4; its file keeps that, and the rest at 8 bits."""
    quality = expected_loss(load("gpt-oss-20b-MXFP4"))
    assert quality.band == "none"
    assert quality.evidence[0] == "published in MXFP4: those weights have lost nothing"


def test_published_mixtures_at_four_bits_are_low_to_moderate() -> None:
    for name in ("Qwen3-30B-A3B-Q4_K_M", "Qwen3.5-35B-A3B-Q4_K_M", "OLMoE-1B-7B-Q4_K_M"):
        assert expected_loss(load(name)).band in ("low", "moderate")


def test_the_plan_document_shows_a_band_with_its_sources_and_no_bare_number() -> None:
    model = load("Qwen3-30B-A3B-Q4_K_M")
    quality = of_plan(make_plan(model, machine(64), Wishes()), "x.gguf")["quality"]
    assert (quality["band_low"], quality["band"], quality["band_high"]) == ("low", "moderate", "high")
    assert "published results" in quality["evidence"][0]
    assert len(quality["evidence"]) > 1
    assert not any(isinstance(value, float) for value in quality.values())
