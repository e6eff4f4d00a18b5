"""Headers: every value type, both byte orders, shards, and everything that can be wrong with them."""

from __future__ import annotations

import io
import mmap
import random
import re
import time
from pathlib import Path
from typing import BinaryIO

import pytest
from gguf_build import ARRAY, EVERY_TYPE, STRING, TWO_TENSORS, Builder, Row, Typed, strings, text, u32
from hypothesis import given, settings
from hypothesis import strategies as st

from moetool import gguf
from moetool.errors import HeaderError, MoetoolError, NotFound

SOUND = Builder(metadata=EVERY_TYPE, tensors=TWO_TENSORS)
SMALL = Builder(
    metadata={key: value for key, value in EVERY_TYPE.items() if key not in {"many", "vocabulary"}},
    tensors=TWO_TENSORS,
)


def read(data: bytes, size: int | None = None) -> gguf.Header:
    return gguf.read_header(io.BytesIO(data), size)


def refused(builder: Builder | bytes) -> HeaderError:
    with pytest.raises(HeaderError) as caught:
        read(builder if isinstance(builder, bytes) else builder.file())
    return caught.value


class Trickle(io.RawIOBase):
    """A raw stream that gives at most `step` bytes a read, and counts what it gave."""

    def __init__(self, data: bytes, step: int) -> None:
        self.inner = io.BytesIO(data)
        self.step = step
        self.given = 0

    def read(self, size: int = -1) -> bytes:
        data = self.inner.read(min(size, self.step))
        self.given += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.inner.seek(offset, whence)

    def tell(self) -> int:
        return self.inner.tell()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [2, 3])
def test_every_value_type_in_both_byte_orders(order: str, version: int) -> None:
    data = Builder(order, version, EVERY_TYPE, TWO_TENSORS).file(960)
    header = read(data)
    assert header.version == version
    assert header.byte_order == {"<": "little", ">": "big"}[order]
    for key in ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "u64", "i64", "f64"):
        assert header.metadata[key] == EVERY_TYPE[key].value
    assert header.metadata["list"] == (1, 2, 3)
    assert header.metadata["words"] == ("a", "", "ü")
    for key, wanted in (
        ("many", list(range(5000))),
        ("vocabulary", EVERY_TYPE["vocabulary"].value),
        ("nested", [[1, 2], ["x", "y"]]),
    ):
        ref = header.metadata[key]
        assert isinstance(ref, gguf.ArrayRef)
        assert ref.count == len(wanted)
        assert gguf.read_array(io.BytesIO(data), ref) == wanted


def test_the_tensor_table() -> None:
    header = read(SOUND.file(832))
    embedding, norm = header.tensors
    assert (embedding.name, embedding.shape, embedding.type.name) == ("token_embd.weight", (64, 10), "Q8_0")
    assert (embedding.offset, embedding.n_bytes, embedding.n_elements) == (0, 680, 640)
    assert (norm.offset, norm.n_bytes) == (704, 256)
    assert header.arch == "qwen3moe"
    assert header.header_bytes == len(SOUND.header())
    assert header.data_offset == len(SOUND.file())
    assert header.file_bytes == header.data_offset + 960
    assert header.split is None


def test_getters_mind_the_type() -> None:
    header = read(SOUND.file())
    assert (header.get_int("u8"), header.get_int("bool", 7), header.get_int("absent", 5)) == (200, 7, 5)
    assert (header.get_float("f32"), header.get_float("u8"), header.get_float("words", 2.0)) == (
        0.5,
        200.0,
        2.0,
    )
    assert (header.get_str("u8", "-"), header.get_bool("bool"), header.get_bool("u8", True)) == (
        "-",
        True,
        True,
    )


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_a_stream_may_give_less_than_was_asked_for(step: int) -> None:
    data = SOUND.file()
    assert read(data) == gguf.read_header(Trickle(data, step), len(data))  # type: ignore[arg-type]


def test_a_small_header_of_a_large_file_is_not_read_by_the_megabyte() -> None:
    data = Builder(metadata={"general.architecture": text("x")}).file(1 << 20)
    stream = Trickle(data, 1 << 30)
    gguf.read_header(stream, len(data))  # type: ignore[arg-type]
    assert stream.given <= 64 << 10


def test_a_mapped_file_is_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(SOUND.file(960))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        stream: BinaryIO = mapped  # type: ignore[assignment]
        assert gguf.read_header(stream) == gguf.open_header(path)


def test_open_header_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There is no file"):
        gguf.open_header(tmp_path / "absent.gguf")
    with pytest.raises(MoetoolError, match="cannot be read"):
        gguf.open_header(tmp_path)


def test_no_tensors_no_padding() -> None:
    header = read(Builder(metadata={"a": u32(1)}).header())
    assert header.data_offset == header.header_bytes == header.file_bytes


def test_a_scalar_and_an_empty_tensor_are_tensors() -> None:
    header = read(Builder(tensors=[Row("scalar", ()), Row("empty", (0, 5), 0, 32)]).file())
    assert [(t.n_elements, t.n_bytes) for t in header.tensors] == [(1, 4), (0, 0)]


