"""Drawing tokens by a rule: the tokens that masking all logits first would give, whatever is asked for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from moetool.assets import demo_model_path
from moetool.cli.answer import grammar_maker
from moetool.cli.task import Task
from moetool.constrain import parse_grammar
from moetool.engine.grammar import LlamaGrammar
from moetool.engine.model import Engine
from moetool.engine.sampling import likeliest, likeliest_allowed, likely_allowed
from moetool.errors import ConstraintError, OutputInvalid
from moetool.settings import Sampling, Settings


class Only:
    """A rule that allows some tokens, and counts how it is asked."""

    def __init__(self, ids: np.ndarray) -> None:
        self._ids = ids
        self._known = set(ids.tolist())
        self.n_asked = self.n_listed = 0

    def accepts(self, token: int) -> bool:
        self.n_asked += 1
        return token in self._known

    def allowed(self) -> np.ndarray:
        self.n_listed += 1
        return self._ids


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine([demo_model_path()], Settings(n_ctx=256, n_threads=1), "qwen3moe") as loaded:
        loaded.decode([5, 6, 7])
        yield loaded


SAMPLINGS = [
    Sampling(temperature=0),
    Sampling(seed=3),
    Sampling(temperature=2, top_k=5, min_p=0, seed=4),
    Sampling(temperature=2, top_k=0, seed=5),
    Sampling(temperature=2, top_k=0, top_p=1, min_p=0, seed=6),
    Sampling(top_k=150, seed=7),
    Sampling(temperature=1.5, repeat_penalty=1.5, seed=8),
    Sampling(temperature=0, repeat_penalty=1.5),
]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.97])
def test_a_rule_draws_what_masking_first_draws(engine: Engine, sampling: Sampling, share: float) -> None:
    dice = np.random.default_rng(round(share * 100))
    n = engine.n_vocab
    cases = [
        (dice.normal(size=n).astype(np.float32) * 4, np.flatnonzero(dice.random(n) < share))
        for _ in range(25)
    ]

    def draw(*, is_masked: bool) -> list[int]:
        engine.use_sampling(sampling)
        drawn = []
        for values, ids in cases:
            logits = engine.logits()
            logits[:] = values
            if is_masked:
                logits[np.setdiff1d(np.arange(n), ids)] = -np.inf
            drawn.append(engine.sample(None if is_masked else Only(ids)))
        return drawn

    assert draw(is_masked=False) == draw(is_masked=True)


def test_likely_tokens_are_asked_for_one_by_one_unless_many_are_refused() -> None:
    logits = np.random.default_rng(1).normal(size=20_011).astype(np.float32)
    descending = np.argsort(-logits)
    assert likeliest(logits, 40).tolist() == descending[:40].tolist()
    most = Only(np.delete(np.arange(len(logits)), descending[[0, 4]]))
    assert likely_allowed(logits, most, 40) == [*descending[1:4], *descending[5:42]]
    assert (most.n_listed, most.n_asked) == (0, 42)
    few = Only(np.sort(descending[1000:1010]))
    assert sorted(likely_allowed(logits, few, 40)) == sorted(descending[1000:1010])
    assert (few.n_listed, few.n_asked) == (1, 9)
    assert likeliest_allowed(logits, most) == descending[1]
    assert likeliest_allowed(logits, few) == descending[1000]


@pytest.mark.parametrize("text", ["-12.5", "0"])
def test_llama_cpps_own_grammar_engine_allows_what_the_other_does(engine: Engine, text: str) -> None:
    constraint, vocabulary = parse_grammar("number"), engine.vocabulary
    theirs = LlamaGrammar(vocabulary, constraint.source)
    ours = grammar_maker(engine, Task(constraint))()
    assert ours is not None
    start = theirs.copy()
    for token in vocabulary.tokenize(text):
        assert theirs.allowed().tolist() == ours.allowed().tolist()
        assert theirs.is_complete() == ours.is_complete()
        assert theirs.accepts(token)
        for grammar in (ours, theirs):
            grammar.commit(token)
    assert theirs.is_complete()
    assert theirs.closing(9) == b""
    assert theirs.is_sentence(text.encode())
    assert not theirs.is_sentence(b"1.")
    assert not start.is_complete()
    assert start.closing(9) is None
    with pytest.raises(OutputInvalid):
        start.commit(vocabulary.tokenize("x")[0])
    with pytest.raises(ConstraintError, match="llama.cpp cannot read the grammar"):
        LlamaGrammar(vocabulary, 'root ::= missing "a"')


def test_equal_logits_go_by_number_and_the_end_of_a_vocabulary_counts() -> None:
    logits = np.zeros(64 * 50 + 7, dtype=np.float32)
    assert likeliest(logits, 3).tolist() == [0, 1, 2]
    logits[-1] = 1
    assert likeliest(logits, 2).tolist() == [len(logits) - 1, 0]
