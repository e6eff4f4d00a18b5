"""`moetool inspect`: what it tells people and scripts of published headers, on disk and on the Hub."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from cli_fixture import Moetool
from hub_fixture import HubWorld
from quant_repo import quant_file, vocabulary
from rich.console import Console
from rich.table import Table

from moetool.anatomy import Anatomy, make_anatomy
from moetool.gguf import open_header
from moetool.machine import Device
from moetool.memory import cache_sizes, device_memory
from moetool.render.anatomy import BAR_CELLS, Bar, bar, show_anatomy, show_layers
from moetool.render.fitted import columns, filled_columns
from moetool.report.models import of_anatomy
from moetool.settings import Settings

HEADERS = Path(__file__).parent / "data" / "headers"
CPU = Device("CPU", "", "cpu", 1 << 40, 1 << 40)


def load(name: str) -> Anatomy:
    return make_anatomy(open_header(HEADERS / f"{name}.gguf.hdr"))


def shown(anatomy: Anatomy, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What stands behind each heading and role."""
    show_anatomy(anatomy)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 24  # one screen
    return {line[:14].strip(): line[14:].strip() for line in lines}


def test_a_mixture_of_experts_on_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    facts = shown(load("Qwen3-30B-A3B-Q4_K_M"), capsys)
    assert facts["Layers"] == "48: 48 × full attention + MoE"
    assert facts["Experts"] == "8 of 128 used, in 48 layers"
    assert facts["Weights"] == "17.3 GiB, 1.79 GiB read a token"
    # 48 layers × 2 × 4 heads × 128 values, 2 bytes each; q8_0 34 and q4_0 18 bytes for 32.
    assert facts["KV cache"] == "96.0 KiB at f16, 51.0 KiB at q8_0, 27.0 KiB at q4_0 a token of context"
    assert "community heuristic" in facts["Feels like"]
    assert facts["routed experts"].split()[:6] == ["29.0", "B", "16.3", "GiB", "94.6%", "1.02"]
    assert "State" not in facts


def test_kinds_of_memory_have_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    hybrid = shown(load("Qwen3.5-35B-A3B-Q4_K_M"), capsys)
    assert hybrid["State"] == "62.8 MiB a sequence, however long it is"
    assert hybrid["Layers"].startswith("40: 30 × recurrent state + MoE, 10 × full attention")
    sliding = shown(load("gpt-oss-20b-MXFP4"), capsys)
    assert sliding["Windows"].startswith("of 128 tokens keep 3.00 MiB at f16")
    assert "Feels like" not in shown(load("Gemma-3-27B-Q4_K_M"), capsys)


@pytest.mark.parametrize("path", sorted(HEADERS.glob("*.hdr")), ids=lambda path: path.name[:-9])
def test_cache_sizes_are_what_a_placement_pays(path: Path) -> None:
    anatomy = make_anatomy(open_header(path))
    assert cache_sizes(anatomy)
    for size in cache_sizes(anatomy):
        kv_bytes = []
        for n_ctx in (1 << 20, 1 << 21):
            settings = Settings(n_ctx=n_ctx, type_k=size.type, type_v=size.type)
            (memory,) = device_memory(anatomy, settings, [CPU])
            kv_bytes.append(memory.kv_bytes)
        assert kv_bytes[1] - kv_bytes[0] == size.per_token_bytes * (1 << 20)


def test_the_document_names_every_tensor_and_adds_up() -> None:
    anatomy = load("gpt-oss-20b-MXFP4")
    document = of_anatomy(anatomy)
    by_role: Counter[str] = Counter()
    for tensor in document["tensors"]:
        by_role[tensor["role"]] += tensor["bytes"]
    assert by_role == document["bytes_by_role"]
    assert sum(document["read_by_role"].values()) == document["bytes_per_token"]
    experts = document["bytes_by_role"]["routed experts"]
    assert document["read_by_role"]["routed experts"] == experts * 4 // 32
    assert document["kv_bytes_per_token"]["f16"] == 12 * 2 * 8 * 64 * 2
    assert document["kv_window_bytes"]["f16"] == 128 * document["kv_bytes_per_token"]["f16"]
    assert document["state_bytes"] == 0
    hybrid = of_anatomy(load("Qwen3.5-35B-A3B-Q4_K_M"))
    assert hybrid["state_bytes"] == sum(layer["state_bytes"] for layer in hybrid["layers"]) == 65_863_680