# --- what is refused ---------------------------------------------------------------------------------------

BAD: dict[str, tuple[Builder | bytes, str]] = {
    "empty": (b"", "ends here"),
    "not gguf": (b"PK\3\4" + bytes(60), "not GGUF"),
    "version 1": (Builder(version=1), "version 1"),
    "version 4": (Builder(version=4), "version 4"),
    "version 0": (Builder(version=0), "version 0"),
    "tensor count": (b"GGUF\3\0\0\0" + b"\xff" * 16, "more than the file can hold"),
    "key count": (b"GGUF\3\0\0\0" + bytes(8) + b"\xff" * 7 + b"\0" + bytes(99), "more than the file"),
    "empty key": (Builder(metadata={"": u32(1)}), "no name"),
    "key twice": (
        Builder(metadata={"ab": u32(1), "cd": u32(1)}).file().replace(b"cd", b"ab"),
        "stands there twice",
    ),
    "value type": (Builder(metadata={"a": Typed(4, 1)}).file().replace(b"a\4", b"a\x0d"), "not a value type"),
    "element type": (Builder(metadata={"a": Typed(ARRAY, [], 77)}), "not an element type"),
    "string length": (Builder(metadata={"a": text("")}).header()[:-8] + b"\xff" * 8, "claims"),
    "string not utf-8": (Builder(metadata={"a": Typed(STRING, b"\xff")}), "not UTF-8"),
    "key not utf-8": (Builder(metadata={"ab": u32(1)}).file().replace(b"ab", b"\xc3\x28"), "not UTF-8"),
    "small array not utf-8": (Builder(metadata={"a": strings(["ok", b"\xff"])}), "not UTF-8"),  # type: ignore[list-item]
    "alignment 0": (Builder(metadata={"general.alignment": u32(0)}), "power of two"),
    "alignment 24": (Builder(metadata={"general.alignment": u32(24)}), "power of two"),
    "alignment text": (Builder(metadata={"general.alignment": text("32")}), "power of two"),
    "tensor twice": (Builder(tensors=[Row("a", (1,)), Row("a", (1,), 0, 32)]), "stands there twice"),
    "name too long": (Builder(tensors=[Row("n" * 64, (1,))]), "64 bytes"),
    "five dims": (Builder(tensors=[Row("a", (1, 1, 1, 1, 1))]), "5 dimensions"),
    "overflow": (Builder(tensors=[Row("a", (1 << 32, 1 << 31))]), "overflows"),
    "overflow with a zero": (Builder(tensors=[Row("a", (1 << 32, 0, 1 << 32))]), "overflows"),
    "end overflows": (Builder(tensors=[Row("a", (1 << 61,), 0, 32)]), "2\\^63"),
    "unknown type": (Builder(tensors=[Row("a", (1,), 4)]), "not a tensor type"),
    "broken rows": (Builder(tensors=[Row("a", (33,), 8)]), "whole blocks"),
    "offset not aligned": (Builder(tensors=[Row("a", (1,), 0, 8)]), "not aligned"),
    "split 2 of 2": (Builder(metadata={"split.no": u32(2), "split.count": u32(2)}), "cannot be"),
    "split text": (Builder(metadata={"split.no": text("0"), "split.count": u32(2)}), "whole numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    builder, message = BAD[name]
    error = refused(builder)
    assert re.search(message, error.message), error.message
    assert error.offset >= 0
    assert error.code == "bad-header"


def test_names_from_the_file_are_shown_without_control_characters() -> None:
    error = refused(Builder(metadata={"a\x1b[31m": Typed(STRING, b"\xff")}))
    assert "\x1b" not in error.message


def test_nested_arrays_are_bounded_in_depth_and_number() -> None:
    deep = Typed(ARRAY, [1], 4)
    for _ in range(4):
        deep = Typed(ARRAY, [deep], ARRAY)
    assert "nested too deeply" in refused(Builder(metadata={"a": deep})).message
    wide = Typed(ARRAY, [Typed(ARRAY, [], 4)] * ((1 << 16) + 1), ARRAY)
    assert "nested too deeply" in refused(Builder(metadata={"a": wide})).message


def test_array_counts_are_held_against_the_file() -> None:
    for inner in (0, 12, STRING, ARRAY):
        head = Builder(metadata={"a": Typed(ARRAY, [], inner)}).header()
        error = refused(head[:-8] + (1 << 40).to_bytes(8, "little") + bytes(64))
        assert "more than the file can hold" in error.message


def test_a_sparse_file_does_not_keep_us_busy() -> None:
    """A terabyte of zeros behind a promise of 2^36 empty strings, or of a huge string."""

    class Zeros(Trickle):
        def read(self, size: int = -1) -> bytes:
            data = self.inner.read(size)
            self.inner.seek(self.inner.tell() + size - len(data))
            return data + bytes(size - len(data))

    for inner, count in ((STRING, 1 << 36), (STRING, 1 << 24), (0, 1 << 38)):
        head = Builder(metadata={"a": Typed(ARRAY, [], inner)}).header()[:-8]
        stream = Zeros(head + count.to_bytes(8, "little"), 1 << 30)
        start = time.monotonic()
        with pytest.raises(HeaderError):
            gguf.read_header(stream, 1 << 40)  # type: ignore[arg-type]
            raise HeaderError("sound", 0)
        assert time.monotonic() - start < 5


def test_a_size_that_lies_is_noticed() -> None:
    data = SOUND.file()
    for cut in (20, 300, len(SOUND.header()) - 1):
        with pytest.raises(HeaderError):
            read(data[:cut], 1 << 50)
    ref = read(data).metadata["vocabulary"]
    assert isinstance(ref, gguf.ArrayRef)
    with pytest.raises(HeaderError, match="ends inside an array"):
        gguf.read_array(io.BytesIO(data[: ref.offset + 9]), ref)


def test_truncated_at_every_byte() -> None:
    data = SMALL.header()
    for cut in range(len(data)):
        assert refused(data[:cut]).offset <= cut
    read(data)


@settings(max_examples=150, deadline=1000)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_header_or_an_error(data: bytes) -> None:
    for candidate in (data, b"GGUF\3\0\0\0" + data, b"GGUF\0\0\0\3" + data):
        try:
            read(candidate)
        except HeaderError as error:
            assert 0 <= error.offset <= len(candidate)  # noqa: PT017


@settings(max_examples=150, deadline=1000)
@given(st.data())
def test_a_mutated_header_is_a_header_or_an_error(data: st.DataObject) -> None:
    base = bytearray(SMALL.file())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(base) - 1))
        piece = data.draw(
            st.one_of(st.binary(min_size=1, max_size=8), st.just(b"\xff" * 8), st.just(bytes(8)))
        )
        base[at : at + len(piece)] = piece
    try:
        header = read(bytes(base))
    except HeaderError:
        return
    refs = [v for v in header.metadata.values() if isinstance(v, gguf.ArrayRef)]
    for ref in refs:
        try:
            gguf.read_array(io.BytesIO(bytes(base)), ref)
        except HeaderError:
            continue


