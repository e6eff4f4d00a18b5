"""What is on this disk, found by name, told apart from what only looks like it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_fixture import HubWorld

from moetool import assets
from moetool.errors import NotFound, VerificationFailed
from moetool.names import parse_model_name
from moetool.store import (
    LocalModel,
    find_local,
    list_local,
    read_cache_dir,
    require_local,
    verify_local,
)

OLD, NEW = "1" * 40, "2" * 40


def put(cache: Path, repo: str, path: str, data: bytes, commit: str = NEW, main: bool = True) -> Path:
    """A file as huggingface_hub would have left it."""
    folder = cache / ("models--" + repo.replace("/", "--"))
    blob = folder / "blobs" / hashlib.sha256(data).hexdigest()
    link = folder / "snapshots" / commit / path
    for parent in (blob.parent, link.parent, folder / "refs"):
        parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    link.symlink_to(os.path.relpath(blob, link.parent))
    if main:
        (folder / "refs" / "main").write_text(commit)
    return link


def find(name: str, cache: Path, revision: str = "") -> LocalModel | None:
    return find_local(parse_model_name(name), cache, revision)


def test_an_empty_disk_has_no_models(tmp_path: Path) -> None:
    assert list_local(tmp_path / "nowhere") == ()
    assert find("org/repo:Q4_K_M", tmp_path / "nowhere") is None


def test_whole_models_are_listed_with_their_shards_in_order(tmp_path: Path) -> None:
    for i in (2, 1, 3):
        put(tmp_path, "org/Big-GGUF", f"BF16/big-BF16-0000{i}-of-00003.gguf", b"x" * i)
    put(tmp_path, "org/Small-GGUF", "small-Q8_0.gguf", b"small")
    put(tmp_path, "org/Small-GGUF", "mmproj-F16.gguf", b"eyes")
    put(tmp_path, "org/Half-GGUF", "half-Q8_0-00001-of-00002.gguf", b"half")
    put(tmp_path, "org/Other", "model.safetensors", b"other")
    (tmp_path / "datasets--org--data").mkdir()
    big, small = list_local(tmp_path)
    assert (big.name, big.size_bytes, big.quant, big.revision) == ("org/Big-GGUF:BF16", 6, "BF16", NEW)
    assert [p.read_bytes() for p in big.paths] == [b"x", b"xx", b"xxx"]
    assert small.name == "org/Small-GGUF:Q8_0"
    assert [p.name for p in small.sidecars] == ["mmproj-F16.gguf"]
    assert not small.verified  # hashing is for later; listing only says that nobody has


def test_dangling_links_and_partial_files_are_no_models(tmp_path: Path) -> None:
    link = put(tmp_path, "org/a", "a-Q8_0.gguf", b"a")
    link.resolve().rename(link.resolve().with_name(link.resolve().name + ".moetool.incomplete"))
    assert list_local(tmp_path) == ()


def test_of_several_revisions_the_one_main_was_wins(tmp_path: Path) -> None:
    put(tmp_path, "org/a", "a-Q8_0.gguf", b"new", NEW)
    put(tmp_path, "org/a", "a-Q8_0.gguf", b"old", OLD)  # and now main is the old one
    (model,) = list_local(tmp_path)
    assert model.revision == OLD
    newer = find("org/a", tmp_path, NEW)
    assert newer is not None
    assert newer.paths[0].read_bytes() == b"new"
    assert find("org/a", tmp_path, "v1.0") is None


def test_short_names(tmp_path: Path) -> None:
    put(tmp_path, "unsloth/Qwen3.6-35B-A3B-GGUF", "Qwen3.6-35B-A3B-UD-Q4_K_XL.gguf", b"1")
    put(tmp_path, "ggml-org/gpt-oss-20b-GGUF", "gpt-oss-20b-mxfp4.gguf", b"2")
    put(tmp_path, "ggml-org/gpt-oss-120b-GGUF", "gpt-oss-120b-mxfp4.gguf", b"3")
    names = [
        "qwen3.6-35b",
        "QWEN3.6-35B-A3B",
        "Qwen3.6-35B-A3B-GGUF",
        "qwen",
        "35b-a3b",
        "qwen3.6-35b:q4_k_xl",
    ]
    names += ["UNSLOTH/qwen3.6-35b-a3b-gguf:ud-q4_k_xl", "hf.co/unsloth/Qwen3.6-35B-A3B-GGUF"]
    for name in names:
        model = find(name, tmp_path)
        assert model is not None, name
        assert model.repo == "unsloth/Qwen3.6-35B-A3B-GGUF"
    assert find("qwen3.6-35b:Q8_0", tmp_path) is None
    assert find("llama", tmp_path) is None
    with pytest.raises(NotFound, match="could be ggml-org/gpt-oss-120b-GGUF, ggml-org/gpt-oss-20b-GGUF"):
        find("gpt-oss", tmp_path)
    assert find("gpt-oss-20b", tmp_path) is not None


def test_several_quants_need_a_word_more(tmp_path: Path) -> None:
    put(tmp_path, "org/a-GGUF", "a-Q8_0.gguf", b"eight")
    put(tmp_path, "org/a-GGUF", "a-Q4_K_M.gguf", b"four")
    with pytest.raises(NotFound, match="several on this disk: Q8_0, Q4_K_M"):
        find("a", tmp_path)
    four = find("a:q4", tmp_path)
    assert four is not None
    assert four.quant == "Q4_K_M"
    by_file = find("org/a-GGUF/a-Q8_0.gguf", tmp_path)
    assert by_file is not None
    assert by_file.quant == "Q8_0"


def test_twins_are_named_by_their_files(tmp_path: Path) -> None:
    put(tmp_path, "org/a", "base-Q8_0.gguf", b"1")
    put(tmp_path, "org/a", "chat-Q8_0.gguf", b"2")
    names = [m.name for m in list_local(tmp_path)]
    assert names == ["org/a/base-Q8_0.gguf", "org/a/chat-Q8_0.gguf"]
    assert [find(n, tmp_path) is not None for n in names] == [True, True]


def test_plain_files_and_their_shards(tmp_path: Path) -> None:
    for i in (1, 2):
        (tmp_path / f"m-0000{i}-of-00002.gguf").write_bytes(b"x" * i)
    model = find(str(tmp_path / "m-00002-of-00002.gguf"), tmp_path)
    assert model is not None
    assert [p.name[2:7] for p in model.paths] == ["00001", "00002"]
    assert model.size_bytes == 3
    (tmp_path / "m-00001-of-00002.gguf").unlink()
    with pytest.raises(NotFound, match="one of 2 shards, and 1 are not beside it") as caught:
        find(str(tmp_path / "m-00002-of-00002.gguf"), tmp_path)
    assert "m-00001-of-00002.gguf" in caught.value.hint
    assert find("./not-there.gguf", tmp_path) is None


def test_what_is_not_here_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        require_local(parse_model_name("org/repo:Q4_K_M"), tmp_path)
    assert caught.value.hint == "moetool pull org/repo:Q4_K_M"
    put(tmp_path, "org/a-GGUF", "a-Q8_0.gguf", b"eight")
    with pytest.raises(NotFound) as caught:
        require_local(parse_model_name("qwen"), tmp_path)
    assert caught.value.hint == "Pulled so far: org/a-GGUF:Q8_0."


def test_verifying_works_without_a_network_and_is_remembered(tmp_path: Path) -> None:
    link = put(tmp_path, "org/a", "a-Q8_0.gguf", b"right" * 1000)
    (model,) = list_local(tmp_path)
    seen: list[tuple[int, int, str]] = []
    assert verify_local(model, tmp_path, lambda *p: seen.append(p)).verified
    assert seen[-1] == (5000, 5000, "a-Q8_0.gguf")
    assert list_local(tmp_path)[0].verified
    # One bit turned, size and all else the same: the record is void, and the bytes are found out.
    data = bytearray(link.read_bytes())
    data[17] ^= 1
    link.resolve().write_bytes(data)
    os.utime(link.resolve(), ns=(0, 0))
    (model,) = list_local(tmp_path)
    assert not model.verified
    with pytest.raises(VerificationFailed, match="a-Q8_0.gguf of org/a is damaged"):
        verify_local(model, tmp_path)


def test_content_that_huggingface_hub_shares_between_repos(tmp_path: Path) -> None:
    """A blob is then a link itself, to a file that is named by another hash."""
    link = put(tmp_path, "org/a", "a-Q8_0.gguf", b"right" * 1000)
    blob, shared = link.resolve(), tmp_path / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    (model,) = list_local(tmp_path)
    assert verify_local(model, tmp_path).verified
    assert list_local(tmp_path)[0].verified
    shared.write_bytes(b"wrong" * 1000)
    with pytest.raises(VerificationFailed, match="a-Q8_0.gguf of org/a is damaged"):
        verify_local(model, tmp_path)


def test_a_damaged_record_is_no_record(tmp_path: Path) -> None:
    put(tmp_path, "org/a", "a-Q8_0.gguf", b"right")
    verify_local(list_local(tmp_path)[0], tmp_path)
    (record,) = (tmp_path / "models--org--a" / ".moetool").glob("*.json")
    for text in ("", "{", "[]", '{"digest": "x"}', "\xff"):
        record.write_text(text)
        assert not list_local(tmp_path)[0].verified


def test_the_demo_is_a_model_when_it_is_there(tmp_path: Path) -> None:
    demo = find("demo", tmp_path)
    assert (demo is not None) == assets.demo_model_path().is_file()
    assert any(
        assets.grammar_dir().parent == p
        for p in (Path(assets.__file__).parent, Path(assets.__file__).parent.parent)
    )


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"HF_HOME": "/x/home"},
        {"HF_HUB_CACHE": "/x/cache"},
        {"HF_HOME": "/x/home", "HF_HUB_CACHE": "$BASE/c"},
        {"XDG_CACHE_HOME": "/x/xdg"},
    ],
)
def test_the_cache_folder_is_that_of_huggingface_hub(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**env, "BASE": "/x/base"}.items():
        monkeypatch.setenv(name, value)
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert str(read_cache_dir()) == theirs.strip()


def test_the_store_does_not_import_huggingface_hub(world: HubWorld) -> None:
    code = "import sys, moetool.store, moetool.hub; print([m for m in sys.modules if 'huggingface' in m])"
    child = world.start(code)
    assert child.communicate(timeout=20)[0].strip() == "[]"


def test_what_is_no_plain_file_is_told_apart_and_never_opened(tmp_path: Path) -> None:
    (tmp_path / "folder.gguf").mkdir()
    os.mkfifo(tmp_path / "pipe.gguf")  # opening it would wait for a writer
    for path, said in (
        (tmp_path, "is a folder, with no .gguf files in it"),
        (tmp_path / "pipe.gguf", "is not a plain file"),
        (Path("/dev/zero"), "is not a plain file"),
        (tmp_path / "none.gguf", "is not a file on this disk"),
        (tmp_path / ("n" * 300 + ".gguf"), "name too long"),
    ):
        with pytest.raises(NotFound, match=f"(?i){said}"):
            require_local(parse_model_name(str(path)), tmp_path)
    (tmp_path / "a.gguf").touch()
    with pytest.raises(NotFound, match=r"with a\.gguf in it"):
        require_local(parse_model_name(str(tmp_path)), tmp_path)