def test_projections_of_a_recurrent_layer_are_not_attention() -> None:
    anatomy = load("Qwen3.5-35B-A3B-Q4_K_M")
    attending = {layer.index for layer in anatomy.layers if layer.mixer == "full"}
    assert {t.layer for t in anatomy.tensors if t.role == "attention"} == attending


def test_a_type_that_would_be_refused_is_left_out() -> None:
    anatomy = load("Qwen3-30B-A3B-Q4_K_M")
    # Rows are whole blocks of 32 values still; heads are not.
    odd = replace(anatomy, layers=tuple(replace(layer, head_k=80) for layer in anatomy.layers))
    assert [size.type for size in cache_sizes(odd)] == ["f32", "f16", "bf16"]


def test_unknown_tensors_are_counted_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    names = tuple(f"blk.{i}.whatever" for i in range(9))
    show_anatomy(replace(load("OLMoE-1B-7B-Q4_K_M"), unknown=names))
    text = " ".join(capsys.readouterr().out.split())
    assert "Tensors: 9 of unknown role" in text
    assert text.endswith("blk.7.whatever, …")


def test_bars_show_what_is_read_within_what_is_held() -> None:
    assert bar(0.5, 1.0) == "█" * (BAR_CELLS // 2) + "░" * (BAR_CELLS // 2)
    assert bar(1 / 64, 1 / 64) == "▌"
    assert bar(0.0, 0.001) == ""


@pytest.mark.parametrize("width", [30, 60, 80])
def test_narrow_tables_lose_no_figure(width: int) -> None:
    """What does not fit goes on below; a column in which nothing stands is left out."""
    heads = ("device", "weights", "KV", "compute", "free")
    rows = [("CPU", "39.2 GiB", "–", "96.0 MiB", "64.0 GiB"), ("CUDA0", "16.4 GiB", "4.62 GiB", "–", "–")]
    table = filled_columns([*heads, "state"], [(*row, "–") for row in rows], left={"device"})
    text = printed(table, width)
    assert Counter("".join(text.split())) == Counter("".join(map("".join, (heads, *rows))).replace(" ", ""))
    assert max(map(len, text.splitlines())) <= width


def test_bars_shorten_with_their_column_all_alike() -> None:
    table = columns(("role", "bar"), left={"role", "bar"})
    for share in (1.0, 0.5):
        table.add_row("role", Bar(0.0, share))
    first, second = (line.count("░") for line in printed(table, 22).splitlines()[1:])
    assert (first, second) == (16, 8)  # 22 less a role and a gap


def printed(table: Table, width: int) -> str:
    with Console(width=width, file=io.StringIO()) as screen, screen.capture() as captured:
        screen.print(table)
    return captured.get()


def test_the_table_of_layers(capsys: pytest.CaptureFixture[str]) -> None:
    show_layers(load("Qwen3.5-35B-A3B-Q4_K_M").layers[2:4])
    _, head, recurrent, full = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["layer", "mixer", "ffn"]
    assert "window" not in head  # this model has none
    assert recurrent.split()[:6] == ["2", "recurrent", "moe", "–", "–", "–"]
    assert full.split()[:6] == ["3", "full", "moe", "16", "2", "256/256"]


def test_a_quant_on_the_hub_is_read_by_its_header(moetool_here: Moetool, world: HubWorld) -> None:
    words = vocabulary(2000)
    files = {f"model-{q}.gguf": quant_file("Qwen3-30B-A3B", q, words) for q in ("Q8_0", "Q4_K_M")}
    world.server.put("org/model-GGUF", files)  # type: ignore[arg-type]
    done = moetool_here("inspect", "org/model-GGUF:Q8_0", HF_ENDPOINT=world.server.url)
    assert done.code == 0, done.err
    assert "Q8_0, 8.5" in done.out
    assert done.err.startswith("org/model-GGUF:Q8_0 on the Hub, ")
    # No quant named: the usual one.
    named = moetool_here("inspect", "org/model-GGUF", "-o", "json", HF_ENDPOINT=world.server.url)
    assert named.document["data"]["quant"] == "Q4_K_M"
    missing = moetool_here("inspect", "org/model-GGUF:Q2_K", HF_ENDPOINT=world.server.url)
    assert (missing.code, missing.out) == (5, "")
