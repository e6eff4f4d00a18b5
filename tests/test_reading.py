"""Reading a text: the logits after each of its tokens are those of reading so far, whatever the memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_model import write_tiny_model

from moetool.engine.model import Engine
from moetool.engine.reading import TextReader
from moetool.errors import ContextFull, Interrupted
from moetool.settings import Settings

TEXT = np.random.default_rng(0).integers(5, 120, 90).tolist()
SETTINGS = Settings(n_ctx=256, n_batch=64, n_ubatch=64, n_threads=1, n_outputs_max=40)


@pytest.mark.parametrize("name", ["olmo2-dense", "nemotron_h-dense"])  # windows; states
def test_each_row_is_what_is_expected_after_its_token(name: str, tmp_path: Path) -> None:
    arch = write_tiny_model(tmp_path / "model.gguf", name)
    with Engine([tmp_path / "model.gguf"], SETTINGS, arch) as engine:
        reader = TextReader(engine)
        assert reader.n_rows == 40
        for _ in range(2):  # a text is read from its beginning, whatever was read before
            blocks = [block.copy() for block in reader.read(TEXT, 30, 25)]
            assert [len(block) for block in blocks] == [25, 25, 10]
            rows = np.concatenate(blocks)
        for last in (30, 31, 54, 55, 89):
            engine.rewind(0)
            engine.decode(TEXT[: last + 1])
            expected = engine.logits()
            assert np.abs(rows[last - 30] - expected).max() < 0.01 * np.abs(expected).max()


def test_reading_ends_when_it_is_cancelled(tmp_path: Path) -> None:
    arch = write_tiny_model(tmp_path / "model.gguf", "olmo2-dense")
    with Engine([tmp_path / "model.gguf"], SETTINGS, arch) as engine:
        cancelled = iter([False, False, *[True] * 99])
        blocks = TextReader(engine, lambda: next(cancelled)).read(TEXT, 30, 25)
        with pytest.raises(Interrupted):
            list(blocks)


def test_a_text_that_is_longer_than_the_context_is_refused_as_such(tmp_path: Path) -> None:
    arch = write_tiny_model(tmp_path / "model.gguf", "olmo2-dense")
    with Engine([tmp_path / "model.gguf"], SETTINGS, arch) as engine:
        with pytest.raises(ContextFull, match="context of 256 tokens is full"):
            list(TextReader(engine).read(TEXT * 3, 0, 40))
        assert len(list(TextReader(engine).read(TEXT, 0, 40))) == 3
