"""A vocabulary small enough to think about: every byte, a few words, control tokens and two ends."""

from __future__ import annotations

import random
from collections.abc import Collection

from moetool.constrain import Matcher, Tokenizer, TokenTable, make_tokenizer

WORDS = [
    b'{"',
    b'": ',
    b'": "',
    b'", "',
    b'"}',
    b"true",
    b"null",
    b"the",
    b" the",
    b"ing",
    b"\xc3\xa9",
    b"  ",
]
EOS, EOT, CONTROL = 256, 257, 258
TOKENS = [bytes([i]) for i in range(256)] + [b"<eos>", b"<|im_end|>", b"<|tool|>", *WORDS, b""]
IDS = {token: i for i, token in enumerate(TOKENS) if i < 256 or i > CONTROL}


def tokenize(data: bytes) -> list[int]:
    """Greedy, longest words first; control tokens are never made."""
    ids, at = [], 0
    while at < len(data):
        length = next(n for n in (5, 4, 3, 2, 1) if data[at : at + n] in IDS and at + n <= len(data))
        ids.append(IDS[data[at : at + length]])
        at += length
    return ids


def make_table() -> TokenTable:
    return TokenTable(TOKENS, frozenset({EOS, EOT, CONTROL}), (EOS, EOT), tokenize)


def make_toy_tokenizer() -> Tokenizer:
    return make_tokenizer(make_table(), fast_masks=False)


def accepts(matcher: Matcher, text: str) -> bool:
    """Whether `text` is a whole sentence of the matcher's grammar."""
    for byte in text.encode():
        if not matcher.accepts(byte):
            return False
        matcher.commit(byte)
    return matcher.is_complete()


def pick(matcher: Matcher, rng: random.Random, prefer: Collection[int] = ()) -> int:
    """A random token among those allowed; one of `prefer` where possible."""
    allowed = matcher.allowed().tolist()
    return rng.choice([token for token in allowed if token in prefer] or allowed)


def random_text(matcher: Matcher, rng: random.Random, max_tokens: int, prefer: bytes = b"") -> bytes:
    """What a model without any sense would write: random tokens until the grammar or the limit ends it."""
    text = b""
    for _ in range(max_tokens):
        token = pick(matcher, rng, set(prefer))
        matcher.commit(token)
        if token in (EOS, EOT):
            break
        text += TOKENS[token]
    return text
