"""The type table against two others: the gguf package's and the loaded llama.cpp's."""

from __future__ import annotations

import ctypes

import pytest

from moetool import quants
from moetool.engine.library import library


def test_table_equals_the_gguf_package() -> None:
    constants = pytest.importorskip("gguf.constants")
    for kind, (block_size, block_bytes) in constants.GGML_QUANT_SIZES.items():
        ours = quants.quant_by_id(int(kind))
        assert ours is not None
        if kind.name == "Q8_1":
            continue  # the package still has the F32 pair of old; ggml's block holds two F16 (36 bytes)
        assert (ours.name, ours.block_size, ours.block_bytes) == (kind.name, block_size, block_bytes)


def test_table_equals_llama_cpp() -> None:
    lib = library()._lib
    lib.ggml_type_size.restype = ctypes.c_size_t
    lib.ggml_blck_size.restype = ctypes.c_int64
    lib.ggml_type_name.restype = ctypes.c_char_p
    for quant in quants.QUANT_TYPES:
        assert lib.ggml_type_size(quant.id) == quant.block_bytes, quant
        assert lib.ggml_blck_size(quant.id) == quant.block_size, quant
        assert lib.ggml_type_name(quant.id).decode().upper() == quant.name
    known = {n for n in range(43) if lib.ggml_blck_size(n)}
    assert known == set(quants.BY_ID)


def test_file_types_equal_the_gguf_package() -> None:
    constants = pytest.importorskip("gguf.constants")
    for kind in constants.LlamaFileType:
        name = kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
        assert quants.file_type_name(int(kind)) == (None if name == "GUESSED" else name) or name == "GUESSED"


def test_lookups_ignore_case_and_admit_ignorance() -> None:
    assert quants.quant_by_name("q4_k") is quants.quant_by_name("Q4_K")
    assert quants.quant_by_name("Q4_K_M") is None
    assert quants.quant_by_id(4) is None
    assert quants.quant_by_id(-1) is None
    assert quants.file_type_name(4) is None
    assert quants.file_type_name(15) == quants.file_type_name(15 | 1024) == "Q4_K_M"


def test_row_bytes() -> None:
    q8 = quants.BY_NAME["Q8_0"]
    assert quants.row_bytes(q8, 4096) == 4352
    assert q8.bits_per_weight == 8.5
    assert str(q8) == "Q8_0"
    with pytest.raises(ValueError, match="whole blocks"):
        quants.row_bytes(q8, 33)
