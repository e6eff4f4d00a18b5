"""Routing as moetool counts it against llama.cpp's own count, expert by expert: `llama-imatrix` counts too.

    test-llama-archs -o ARCHS_DIR        # llama.cpp's own test writes a small file of every architecture
    python scripts/check_routing.py path/to/llama-imatrix ARCHS_DIR/*-moe.gguf [MODEL.gguf …]

The files of ARCHS_DIR have two experts and no text can be made into their tokens: each is written anew with
eight, of which a token gets three, with random weights in their place and the demo's vocabulary. Others are
taken as they are. Both read the same chunks of our text; every count must be equal. What moetool makes of the
gate is held against the weights that llama.cpp multiplies with. Variants of three architectures choose groups
of experts first, or look experts up by token.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from moetool.anatomy import make_anatomy
from moetool.assets import demo_model_path, quality_text_path
from moetool.engine.model import Engine
from moetool.engine.reading import TextReader
from moetool.engine.routing import Routed, read_routed
from moetool.engine.watch import Node, Watch
from moetool.errors import EngineError
from moetool.gguf import open_header
from moetool.lab.reading import RoutingReader
from moetool.settings import Settings

N_EXPERT, N_USED = 8, 3
N_CHUNK, N_CHUNKS = 128, 8
# What is called after the experts' axis, and after the vocabulary's; both are the first for numpy.
_EXPERTS = re.compile(r"blk\.\d+\.(ffn_.*exps\.|ffn_gate_inp\.|exp_probs_b)")
_TOKENS = re.compile(r"(token_embd|output|per_layer_token_embd)\.(weight|bias)$")
# Architecture -> other metadata, to try what no small file does by itself.
VARIANTS: Mapping[str, Mapping[str, int]] = {
    "deepseek2": {"expert_group_count": 4, "expert_group_used_count": 2},
    "bailingmoe2": {"expert_group_count": 4, "expert_group_used_count": 2},
    "deepseek4": {"hash_layer_count": 1},
}


class NoExperts(Exception):
    """The file has experts, llama.cpp's graph of its architecture has none."""


class ToolDied(Exception):
    """llama-imatrix crashed."""


@dataclass(frozen=True)
class Result:
    """One file: layers compared, choices counted, how many counts differ, the worst share; against what."""

    n_layers: int
    n_choices: int
    n_unequal: int
    share_error: float
    against: str


def widen(source: Path, target: Path, others: Mapping[str, int]) -> None:
    """Write a small file anew, with N_EXPERT experts and the demo's vocabulary."""
    old, demo = gguf.GGUFReader(source), gguf.GGUFReader(demo_model_path())
    arch = str(old.fields["general.architecture"].contents())
    n_vocab = len(demo.fields["tokenizer.ggml.tokens"].data)
    changed = {"expert_count": N_EXPERT, "expert_used_count": N_USED, "vocab_size": n_vocab, **others}
    writer = gguf.GGUFWriter(target, arch)
    fields = [field for name, field in old.fields.items() if not name.startswith("tokenizer.")]
    fields += [field for name, field in demo.fields.items() if name.startswith("tokenizer.")]
    for field in fields:
        if field.name == "general.architecture" or field.name.startswith("GGUF."):
            continue
        kind, key = field.types[0], field.name.removeprefix(f"{arch}.")
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = changed.get(key, field.contents())
        if kind != gguf.GGUFValueType.ARRAY or value:
            writer.add_key_value(field.name, value, kind, inner)
    rng = np.random.default_rng(1)
    hashed = range(others.get("hash_layer_count", 0))
    for tensor in old.tensors:
        if tensor.name in {f"blk.{layer}.exp_probs_b.bias" for layer in hashed}:
            continue
        writer.add_tensor(tensor.name, _widened(tensor.name, tensor.data, n_vocab, rng))
    for layer in hashed:
        table = np.array([rng.permutation(N_EXPERT)[:N_USED] for _ in range(n_vocab)], np.int32)
        writer.add_tensor(f"blk.{layer}.ffn_gate_tid2eid.weight", table)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _widened(name: str, data: npt.NDArray[Any], n_vocab: int, rng: np.random.Generator) -> npt.NDArray[Any]:
    n = N_EXPERT if _EXPERTS.match(name) and len(data) == 2 else n_vocab if _TOKENS.match(name) else 0
    if not n:
        return data
    return rng.normal(data.mean(), data.std(), (n, *data.shape[1:])).astype(data.dtype)


def counts_of_imatrix(tool: Path, model: Path, text: Path, folder: Path) -> dict[int, list[npt.NDArray[Any]]]:
    """Layer -> the counts of each of its tensors of experts, as llama-imatrix counted them."""
    out = folder / "imatrix.gguf"
    sizes = ["-c", N_CHUNK, "-b", N_CHUNK, "-ub", N_CHUNK, "--chunks", N_CHUNKS, "-t", 2]
    command = [tool, "-m", model, "-f", text, "-o", out, "--no-ppl", "--output-format", "gguf", *sizes]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode < 0:
        raise ToolDied(f"llama-imatrix dies by signal {-done.returncode}")
    if done.returncode:
        raise RuntimeError((done.stderr + done.stdout).strip().splitlines()[-1])
    found: dict[int, list[npt.NDArray[Any]]] = {}
    for tensor in gguf.GGUFReader(out).tensors:
        match = re.match(r"blk\.(\d+)\.ffn_\w+_exps\.weight\.counts$", tensor.name)
        if match:
            found.setdefault(int(match[1]), []).append(tensor.data.ravel().astype(np.int64))
    return found


