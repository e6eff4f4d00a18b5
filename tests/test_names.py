"""Names as users write them, and file names as strangers write them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moetool.errors import NotFound, UsageError
from moetool.names import (
    ModelFile,
    QuantFiles,
    group_files,
    is_repo_id,
    is_revision,
    is_safe_path,
    match_file,
    match_quant,
    parse_model_name,
    parse_quant,
    parse_shard,
    parse_sidecar,
    show_name,
)


def quants_of(*paths: str) -> tuple[QuantFiles, ...]:
    return group_files(ModelFile(p, 1000 - i) for i, p in enumerate(paths))[0]


@pytest.mark.parametrize(
    ("text", "kind", "repo", "quant", "file", "revision"),
    [
        ("demo", "demo", "", "", "", ""),
        ("org/repo", "repo", "org/repo", "", "", ""),
        ("org/repo:Q4_K_M", "repo", "org/repo", "Q4_K_M", "", ""),
        ("org/repo/file.gguf", "repo", "org/repo", "", "file.gguf", ""),
        ("org/repo/UD-Q4/f-00001-of-00003.gguf", "repo", "org/repo", "", "UD-Q4/f-00001-of-00003.gguf", ""),
        ("org/repo/UD-Q4_K_XL", "repo", "org/repo", "UD-Q4_K_XL", "", ""),
        ("hf.co/org/repo:q8_0", "repo", "org/repo", "q8_0", "", ""),
        ("hf://org/repo", "repo", "org/repo", "", "", ""),
        ("https://huggingface.co/org/repo", "repo", "org/repo", "", "", ""),
        ("https://huggingface.co/org/repo?x=1", "repo", "org/repo", "", "", ""),
        ("https://huggingface.co/org/repo/blob/main/a%20b.gguf", "repo", "org/repo", "", "a b.gguf", "main"),
        ("https://hf.co/org/repo/resolve/v1/f.gguf?download=true", "repo", "org/repo", "", "f.gguf", "v1"),
        ("https://huggingface.co/org/repo/tree/main/Q8_0", "repo", "org/repo", "Q8_0", "", "main"),
        ("qwen3.6-35b", "short", "qwen3.6-35b", "", "", ""),
        ("qwen3:q4", "short", "qwen3", "q4", "", ""),
        ("./model.gguf", "path", "", "", "", ""),
        ("model.gguf", "path", "", "", "", ""),
        ("folder/model.gguf", "path", "", "", "", ""),
        ("/models/a/b/model.gguf", "path", "", "", "", ""),
        ("~/model.gguf", "path", "", "", "", ""),
        ("C:\\models\\m.gguf", "path", "", "", "", ""),
    ],
)  # fmt: skip
def test_every_way_to_name_a_model(
    text: str, kind: str, repo: str, quant: str, file: str, revision: str
) -> None:
    name = parse_model_name(text)
    assert (name.kind, name.repo, name.quant, name.file, name.revision) == (kind, repo, quant, file, revision)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "a/..",
        "../..:Q4/x/y.gguf/..%2f",
        "org/repo/../x.gguf",
        "org/repo/a//b.gguf",
        "org/repo/%2e%2e/x.gguf",
        "org/repo/..%2fx.gguf",
        "org/repo/a\\b.gguf",
        "org/re\x1b[2Jpo",
        "org/repo/\x07.gguf",
        "org/repo/\u202egguf.gguf",
        "-org/repo",
        "o--rg/repo",
        "https://huggingface.co/org",
        "https://huggingface.co/org/repo/blob/main/%2e%2e/x.gguf",
        "https://huggingface.co/org/repo/blob/../x.gguf",
        "https://models.example/org/repo",
        "ftp://huggingface.co/org/repo",
        "s3://bucket/key",
    ],
)
def test_names_that_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        if parse_model_name(text).kind == "path":
            raise UsageError("a path is the user's own affair")
    assert caught.value.message.isprintable()


@settings(max_examples=50)
@given(st.text(max_size=80))
def test_any_text_is_a_name_or_a_usage_error(text: str) -> None:
    try:
        name = parse_model_name(text)
    except UsageError as error:
        assert error.message.isprintable()
    else:
        assert name.kind != "repo" or is_repo_id(name.repo)
        assert not name.file or is_safe_path(name.file)


@settings(max_examples=50)
@given(st.text(alphabet="./\\a%2eEfF:~ -\x1b", max_size=24))
def test_a_safe_path_stays_inside(path: str) -> None:
    if is_safe_path(path):
        assert not path.startswith("/")
        assert ".." not in path.split("/")
        assert "\x1b" not in path


def test_unsafe_paths() -> None:
    bad = [
        "",
        "/x",
        "../x",
        "a/../b",
        "a/./b",
        "a//b",
        "a/",
        "C:x",
        "a\\b",
        "a\nb",
        "x" * 600,
        "a/" + "y" * 256,
    ]
    bad += ["$(id).gguf", "a;id;.gguf", "a&&id.gguf", "`id`.gguf"]
    bad += ["%2e%2e/x.gguf", "a/%2E%2E/x", "%2fetc/passwd", 'a"b', "a|b", "\ud800.gguf"]
    assert [p for p in bad if is_safe_path(p)] == []
    good = ["m.gguf", "UD-Q4_K_XL/m 1.gguf", "100%.gguf", "größe.gguf", ".hidden"]
    assert [p for p in good if not is_safe_path(p)] == []


def test_revisions() -> None:
    assert [r for r in ["main", "v1.0", "refs/pr/3", "a" * 40] if not is_revision(r)] == []
    assert [r for r in ["", "../x", "a/../b", "a//b", "/x", "x\n", "-x", "a b"] if is_revision(r)] == []


@pytest.mark.parametrize(
    ("stem", "label"),
    [
        ("Qwen3-30B-A3B-UD-Q4_K_XL", "UD-Q4_K_XL"),
        ("qwen2.5-7b-instruct-q4_k_m", "Q4_K_M"),
        ("model.i1-IQ2_XXS", "IQ2_XXS"),
        ("model.Q8_0", "Q8_0"),
        ("gpt-oss-20b-mxfp4", "MXFP4"),
        ("Coder-30B-MXFP4_MOE", "MXFP4_MOE"),
        ("x-MXFP4_MOE_BF16", "MXFP4_MOE_BF16"),
        ("Q27-NVFP4-Q8_0-mtp", "Q8_0"),
        ("BF16/model", "BF16"),
        ("UD-IQ1_M/model-UD-IQ1_M", "UD-IQ1_M"),
        ("Llama-F16", "F16"),
        ("x-fp16", "FP16"),
        ("BitNet-TQ1_0", "TQ1_0"),
        ("m_7b_Q4_K_M", "Q4_K_M"),
        ("Q4_0_4_8", "Q4_0_4_8"),
        ("Qwen2.5-VL-7B", ""),
        ("GLM-4.5-Air", ""),
        ("model", ""),
    ],
)
def test_the_quant_in_a_file_name(stem: str, label: str) -> None:
    assert parse_quant(stem) == label


def test_shards() -> None:
    assert parse_shard("a/m-00002-of-00003.gguf") == ("a/m", 2, 3)
    assert parse_shard("m.gguf") == ("m", 1, 1)
    assert parse_shard("m-00004-of-00003.gguf") == ("m-00004-of-00003", 1, 1)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("mmproj-Qwen3-F16.gguf", "mmproj"),
        ("Qwen3-VL-mmproj-BF16.gguf", "mmproj"),
        ("mtp-Qwen3-27B-Q4_K_M.gguf", "mtp"),
        ("MTP/Qwen3-Q4_K_M.gguf", "mtp"),
        ("dflash-Muse-Q4_K_M.gguf", "draft"),
        ("draft/small-Q8_0.gguf", "draft"),
        ("imatrix_unsloth.dat", "imatrix"),
        ("Qwen3.imatrix", "imatrix"),
        ("imatrix.gguf", "imatrix"),
        ("Deckard-MTP-Q6_K.gguf", ""),
        ("Q27-NVFP4-Q8_0-mtp.gguf", ""),
        ("model-Q4_K_M.gguf", ""),
        ("README.md", ""),
        ("data.dat", ""),
    ],
)
def test_sidecars(path: str, kind: str) -> None:
    assert parse_sidecar(path) == kind


def test_files_are_grouped_into_quants_and_sidecars() -> None:
    paths = [f"BF16/m-BF16-0000{i}-of-00003.gguf" for i in (3, 1, 2)]
    paths += ["m-Q4_K_M.gguf", "mmproj-F16.gguf", "README.md", "UD-Q2_K_XL/m-UD-Q2_K_XL-00001-of-00002.gguf"]
    quants, sidecars = group_files(ModelFile(p, len(p)) for p in paths)
    assert [(q.label, len(q.files), q.is_complete) for q in quants] == [
        ("BF16", 3, True),
        ("UD-Q2_K_XL", 1, False),
        ("Q4_K_M", 1, True),
    ]
    assert [parse_shard(f.path)[1] for f in quants[0].files] == [1, 2, 3]
    assert [s.kind for s in sidecars] == ["mmproj"]


def test_files_without_a_quant_are_called_by_what_tells_them_apart() -> None:
    quants = quants_of("Step-APEX-I-Compact.gguf", "Step-APEX-Compact.gguf", "Step-APEX-Mini.gguf")
    assert [q.label for q in quants] == ["I-Compact", "Compact", "Mini"]
    assert match_quant(quants, "compact").label == "Compact"
    assert [q.label for q in quants_of("only.gguf")] == ["only"]


QUANTS = quants_of(
    "m-Q8_0.gguf",
    "m-Q6_K.gguf",
    "UD-Q4_K_XL/m-UD-Q4_K_XL-00001-of-00001.gguf",
    "m-Q4_K_M.gguf",
    "m-Q4_K_S.gguf",
    "m-UD-IQ1_S.gguf",
    "m-IQ1_S.gguf",
    "m-MXFP4_MOE.gguf",
    "m-KQuant-17GB-Q3_K_M.gguf",
)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Q4_K_M", "Q4_K_M"),
        ("q4_k_m", "Q4_K_M"),
        ("q4km", "Q4_K_M"),
        ("Q4-K-M", "Q4_K_M"),
        ("m-Q4_K_M", "Q4_K_M"),
        ("Q4_K_XL", "UD-Q4_K_XL"),
        ("ud-q4_k_xl", "UD-Q4_K_XL"),
        ("UD-Q8_0", "Q8_0"),
        ("iq1_s", "IQ1_S"),
        ("ud-iq1s", "UD-IQ1_S"),
        ("mxfp4", "MXFP4_MOE"),
        ("Q6", "Q6_K"),
        ("q8", "Q8_0"),
        ("kquant-17gb", "Q3_K_M"),
    ],
)
def test_quants_match_as_users_write_them(text: str, label: str) -> None:
    assert match_quant(QUANTS, text).label == label


def test_a_missing_quant_lists_what_there_is_nearest_first() -> None:
    with pytest.raises(NotFound) as caught:
        match_quant(QUANTS, "Q5_K_M")
    assert caught.value.exit_code == 5
    assert caught.value.hint.startswith("There is Q4_K_M, ")
    assert "MXFP4_MOE" in caught.value.hint


def test_an_ambiguous_quant_lists_those_that_fit() -> None:
    with pytest.raises(NotFound, match=r"Q4 could be UD-Q4_K_XL, Q4_K_M, Q4_K_S\."):
        match_quant(QUANTS, "Q4")
    twins = quants_of("base-Q4_K_M.gguf", "thinking-Q4_K_M.gguf")
    with pytest.raises(NotFound, match=r"could be base-Q4_K_M, thinking-Q4_K_M\."):
        match_quant(twins, "Q4_K_M")
    assert match_quant(twins, "thinking-Q4_K_M").stem == "thinking-Q4_K_M"


def test_a_file_means_all_of_its_shards() -> None:
    quants = quants_of("m-00001-of-00002.gguf", "m-00002-of-00002.gguf")
    assert len(match_file(quants, (), "m-00002-of-00002.gguf").files) == 2
    with pytest.raises(NotFound, match="no file n.gguf"):
        match_file(quants, (), "n.gguf")


def test_a_file_is_found_in_any_case_that_is_clear() -> None:
    quants = quants_of("a/M-Q8_0.gguf", "b-Q8_0.gguf", "B-Q8_0.gguf")
    assert match_file(quants, (), "A/m-q8_0.GGUF").files[0].path == "a/M-Q8_0.gguf"
    assert match_file(quants, (), "b-Q8_0.gguf").files[0].path == "b-Q8_0.gguf"
    with pytest.raises(NotFound):
        match_file(quants, (), "b-q8_0.gguf")
    name = parse_model_name("org/repo:M-Q8_0.gguf")  # as Ollama names files
    assert match_quant(quants, name.quant).files[0].path == "a/M-Q8_0.gguf"


def test_names_are_shown_without_control_characters() -> None:
    assert show_name("a\x1b[31mb\n") == "a�[31mb�"
    assert len(show_name("x" * 500)) == 120
