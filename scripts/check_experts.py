#!/usr/bin/env python3
"""Fewer experts in every architecture that has them: what moetool says of it, against llama.cpp itself.

    test-llama-archs -o ARCHS_DIR        # llama.cpp's own test writes a small file of every architecture
    scripts/check_experts.py ARCHS_DIR [NAME_BEGINS_WITH]

Of each file with 2 experts, both used: is a number called fixed (moetool.anatomy.Routing) that llama.cpp does
not take, and no other? Does the graph renormalise weights where that is said? And are the logits the same
whether llama.cpp is asked for 1 expert, or the weaker one's weight is dropped in all layers
(engine.FewerExperts)? One process a file: llama.cpp's asserts end theirs.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

N_TOKENS = 24
TOLERANCE = 1e-3  # of the largest logit: the dropped expert's zeros are added


def logits(path: Path, arch: str, experts: int | None, *, drop: bool) -> np.ndarray:
    from moetool.anatomy import make_anatomy
    from moetool.engine.fewer_experts import FewerExperts
    from moetool.engine.model import Engine
    from moetool.engine.reading import TextReader
    from moetool.gguf import open_header
    from moetool.settings import Settings

    anatomy = make_anatomy(open_header(path))
    settings = Settings(
        n_ctx=256, n_batch=64, n_ubatch=64, n_threads=1, n_outputs_max=N_TOKENS, experts=experts
    )
    tokens = np.random.default_rng(1).integers(3, anatomy.n_vocab, N_TOKENS).tolist()
    with Engine([path], settings, arch) as engine:
        if drop:
            fewer = FewerExperts(is_softmaxed=anatomy.routing.is_softmaxed)
            fewer.keep = {layer.index: 1 for layer in anatomy.layers if layer.ffn == "moe"}
            engine.use_watch(fewer.watch)
        return np.concatenate([block.copy() for block in TextReader(engine).read(tokens, 0, N_TOKENS)])


def seen_weights(path: Path, arch: str) -> set[str]:
    """What llama.cpp's graph does with the weights of chosen experts, by its names."""
    from moetool.engine.model import Engine
    from moetool.engine.watch import Watch
    from moetool.settings import Settings

    seen: set[str] = set()
    names = ("ffn_moe_weights", "ffn_moe_weights_norm", "ffn_moe_weights_softmax")
    with Engine([path], Settings(n_ctx=256, n_threads=1), arch) as engine:
        engine.use_watch(Watch(lambda node: seen.add(node.name.rpartition("-")[0]), names=names))
        engine.decode([3, 4, 5])
        engine.synchronize()
    return seen


def check(path: Path) -> str:
    """What is true of one file, in a few words; "WRONG" where we say otherwise."""
    from moetool.anatomy import make_anatomy
    from moetool.errors import EngineError
    from moetool.gguf import open_header

    anatomy = make_anatomy(open_header(path))
    routing, arch = anatomy.routing, anatomy.arch
    found = []
    seen = seen_weights(path, arch)
    if not seen:
        return "its graph uses no experts"
    renormed = len(seen) > 1
    wrong = "" if renormed == routing.is_renormed else " WRONG"
    found.append(("renormalised" if renormed else "not renormalised") + wrong)
    whole = logits(path, arch, None, drop=False)
    dropped = logits(path, arch, None, drop=True)
    try:
        one = logits(path, arch, 1, drop=False)
    except EngineError as error:
        found.append(f"fixed: {error.message}" + ("" if routing.fixed else " WRONG"))
        return "; ".join(found)
    if routing.fixed:
        found.append("WRONG: said to be fixed")
    size = float(np.abs(one).max())
    apart, change = float(np.abs(one - dropped).max()) / size, float(np.abs(one - whole).max()) / size
    found.append(f"1 expert: {apart:.1e} from dropping, {change:.1e} from both")
    if apart > TOLERANCE:
        found.append("WRONG: not as if dropped")
    return "; ".join(found)


def main() -> int:
    if len(sys.argv) == 3 and sys.argv[1] == "--one":
        print(check(Path(sys.argv[2])))
        return 0
    from moetool.anatomy import make_anatomy
    from moetool.gguf import open_header

    begin = sys.argv[2] if len(sys.argv) > 2 else ""
    n_wrong = n_done = 0
    for path in sorted(Path(sys.argv[1]).glob(f"{begin}*.gguf")):
        anatomy = make_anatomy(open_header(path))
        if not anatomy.is_moe or not anatomy.causal or anatomy.n_expert_used < 2:
            continue
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(path)], capture_output=True, text=True, check=False
        )
        said = done.stdout.strip() or f"ended by {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"
        n_done, n_wrong = n_done + 1, n_wrong + ("WRONG" in said or bool(done.returncode))
        print(f"{path.stem:24} {said}", flush=True)
    print(f"{n_done} files, {n_wrong} not as said")
    return int(bool(n_wrong))


if __name__ == "__main__":
    raise SystemExit(main())
