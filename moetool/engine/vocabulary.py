"""Text to token ids and back, with the model's own vocabulary."""

from __future__ import annotations

import ctypes
from typing import Any

from moetool.engine.library import library
from moetool.errors import EngineError

# enum llama_token_attr, llama.h: UNKNOWN, UNUSED, CONTROL.
_NOT_TEXT = 1 << 0 | 1 << 1 | 1 << 3
_PIECE_BYTES = 128  # nearly every token is shorter; those that are not are asked for again


class Vocabulary:
    """A view of a loaded model's vocabulary; it lives as long as the model does."""

    def __init__(self, pointer: Any) -> None:
        self._lib = library()
        self.pointer = pointer
        self.n_vocab = int(self._lib.llama_vocab_n_tokens(pointer))
        self._pieces: dict[int, bytes] = {}

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Token ids of `text`; only with `parse_special` may it contain control tokens."""
        data = text.encode("utf-8", "surrogateescape")
        room = len(data) + 8
        while True:
            tokens = (ctypes.c_int32 * room)()
            count = self._lib.llama_tokenize(
                self.pointer, data, len(data), tokens, room, add_special, parse_special
            )
            if count >= 0:
                return tokens[:count]
            if -count <= room:  # INT32_MIN, or a tokenizer that answers nonsense
                raise EngineError("This text is too long for llama.cpp's tokenizer")
            room = -count

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; b"" for control tokens. A token may end inside a UTF-8 character."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._read_piece(token, special=False)
        return known

    def special_piece(self, token: int) -> bytes:
        """Like `piece`, with control tokens spelled out ("<|im_end|>")."""
        return self._read_piece(token, special=True)

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        room = _PIECE_BYTES
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = self._lib.llama_token_to_piece(self.pointer, token, buffer, room, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def is_end(self, token: int) -> bool:
        """Does this token end a generation (end of text, of turn, …)?"""
        return bool(self._lib.llama_vocab_is_eog(self.pointer, token))

    def is_control(self, token: int) -> bool:
        """Is this a token that user text must not contain?"""
        return bool(self._lib.llama_vocab_is_control(self.pointer, token))

    def all_pieces(self) -> list[bytes]:
        """The bytes of every token, control tokens spelled out: what a grammar is matched against."""
        # One buffer for all: at 150k tokens, making a new one each time takes longer than the calls.
        buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        read, pointer = self._lib.llama_token_to_piece, self.pointer
        pieces: list[bytes] = []
        for token in range(self.n_vocab):
            count = read(pointer, token, buffer, _PIECE_BYTES, 0, True)
            pieces.append(buffer.raw[:count] if count >= 0 else self._read_piece(token, special=True))
        return pieces

    def special_tokens(self) -> frozenset[int]:
        """Tokens that are not text: control, unknown and unused ones."""
        attributes = (self._lib.llama_vocab_get_attr(self.pointer, token) for token in range(self.n_vocab))
        return frozenset(token for token, bits in enumerate(attributes) if bits & _NOT_TEXT)

    def end_tokens(self) -> tuple[int, ...]:
        """All tokens that end an answer, the usual one first."""
        ends = [token for token in range(self.n_vocab) if self.is_end(token)]
        return tuple(sorted(ends, key=lambda token: token != self.eos))

    @property
    def bos(self) -> int:
        """Beginning-of-text token, -1 where there is none."""
        return int(self._lib.llama_vocab_bos(self.pointer))

    @property
    def eos(self) -> int:
        """End-of-text token, -1 where there is none."""
        return int(self._lib.llama_vocab_eos(self.pointer))

    @property
    def adds_bos(self) -> bool:
        """Does the model want its text to start with `bos`?"""
        return bool(self._lib.llama_vocab_get_add_bos(self.pointer))
