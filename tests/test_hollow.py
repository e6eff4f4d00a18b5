"""Headers written again without a vocabulary: they say the same, and llama.cpp lays the model out by them."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from moetool.anatomy import make_anatomy
from moetool.engine.dry_run import dry_run
from moetool.gguf import hollow_file, open_header, read_header
from moetool.machine import Device
from moetool.memory import device_memory
from moetool.settings import Settings

HEADERS = sorted((Path(__file__).parent / "data" / "headers").glob("*.hdr"))
CPU = Device("CPU", "cpu", "cpu", 1 << 44, 1 << 44)


@pytest.mark.parametrize("path", HEADERS, ids=lambda path: path.name.partition("-Q4")[0])
def test_the_same_model_comes_back(path: Path) -> None:
    header = open_header(path)
    anatomy = make_anatomy(header)
    head, size_bytes = hollow_file(header, anatomy.n_vocab)
    again = read_header(io.BytesIO(head), size_bytes)
    assert again.file_bytes == size_bytes
    assert [(t.name, t.shape, t.type, t.n_bytes) for t in again.tensors] == [
        (t.name, t.shape, t.type, t.n_bytes) for t in header.tensors
    ]
    kept = {k: v for k, v in header.metadata.items() if k in again.metadata and "tokenizer" not in k}
    assert kept == {k: again.metadata[k] for k in kept}
    assert make_anatomy(again).layers == anatomy.layers


@pytest.mark.parametrize("part", ["OLMoE", "granite"])
def test_llama_cpp_allocates_for_it_what_is_predicted(part: str, tmp_path: Path) -> None:
    header = open_header(next(path for path in HEADERS if part in path.name))
    anatomy = make_anatomy(header)
    head, size_bytes = hollow_file(header, anatomy.n_vocab)
    path = tmp_path / "header.gguf"
    path.write_bytes(head)
    os.truncate(path, size_bytes)
    settings = Settings(n_ctx=4096, n_threads=1)
    dry = dry_run([path], settings, anatomy.arch)
    (row,) = device_memory(anatomy, settings, [CPU])
    assert dry.kv_bytes == pytest.approx(row.kv_bytes, abs=1 << 14)
    assert dry.compute_bytes()["CPU"] == pytest.approx(row.compute_bytes, rel=0.01)