def compare(tool: Path, model: Path, text: Path, folder: Path) -> Result:
    """One file, both ways."""
    header = open_header(model)
    anatomy = make_anatomy(header)
    settings = Settings(n_ctx=N_CHUNK, n_batch=N_CHUNK, n_ubatch=N_CHUNK, n_outputs_max=N_CHUNK, n_threads=2)
    with Engine([model], settings, header.arch) as engine:
        reader = RoutingReader(engine, anatomy.n_expert)
        words = text.read_text("utf-8").removesuffix("\n")
        tokens = engine.vocabulary.tokenize(words, add_special=True)[: N_CHUNK * N_CHUNKS]
        try:
            reader.read_text(text.name, tokens, N_CHUNK)
        except EngineError as error:
            raise NoExperts(str(error)) from error
        profile = reader.tally.profile()
        share_error = check_shares(engine, anatomy.n_expert, tokens[:N_CHUNK])
        against = "llama-imatrix"
        try:
            theirs = counts_of_imatrix(tool, model, text, folder)
        except ToolDied as error:
            against = f"the ids of the products: {error}"
            theirs = counts_of_products(engine, tokens)
    if set(theirs) != set(profile.layers):
        raise RuntimeError(f"layers {profile.layers} are not {sorted(theirs)}")
    unequal = 0
    for at, layer in enumerate(profile.layers):
        ours = profile.counts[0, at]
        unequal += sum(int((ours != counts).sum()) for counts in theirs[layer])
    return Result(len(theirs), int(profile.counts.sum()), unequal, share_error, against)


def counts_of_products(engine: Engine, tokens: list[int]) -> dict[int, list[npt.NDArray[Any]]]:
    """The same from the ids that matrices of experts are multiplied by, where llama-imatrix cannot say."""
    found: dict[str, npt.NDArray[Any]] = {}

    def see(node: Node) -> None:
        weights, ids = node.source(0), node.source(2)
        assert weights is not None and ids is not None
        counts = np.bincount(ids.rows().ravel(), minlength=weights.shape[1])
        found[weights.name] = found.get(weights.name, 0) + counts

    engine.use_watch(Watch(see, ops=("MUL_MAT_ID",)))
    vocabulary = engine.vocabulary
    for start in range(0, len(tokens), N_CHUNK):
        chunk = tokens[start : start + N_CHUNK]
        chunk[0] = vocabulary.bos if vocabulary.adds_bos else chunk[0]
        for _ in TextReader(engine).read(chunk, 0, N_CHUNK):
            pass
    by_layer: dict[int, list[npt.NDArray[Any]]] = {}
    for name, counts in found.items():
        by_layer.setdefault(int(name.split(".")[1]), []).append(counts)
    return by_layer


def check_shares(engine: Engine, n_expert: int, tokens: list[int]) -> float:
    """By how much the shares that are read off the gate differ from the weights of the graph, at the most."""
    seen: dict[int, Routed] = {}
    errors = [0.0]

    def see(node: Node) -> None:
        layer = int(node.name.rpartition("-")[2])
        if node.name.startswith("ffn_moe_topk"):
            seen.setdefault(layer, read_routed(node, n_expert))
        elif node.name.startswith("ffn_moe_weights_softmax") or not _is_logits(node):
            errors.append(_far(node, seen[layer]))

    engine.use_watch(Watch(see, names=("ffn_moe_topk", "ffn_moe_weights", "ffn_moe_weights_softmax")))
    for _ in TextReader(engine).read(tokens, 0, N_CHUNK):
        seen.clear()
    return max(errors)


def _is_logits(node: Node) -> bool:
    """Are these of a gate whose softmax is taken over the chosen experts only?"""
    source = node.source(0)
    probs = source.source(0) if source is not None else None
    return probs is not None and probs.op in {"MUL_MAT", "ADD"}


def _far(node: Node, routed: Routed) -> float:
    weights = node.read().reshape(routed.ids.shape)
    if np.isnan(routed.top_mass).all():
        return 0.0  # looked up: nothing was scored
    return float(np.abs(weights / weights.sum(axis=1, keepdims=True) - routed.shares).max())


def variants(paths: list[Path], folder: Path) -> Iterator[tuple[str, Path]]:
    """Names and files to compare: small files as they are written anew, others as they are."""
    for path in paths:
        header = open_header(path)
        if header.get_str("tokenizer.ggml.model") != "test":
            yield path.name, path
            continue
        target = folder / "wide.gguf"
        widen(path, target, {})
        yield f"{path.stem}", target
        if header.arch in VARIANTS:
            widen(path, target, VARIANTS[header.arch])
            yield f"{path.stem} {' '.join(VARIANTS[header.arch])}", target


def main() -> None:
    """Compare all files; exit code 1 if any count differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tool", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    args = parser.parse_args()
    is_wrong = False
    print("| file | layers | choices | unequal counts | worst share | against |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for label, path in variants(args.models, Path(name)):
            if not make_anatomy(open_header(path)).is_moe:
                print(f"| {label} | dense | | | | |", flush=True)
                continue
            try:
                result = compare(args.tool, path, quality_text_path(), Path(name))
            except NoExperts:
                print(f"| {label} | llama.cpp computes no experts | | | | |", flush=True)
                continue
            except Exception as error:  # noqa: BLE001 (the others are still to be compared)
                is_wrong = True
                print(f"| {label} | {type(error).__name__}: {error} | | | | |", flush=True)
                continue
            is_wrong |= result.n_unequal > 0
            cells = (
                result.n_layers,
                result.n_choices,
                result.n_unequal,
                f"{result.share_error:.1e}",
                result.against,
            )
            print(f"| {label} | {' | '.join(map(str, cells))} |", flush=True)
    sys.exit(is_wrong)


if __name__ == "__main__":
    main()
