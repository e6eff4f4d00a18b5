"""A model's vocabulary as matching needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from moetool.constrain.library import llguidance


@dataclass(frozen=True)
class TokenTable:
    """What matching must know of a model's vocabulary: plain data.

    tokens: the bytes that each token adds to the text (control tokens: their name), `n_vocab` of them.
    special: ids that no grammar may write: control, unknown and unused tokens, and user-defined ones that
        look like markup (`<think>`); a token listed here is never taken for its letters.
    ends: ids that end an answer (EOS, EOT), the first being the usual one; each also counts as special.
    tokenize: bytes of UTF-8 text -> ids, with special tokens NOT parsed and no BOS added.
    """

    tokens: Sequence[bytes]
    special: frozenset[int]
    ends: tuple[int, ...]
    tokenize: Callable[[bytes], Sequence[int]]


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary with its prefix tree built; make one per model and keep it."""

    table: TokenTable
    handle: Any


def make_tokenizer(table: TokenTable, *, fast_masks: bool = True) -> Tokenizer:
    """Build the prefix tree over `table` (0.3 s for 150k tokens, 0.2 s without `fast_masks`).

    fast_masks prepares the masks of common string content: 0.4 ms instead of 1.2 ms the first time a grammar
    allows most of the vocabulary. It does not pay when tokens are checked first and masks are rare.
    """
    module = llguidance()
    wrapped = _Wrapped(table)
    slices = module.LLTokenizer.json_slices() if fast_masks else []
    handle = module.LLTokenizer(wrapped, eos_token=list(table.ends), slices=slices)
    return Tokenizer(table, handle)


class _Wrapped:
    """A TokenTable in the shape that llguidance asks for."""

    is_tokenizer_wrapper = True

    def __init__(self, table: TokenTable) -> None:
        self.eos_token_id = table.ends[0]
        self.bos_token_id = None
        self.tokens = table.tokens
        self.special_token_ids = sorted(table.special | set(table.ends))
        self._table = table

    def __call__(self, text: str | bytes) -> list[int]:
        data = text.encode() if isinstance(text, str) else text
        return exact_tokens(self._table, data)


def exact_tokens(table: TokenTable, data: bytes) -> list[int]:
    """Ids whose bytes join to `data` exactly; none where the vocabulary cannot say it.

    SentencePiece vocabularies put a space before the first word; a leading newline keeps that space away from
    the text, and both are cut off again. Without such a cut, each byte becomes the token of that byte.
    """
    plain = list(table.tokenize(data))
    if _joined(table, plain) == data:
        return plain
    shifted = list(table.tokenize(b"\n" + data))
    for cut in range(1, min(4, len(shifted)) + 1):
        if _joined(table, shifted[cut:]) == data:
            return shifted[cut:]
    return _byte_by_byte(table, data)


def _byte_by_byte(table: TokenTable, data: bytes) -> list[int]:
    plain = (i for i, token in enumerate(table.tokens) if len(token) == 1 and i not in table.special)
    singles = {table.tokens[i]: i for i in plain}
    ids = [singles.get(data[i : i + 1], -1) for i in range(len(data))]
    return [] if -1 in ids else ids


def _joined(table: TokenTable, ids: Iterable[int]) -> bytes:
    return b"".join(table.tokens[i] for i in ids)
