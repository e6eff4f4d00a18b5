"""Reading while routing is counted: texts in chunks as llama-imatrix reads them, answers as they grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moetool.engine.model import Engine
from moetool.engine.reading import TextReader
from moetool.engine.routing import RoutingWatch
from moetool.lab.tally import Tally


class RoutingReader:
    """An engine that is watched while it reads and writes. Its settings have room for the logits of several
    tokens (`n_outputs_max`): only tokens whose logits are wanted get to the last layer's router."""

    def __init__(
        self, engine: Engine, n_expert: int, is_cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        self._watch = RoutingWatch(n_expert)
        engine.use_watch(self._watch.watch)
        self._engine = engine
        self._reader = TextReader(engine, is_cancelled)
        self.tally = Tally()

    def read_text(
        self, name: str, tokens: Sequence[int], n_chunk: int, on_chunk: Callable[[], None] = lambda: None
    ) -> None:
        """Count a text, each chunk of it read by itself; with the model's start token, where it wants one, in
        place of the chunk's first (tools/imatrix/imatrix.cpp, compute_imatrix)."""
        vocabulary = self._engine.vocabulary
        self.tally.begin(name)
        for start in range(0, len(tokens), n_chunk):
            chunk = list(tokens[start : start + n_chunk])
            if vocabulary.adds_bos:
                chunk[0] = vocabulary.bos
            self._read(chunk)
            on_chunk()

    def read_and_write(self, prompt: Sequence[int], most_tokens: int) -> list[int]:
        """Count a prompt, and the most probable answer to it as it is written, as far as the context goes;
        returns the answer."""
        self.tally.begin("prompt")
        self._read(prompt)
        answer: list[int] = []
        token = self._engine.sample()
        most_tokens = min(most_tokens, self._engine.n_ctx - len(prompt))
        while len(answer) < most_tokens and not self._engine.is_end(token):
            self._engine.decode([token])
            answer.append(token)
            token = self._engine.sample()
        if answer:
            self.tally.begin("answer")
            self.tally.add(self._watch.take(len(answer)))
        return answer

    def _read(self, tokens: Sequence[int]) -> None:
        for _ in self._reader.read(tokens, 0, self._reader.n_rows):
            pass
        self.tally.add(self._watch.take(len(tokens)))
