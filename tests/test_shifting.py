"""Whose context can be shifted: what is known of models before they are loaded, and why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moetool.anatomy import make_anatomy, why_no_shift
from moetool.assets import demo_model_path
from moetool.gguf import Header, open_header
from moetool.settings import Settings

DATA = Path(__file__).parent / "data"
DEMO = open_header(demo_model_path())
SETTINGS = Settings(n_ctx=8192)


def reason(header: Header, settings: Settings = SETTINGS) -> str:
    return why_no_shift(header, make_anatomy(header), settings)


def demo_with(**changes: Any) -> Header:
    """The demo model's header with other values under its architecture's keys."""
    other = {f"qwen3moe.{key.replace('__', '.')}": value for key, value in changes.items()}
    return replace(DEMO, metadata={**DEMO.metadata, **other})


def called(arch: str) -> Header:
    """The demo model's header as if it were of another architecture."""
    renamed = {key.replace("qwen3moe.", f"{arch}."): value for key, value in DEMO.metadata.items()}
    return replace(DEMO, metadata={**renamed, "general.architecture": arch})


def test_plain_rotated_keys_can_be_shifted() -> None:
    assert reason(DEMO) == ""
    for kind in ("bf16", "q8_0", "q4_0"):
        assert reason(DEMO, replace(SETTINGS, type_k=kind)) == ""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("archs/nemotron_h-dense", "recurrent states cannot forget"),
        ("archs/falcon-h1-dense", "recurrent states cannot forget"),
        ("archs/olmo2-dense", "keep only a window of 32 tokens"),
        ("archs/gpt2-dense", "positions are learned"),
    ],
)
def test_models_that_cannot_are_known_from_their_header(name: str, told: str) -> None:
    assert told in reason(open_header(DATA / f"{name}.hdr"))


def test_a_context_within_a_window_is_like_any_other() -> None:
    assert reason(open_header(DATA / "archs/olmo2-dense.hdr"), Settings(n_ctx=32)) == ""


def test_positions_that_are_stretched_or_of_several_dimensions() -> None:
    yarn = {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0}
    assert "YaRN" in reason(demo_with(**yarn))
    assert reason(demo_with(rope__scaling__type="linear", rope__scaling__factor=4.0)) == ""
    assert reason(demo_with(rope__scaling__type="yarn", rope__scaling__factor=1.0)) == ""
    assert "YaRN" in reason(demo_with(rope__scaling__attn_factor=1.19))
    assert "more than one dimension" in reason(demo_with(rope__dimension_sections=(8, 8, 8, 0)))


def test_architectures_that_do_otherwise_with_their_keys() -> None:
    assert "normalised after" in reason(called("hunyuan-moe"))
    assert "have no positions" in reason(called("smollm3"))


def test_quantized_keys_that_llama_cpp_cannot_rotate() -> None:
    q8 = replace(SETTINGS, type_k="q8_0")
    width = int(DEMO.metadata["qwen3moe.attention.key_length"])  # type: ignore[call-overload]
    assert width % 64 == 0
    partly = demo_with(rope__dimension_count=width // 2)
    assert (reason(partly), "--kv f16" in reason(partly, q8)) == ("", True)
    odd = demo_with(attention__key_length=80, rope__dimension_count=80)
    assert (reason(odd), "--kv f16" in reason(odd, q8)) == ("", True)
