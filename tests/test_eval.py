"""Quality: perplexity and divergence as defined, estimated from a few bytes, kept where nobody is trusted."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from documents import check_document, parse_strictly

from moetool.bench.report import Benchmark, Judged
from moetool.errors import EngineError, ReferenceUnusable, UsageError
from moetool.eval import (
    KeptReference,
    LiveReference,
    Quality,
    ReferenceWriter,
    Source,
    make_chunks,
    measure_quality,
    summarize,
)
from moetool.eval.figures import Figure
from moetool.eval.logits import Compared, Floats, Logits, compare_logits, negative_log_likelihoods
from moetool.eval.passes import Scores
from moetool.eval.sketch import make_sketch
from moetool.kept_records import append_record
from moetool.render.page import make_page
from moetool.report.benchmarks import of_bench
from moetool.report.envelope import envelope

N_VOCAB, N_CTX = 1200, 64


class MadeUpReader:
    """A model that was not: logits by a random rule of the last token and its place, disturbed a little."""

    n_vocab, n_rows = N_VOCAB, 10

    def __init__(self, noise: float) -> None:
        random = np.random.default_rng(7)
        self._base = random.gumbel(scale=2.5, size=(97, N_VOCAB)).astype(np.float32)
        self._noise = random.normal(scale=noise, size=(89, N_VOCAB)).astype(np.float32)

    def read(self, tokens: Sequence[int], first: int, n_rows: int) -> Iterator[Logits]:
        for start in range(first, len(tokens), n_rows):
            at = np.arange(start, min(start + n_rows, len(tokens)))
            rule = np.array(tokens)[at] * 31 + at
            yield self._base[rule % 97] + self._noise[rule % 89]


def log_softmax(logits: Logits) -> Floats:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    found: Floats = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return found


def made_up_text(n_chunks: int = 40) -> list[int]:
    return np.random.default_rng(3).integers(N_VOCAB, size=n_chunks * N_CTX + 5).tolist()


def test_a_text_is_cut_as_llama_perplexity_cuts_it() -> None:
    chunks = make_chunks(range(21), 8, bos=99)
    assert chunks.tokens.tolist() == [list(range(8)), list(range(8, 16))]
    # The second half is scored: what comes after positions 4, 5 and 6; BOS stands in for the first token.
    assert (chunks.first, chunks.n_scored) == (4, 3)
    assert chunks.given(1) == [99, 9, 10, 11, 12, 13, 14]
    assert chunks.targets(1).tolist() == [13, 14, 15]
    assert make_chunks(range(21), 8, bos=None).given(1)[0] == 8
    with pytest.raises(UsageError, match="15 tokens: too few for two chunks of 8"):
        make_chunks(range(15), 8, bos=None)


def test_likelihood_and_divergence_are_those_of_the_definitions_also_where_tokens_are_impossible() -> None:
    random = np.random.default_rng(1)
    p, q = random.normal(scale=4, size=(2, 50, N_VOCAB)).astype(np.float32)
    p[:, 5], q[:, 5] = -np.inf, -np.inf
    targets = np.arange(50, dtype=np.int32) + 10
    log_p, log_q = log_softmax(p), log_softmax(q)
    possible = np.isfinite(log_p)
    expected = np.zeros_like(log_p)
    expected[possible] = np.exp(log_p[possible]) * (log_p[possible] - log_q[possible])
    found = compare_logits(p, q, targets)
    assert found.kld == pytest.approx(expected.sum(axis=1), rel=1e-5)
    assert (found.same_top == (p.argmax(axis=1) == q.argmax(axis=1))).all()
    assert found.nll_reference == pytest.approx(-log_p[np.arange(50), targets], rel=1e-6)
    assert negative_log_likelihoods(q, targets) == pytest.approx(-log_q[np.arange(50), targets], rel=1e-6)
    with pytest.raises(EngineError, match="not numbers"):
        negative_log_likelihoods(np.full((1, 4), np.nan, np.float32), targets[:1])


@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
def test_divergence_is_estimated_from_a_fiftieth_of_the_bytes(noise: float) -> None:
    """Of models far and near; top tokens and a lump for the rest would lose a tenth and more."""
    chunks = make_chunks(made_up_text(), N_CTX, bos=None)
    base, other = MadeUpReader(0), MadeUpReader(noise)
    stream = io.BytesIO()
    with ReferenceWriter(stream, Source("base", "", "", N_VOCAB), chunks) as writer:
        alone = measure_quality(base, chunks, keeper=writer)
    assert alone.compared is None
    llama_perplexity_bytes = chunks.n_chunks * (chunks.n_scored * 2 * (N_VOCAB + 4) + 4 * N_CTX)
    assert len(stream.getvalue()) < 0.02 * llama_perplexity_bytes

    exact = measure_quality(other, chunks, LiveReference(base)).compared
    estimated = measure_quality(other, chunks, KeptReference(stream)).compared
    assert exact is not None
    assert estimated is not None
    assert estimated.kld.mean() == pytest.approx(exact.kld.mean(), rel=0.01)
    assert np.quantile(estimated.kld, 0.9) == pytest.approx(np.quantile(exact.kld, 0.9), rel=0.1)
    assert (estimated.same_top == exact.same_top).all()
    assert estimated.nll_reference == pytest.approx(exact.nll_reference, abs=1 / 2048)


def test_figures_are_those_of_all_tokens_and_intervals_those_of_chunks() -> None:
    """95 % of intervals hold the truth, of tokens that hang together; ± as of independent ones would not."""
    random = np.random.default_rng(5)
    hits = tokens_hit = 0
    for _ in range(200):
        nll = 1 + random.normal(scale=0.3, size=(25, 1)) + random.exponential(scale=0.5, size=(25, 40))
        found = summarize(Scores(nll), 64).ppl
        assert found.value == pytest.approx(np.exp(nll.mean()))
        hits += found.low < np.exp(1.5) < found.high
        tokens_hit += abs(nll.mean() - 1.5) < 1.96 * nll.std() / nll.size**0.5
    assert 0.92 <= hits / 200 <= 0.98
    assert tokens_hit / 200 < 0.6


def test_a_token_held_impossible_makes_figures_infinite_and_null_in_documents(tmp_path: Path) -> None:
    expected, targets = np.zeros((60, 40), np.float32), np.arange(60, dtype=np.int32) % 40
    found = expected.copy()
    found[0, 0] = -np.inf
    exact, kept = compare_logits(expected, found, targets), make_sketch(expected, targets, 1)
    nll = negative_log_likelihoods(found, targets).reshape(6, 10)
    for one in (exact, kept.compare(found, targets)):
        parts = (part.reshape(6, 10) for part in (one.kld, one.same_top, one.nll_reference))
        quality = summarize(Scores(nll, Compared(*parts)), 20)
        assert quality.kld is not None
        assert quality.ppl.value == quality.kld.mean.value == quality.kld.max == np.inf
        assert quality.kld.median.value < 1e-6
    data = of_bench(Benchmark((), judged=(Judged({}, quality, "base"),)))
    check_document(parse_strictly(json.dumps(envelope("bench", data)))["data"])
    figures = data["quality"][0]
    assert figures["ppl"] == figures["kld"]["mean"] == {"value": None, "low": None, "high": None}
    assert "infinite" in make_page(data)
    append_record(tmp_path / "kept.jsonl", {"kld": quality.kld.mean.value})
    assert parse_strictly((tmp_path / "kept.jsonl").read_text()) == {"kld": None}


def test_quantiles_and_shares() -> None:
    chunks = make_chunks(made_up_text(), N_CTX, bos=None)
    scores = measure_quality(MadeUpReader(0.5), chunks, LiveReference(MadeUpReader(0)))
    quality = summarize(scores, N_CTX)
    assert scores.compared is not None
    assert quality.kld is not None
    kld = scores.compared.kld
    assert quality.n_tokens == kld.size == 40 * 31
    for share, found in ((0.5, quality.kld.median), (0.9, quality.kld.p90), (0.99, quality.kld.p99)):
        assert found.value == pytest.approx(np.quantile(kld, share))
        assert found.low < found.value < found.high
    assert quality.kld.max == kld.max()
    assert 0 <= quality.kld.same_top.low <= quality.kld.same_top.value <= quality.kld.same_top.high <= 1
    assert quality.kld.ppl_ratio.value == pytest.approx(quality.ppl.value / quality.kld.ppl_reference)


# -- files from anyone ----------------------------------------------------------------------------------


def kept_file() -> bytes:
    chunks = make_chunks(made_up_text(2), N_CTX, bos=1)
    stream = io.BytesIO()
    with ReferenceWriter(stream, Source("base", "m", "v", N_VOCAB), chunks) as writer:
        measure_quality(MadeUpReader(0), chunks, keeper=writer)
    return stream.getvalue()


def read_all(data: bytes) -> None:
    kept = KeptReference(io.BytesIO(data))
    measure_quality(MadeUpReader(0), kept.chunks, kept)


def sealed(data: bytes) -> bytes:
    return data + hashlib.sha256(data).digest()


def test_a_file_tells_what_it_is_of() -> None:
    kept = KeptReference(io.BytesIO(kept_file()))
    assert kept.source == Source("base", "m", "v", N_VOCAB)
    assert kept.chunks.digest == make_chunks(made_up_text(2), N_CTX, bos=1).digest


def test_damage_anywhere_is_noticed() -> None:
    data = kept_file()
    for at in range(0, len(data), max(1, len(data) // 60)):
        with pytest.raises(ReferenceUnusable):
            read_all(data[:at])
        with pytest.raises(ReferenceUnusable):
            read_all(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])


def lie(change: Callable[[dict[str, object]], object]) -> bytes:
    """The file with another header, sealed again."""
    data = kept_file()
    length = int.from_bytes(data[12:16], "little")
    about = json.loads(data[16 : 16 + length])
    change(about)
    header = json.dumps(about).encode()
    return sealed(data[:12] + len(header).to_bytes(4, "little") + header + data[16 + length : -32])


def with_section(number: int, content: bytes) -> bytes:
    """The file with another section, sealed again."""
    data = kept_file()
    start = 16 + int.from_bytes(data[12:16], "little")
    for _ in range(number):
        start += 4 + int.from_bytes(data[start : start + 4], "little")
    end = start + 4 + int.from_bytes(data[start : start + 4], "little")
    return sealed(data[:start] + len(content).to_bytes(4, "little") + content + data[end:-32])


LIES: dict[str, Callable[[], bytes]] = {
    "no header": lambda: sealed(kept_file()[:14]),
    "deep header": lambda: sealed(kept_file()[:12] + (60000).to_bytes(4, "little") + b"[" * 60000),
    "a number as text": lambda: lie(lambda about: about.update(n_ctx="8")),
    "no chunks": lambda: lie(lambda about: about.update(n_chunks=0)),
    "too many chunks": lambda: lie(lambda about: about.update(n_chunks=1 << 40)),
    "more chunks than there are": lambda: lie(lambda about: about.update(n_chunks=3)),
    "a smaller vocabulary": lambda: lie(lambda about: about.update(n_vocab=50)),
    "nothing of the model": lambda: lie(lambda about: about.pop("model")),
    "no zlib": lambda: with_section(1, b"nothing"),
    "a bomb": lambda: with_section(1, zlib.compress(bytes(1 << 26))),
    "a short section": lambda: with_section(2, zlib.compress(bytes(40))),
    "no kept tokens": lambda: with_section(1, zlib.compress(bytes(31 * 10))),
    "tokens beyond the counts": lambda: with_section(1, zlib.compress(b"\1" * 31 * 10 + bytes(6 * 31))),
    "a section beyond the end": lambda: sealed(kept_file()[:-40]),
}


@pytest.mark.parametrize("what", LIES)
def test_a_sealed_lie_is_refused(what: str) -> None:
    with pytest.raises(ReferenceUnusable):
        read_all(LIES[what]())


def test_a_flat_model_stays_within_its_bytes() -> None:
    flat = np.zeros((40, N_VOCAB), np.float32)
    sketch = make_sketch(flat, np.zeros(40, np.int32), seed=1)
    assert len(sketch.ids) <= 40 * 0.013 * N_VOCAB + 40
    assert sketch.compare(flat, np.zeros(40, np.int32)).kld == pytest.approx(0, abs=1e-6)


def test_a_figure_without_variation_is_exact() -> None:
    found: Quality = summarize(Scores(np.ones((2, 9))), 20)
    assert found.ppl == Figure(*[pytest.approx(np.e)] * 3)