def test_random_damage_never_crashes() -> None:
    """Cheaper and cruder than hypothesis: single bytes over the whole table of a real header's shape."""
    chance = random.Random(0)
    data = SMALL.file()
    for _ in range(3000):
        at = chance.randrange(len(data))
        damaged = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        try:
            read(damaged)
        except HeaderError:
            continue


# --- data sections and shards -------------------------------------------------------------------------------


def test_data_must_be_whole() -> None:
    header = read(SOUND.file())
    gguf.check_data(header, header.data_offset + 960)
    with pytest.raises(HeaderError, match="^5 bytes of tensor data are missing"):
        gguf.check_data(header, header.data_offset + 955)


def test_data_may_lack_the_last_padding() -> None:
    header = read(Builder(tensors=[Row("a", (5,))]).file())
    assert header.file_bytes == header.data_offset + 32
    gguf.check_data(header, header.data_offset + 20)


@pytest.mark.parametrize(("offset", "fault"), [(0, "overlaps"), (64, "gap")])
def test_data_lies_in_table_order(offset: int, fault: str) -> None:
    header = read(Builder(tensors=[Row("a", (8,)), Row("b", (8,), 0, offset)]).file())
    with pytest.raises(HeaderError, match=fault):
        gguf.check_data(header, 1 << 20)


def test_shard_names() -> None:
    names = gguf.shard_names("dir/m-Q4_K_M-00002-of-00003.gguf")
    assert names == tuple(f"dir/m-Q4_K_M-0000{n}-of-00003.gguf" for n in (1, 2, 3))
    for single in ("m.gguf", "m-00004-of-00003.gguf", "m-00001-of-00000.gguf", "m-1-of-2.gguf"):
        assert gguf.shard_names(single) == (single,)


def shard(number: int, count: int, tensors: list[Row], total: int = 2) -> gguf.Header:
    metadata = {
        "split.no": Typed(2, number),
        "split.count": Typed(2, count),
        "split.tensors.count": Typed(5, total),
    }
    return read(Builder(metadata=metadata, tensors=tensors).file())


def test_shards_become_one_header() -> None:
    first, second = shard(0, 2, [Row("a", (8,))]), shard(1, 2, [Row("b", (4,))])
    whole = gguf.merge_shards([first, second])
    assert [(t.name, t.shard) for t in whole.tensors] == [("a", 0), ("b", 1)]
    assert whole.file_bytes == first.file_bytes + second.file_bytes
    assert whole.metadata == first.metadata
    single = read(SOUND.file())
    assert gguf.merge_shards([single]) is single


def test_shards_must_belong_together() -> None:
    a, b = shard(0, 2, [Row("a", (8,))]), shard(1, 2, [Row("b", (4,))])
    plain = read(SOUND.file())
    for shards, message in (
        ([a], "2 shards, 1 were given"),
        ([b, a], "says that it is shard 2"),
        ([a, plain], "not a shard"),
        ([a, shard(1, 2, [Row("a", (4,))])], "same name"),
        ([a, shard(1, 2, [])], "hold 1 tensors, not 2"),
    ):
        with pytest.raises(HeaderError, match=message):
            gguf.merge_shards(shards)
