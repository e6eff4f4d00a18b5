"""Anatomies of published models' headers, against figures that are known of them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from gguf_build import ARRAY, Builder, Row, Typed, text, u32

from moetool import anatomy, gguf, quants
from moetool.anatomy.roles import part_of, role_of
from moetool.errors import HeaderError

HEADERS = Path(__file__).parent / "data" / "headers"
F16 = quants.BY_NAME["F16"]


def load(name: str) -> anatomy.Anatomy:
    return anatomy.make_anatomy(gguf.open_header(HEADERS / f"{name}.gguf.hdr"))


# Parameters from headers.csv (each equals a published tensor map), active ones in billions as published.
KNOWN = {
    # name: n_params, active (1e9), layers, of them MoE, experts, used, shared
    "DeepSeek-V3.1-Q4_K_M": (671_026_419_200, 37, 61, 58, 256, 8, 1),
    "GLM-4.5-Air-Q4_K_M": (110_468_824_832, 12.5, 46, 45, 128, 8, 1),
    "Nemotron-3-Nano-30B-A3B-Q4_K_M": (31_577_940_288, 3.2, 52, 23, 128, 6, 1),
    "OLMoE-1B-7B-Q4_K_M": (6_919_161_856, 1.2, 16, 16, 64, 8, 0),
    "Qwen3-30B-A3B-Q4_K_M": (30_532_122_624, 3.0, 48, 48, 128, 8, 0),
    "Qwen3.5-35B-A3B-Q4_K_M": (34_660_610_688, 2.9, 40, 40, 256, 8, 1),
    "gpt-oss-20b-MXFP4": (20_914_757_184, 3.6, 24, 24, 32, 4, 0),
    "granite-4.0-h-tiny-Q4_K_M": (6_939_037_248, 1.4, 40, 40, 64, 6, 1),
}


@pytest.mark.parametrize("name", KNOWN)
def test_published_mixtures_of_experts(name: str) -> None:
    model = load(name)
    n_params, active, n_layer, n_moe, n_expert, n_used, n_shared = KNOWN[name]
    assert model.n_params == n_params
    assert model.n_params_active / 1e9 == pytest.approx(active, rel=0.06)
    assert (model.n_layer, model.n_layer_moe) == (n_layer, n_moe)
    assert (model.n_expert, model.n_expert_used, model.n_expert_shared) == (n_expert, n_used, n_shared)
    assert model.unknown == ()
    assert sum(model.bytes_by_role.values()) == model.weights_bytes
    assert model.bytes_per_token < model.weights_bytes
    assert anatomy.effective_size(model) == pytest.approx((n_params * model.n_params_active) ** 0.5)


def test_quant_names() -> None:
    assert load("gpt-oss-20b-MXFP4").quant == "MXFP4_MOE"
    assert load("OLMoE-1B-7B-Q4_K_M").quant == "Q4_K_M"
    rows = [Row("output.weight", (256, 4), 12), Row("output_norm.weight", (8,), 0, 576)]
    assert made({"general.architecture": text("x")}, rows).quant == "Q4_K"


MIXERS = {"full": "F", "sliding": "s", "mla": "M", "recurrent": "r", "parallel": "P", "none": "-"}


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("Gemma-3-27B-Q4_K_M", "sssssFsssssF"),
        ("Gemma-4-31B-Q4_K_M", "sssssFsssssF"),
        ("gpt-oss-20b-MXFP4", "sFsFsF"),
        ("DeepSeek-V3.1-Q4_K_M", "MMM"),
        ("Qwen3.5-35B-A3B-Q4_K_M", "rrrFrrrF"),
        ("granite-4.0-h-tiny-Q4_K_M", "rrrrrFrrr"),
        ("Nemotron-3-Nano-30B-A3B-Q4_K_M", "r-r-rF-r-r-rF-"),
    ],
)
def test_kinds_of_layers(name: str, start: str) -> None:
    kinds = "".join(MIXERS[layer.mixer] for layer in load(name).layers)
    assert kinds.startswith(start)


def test_ffn_kinds() -> None:
    deepseek = load("DeepSeek-V3.1-Q4_K_M").layers
    assert [layer.ffn for layer in deepseek[:4]] == ["dense", "dense", "dense", "moe"]
    assert deepseek[0].n_ff == 18432
    assert [layer.ffn for layer in load("Nemotron-3-Nano-30B-A3B-Q4_K_M").layers[:3]] == [
        "none",
        "moe",
        "none",
    ]


def test_next_token_layers_stand_apart() -> None:
    glm = load("GLM-4.5-Air-Q4_K_M")
    assert (glm.n_layer, glm.n_layer_mtp, len(glm.layers)) == (46, 1, 47)
    assert glm.layers[-1].mtp
    assert glm.layers[-1].cache == ()
    assert {t.role for t in glm.tensors if t.layer == 46} == {"mtp"}
    assert glm.bytes_by_role["mtp"] == sum(t.info.n_bytes for t in glm.tensors if t.layer == 46)


@pytest.mark.parametrize(
    ("name", "kv", "state"),
    [
        # MEMORY.md: GQA 2 * layers * heads * size * 2 B; MLA 576 * 61 * 2 B; hybrids on their full layers.
        ("Qwen3-30B-A3B-Q4_K_M", 2 * 48 * 4 * 128 * 2, 0),
        ("DeepSeek-V3.1-Q4_K_M", 61 * 576 * 2, 0),
        ("Qwen3.5-35B-A3B-Q4_K_M", 2 * 10 * 2 * 256 * 2, 65_863_680),
        ("gpt-oss-20b-MXFP4", 2 * 12 * 8 * 64 * 2, 0),
    ],
)
def test_cache_bytes(name: str, kv: int, state: int) -> None:
    model = load(name)
    assert anatomy.kv_bytes_per_token(model, F16, F16) == kv
    assert anatomy.state_bytes(model) == state
    assert anatomy.state_bytes(model, n_seq=4) == 4 * state


def test_quantized_cache_rows_must_be_whole_blocks() -> None:
    model = load("OLMoE-1B-7B-Q4_K_M")
    q8 = quants.BY_NAME["Q8_0"]
    assert anatomy.kv_bytes_per_token(model, q8, q8) == anatomy.kv_bytes_per_token(model, F16, F16) * 34 / 64
    with pytest.raises(ValueError, match="whole blocks"):
        anatomy.kv_bytes_per_token(load("DeepSeek-V3.1-Q4_K_M"), quants.BY_NAME["Q4_K"], F16)


def test_tied_embeddings_are_read_whole() -> None:
    gemma, olmoe = load("Gemma-3-27B-Q4_K_M"), load("OLMoE-1B-7B-Q4_K_M")
    assert gemma.tied
    assert gemma.n_params_active == gemma.n_params
    assert not olmoe.tied
    embedding = next(t for t in olmoe.tensors if t.info.name == "token_embd.weight")
    routed = olmoe.bytes_by_role["routed experts"]
    one_row = quants.row_bytes(embedding.info.type, embedding.info.shape[0])
    rest = olmoe.weights_bytes - embedding.info.n_bytes - routed
    assert olmoe.bytes_per_token == rest + one_row + routed * 8 // 64


# --- roles --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("token_embd.weight", "embedding"),
        ("token_embd_norm.weight", "norm"),
        ("blk.3.attn_q.weight", "attention"),
        ("blk.3.attn_q_norm.weight", "norm"),
        ("blk.3.attn_kv_a_mqa.weight", "attention"),
        ("blk.3.indexer.attn_k.weight", "attention"),
        ("blk.3.indexer.k_norm.bias", "norm"),
        ("blk.3.ffn_gate_inp.weight", "router"),
        ("blk.3.exp_probs_b.bias", "router"),
        ("blk.3.ffn_gate_inp_shexp.weight", "shared experts"),
        ("blk.3.ffn_up_exps.weight", "routed experts"),
        ("blk.3.ffn_gate_up_exps.weight", "routed experts"),
        ("blk.3.ffn_down_chexps.weight", "routed experts"),
        ("blk.3.ffn_down.7.weight", "routed experts"),
        ("blk.3.ffn_norm_exps.weight", "norm"),
        ("blk.3.ffn_down_shexp.weight", "shared experts"),
        ("blk.3.ffn_down.weight", "dense ffn"),
        ("blk.3.ssm_conv1d.weight", "recurrent"),
        ("blk.3.ssm_a", "recurrent"),
        ("blk.3.shortconv.in_proj.weight", "recurrent"),
        ("blk.3.hc_attn_fn.weight", "residual"),
        ("blk.3.nextn.eh_proj.weight", "mtp"),
        ("blk.3.vis_up.weight", "vision"),
        ("v.blk.0.attn_q.weight", "vision"),
        ("output.weight", "output"),
        ("output_norm.weight", "norm"),
        ("blk.3.brand_new.weight", "unknown"),
        ("something", "unknown"),
    ],
)
def test_roles_by_name(name: str, role: str) -> None:
    assert role_of(name) == role


def test_every_tensor_name_of_the_gguf_package_has_a_role() -> None:
    constants = pytest.importorskip("gguf.constants")
    text_model = (n for n in constants.TENSOR_NAMES.values())
    names = [name.format(bid=3, xid=2) + ".weight" for name in text_model]
    assert [name for name in names if role_of(name) == "unknown"] == []


def test_part_of() -> None:
    assert part_of("dec.blk.12.cross_attn_q.weight") == "cross_attn_q.weight"
    assert part_of("enc.output_norm.weight") == "output_norm.weight"


# --- made-up files ------------------------------------------------------------------------------------------


def made(metadata: dict[str, Typed], tensors: list[Row]) -> anatomy.Anatomy:
    return anatomy.make_anatomy(
        gguf.read_header(io.BytesIO(Builder(metadata=metadata, tensors=tensors).file()))
    )


BASE = {
    "general.architecture": text("new"),
    "new.block_count": u32(2),
    "new.embedding_length": u32(64),
    "new.attention.head_count": u32(4),
}


def test_an_unheard_of_architecture_is_read_by_its_tensors() -> None:
    model = made(BASE, [Row("blk.0.attn_q.weight", (64, 64)), Row("blk.1.ssm_in.weight", (64, 64), 0, 16384)])
    assert [layer.mixer for layer in model.layers] == ["full", "recurrent"]
    assert (model.layers[0].head_k, model.layers[0].n_head_kv) == (16, 4)
    assert model.layers[0].cache == (anatomy.CacheRow(64, 64, v_padded=64),)


def test_an_unknown_tensor_is_counted_and_named() -> None:
    model = made(BASE, [Row("blk.0.mystery.weight", (64, 64))])
    assert model.unknown == ("blk.0.mystery.weight",)
    assert model.n_params == model.n_params_active == 4096
    assert model.bytes_by_role == {"unknown": 16384}


def test_sliding_pattern_arrays_and_periods() -> None:
    pattern = {"new.attention.sliding_window": u32(512)}
    array = Typed(ARRAY, [True, False], 7)
    model = made({**BASE, **pattern, "new.attention.sliding_window_pattern": array}, [])
    assert [layer.window for layer in model.layers] == [512, 0]
    # A window without a pattern, in an architecture of which nothing is known, is no promise.
    assert [layer.window for layer in made({**BASE, **pattern}, []).layers] == [0, 0]


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"general.architecture": Typed(4, 7)},
        {**BASE, "new.block_count": u32(4_000_000_000)},
    ],
)
def test_headers_of_no_model_are_refused(metadata: dict[str, Typed]) -> None:
    with pytest.raises(HeaderError):
        made(metadata, [])


def test_nonsense_numbers_do_no_harm() -> None:
    nonsense: dict[str, Typed] = {
        **BASE,
        "new.attention.head_count": Typed(ARRAY, [4], 4),
        "new.attention.head_count_kv": Typed(5, -3),
        "new.expert_count": u32(4_000_000_000),
        "new.expert_used_count": u32(4_294_967_295),
        "new.nextn_predict_layers": u32(9),
        "new.attention.sliding_window_pattern": text("?"),
    }
    model = made(
        nonsense,
        [Row("blk.7.attn_q.weight", (64, 64)), Row("blk.1.ffn_up_exps.weight", (64, 2, 2), 0, 16384)],
    )
    assert model.n_layer == 0
    assert model.n_params == 4352
