"""Hold the sizes that `moetool quantize` tells against the files that come of it, for many architectures.

    test-llama-archs -o archs && python scripts/check_quant_sizes.py archs/*.gguf

Each file is quantized by stock mixes and by moe-aware in three sizes; the size must be right to the byte, and
the types those that were told. What llama.cpp's quantizer refuses is listed with its reason.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from moetool.cli.opening import open_model
from moetool.cli.quantizing import Asked, make_quant_plan, write_quant
from moetool.errors import DoesNotFit, MoetoolError
from moetool.lab.recipes import MOE_AWARE
from moetool.lab.target import Target

ORDERS = [Asked(recipe, Target(), requantize=True) for recipe in ("Q4_K_M", "Q2_K", "Q4_0", "F16")]
ORDERS += [Asked(MOE_AWARE, Target(bits_per_weight=bits), requantize=True) for bits in (5.5, 9.0, 20.0)]


def check(path: Path, asked: Asked, target: Path) -> str:
    """What became of it: "equal", "too small a target", or what went wrong."""
    try:
        opened = open_model(str(path))
        plan = make_quant_plan(opened, asked)
        target.unlink(missing_ok=True)
        write_quant(opened, plan, asked, target)
    except DoesNotFit:
        return "too small a target"
    except MoetoolError as error:
        return error.message.replace(path.name, "…")
    return "equal" if target.stat().st_size == plan.file_bytes else f"{path.name}: sizes differ"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("models", nargs="+", type=Path)
    args = parser.parse_args()
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for path in args.models:
            for asked in ORDERS:
                outcome = check(path, asked, Path(folder) / "quantized.gguf")
                found[outcome] += 1
                if outcome not in ("equal", "too small a target"):
                    print(
                        f"{path.name} {asked.recipe} {asked.target.bits_per_weight or ''}: {outcome}",
                        flush=True,
                    )
    for outcome, count in found.most_common():
        print(f"{count:5} {outcome}")


if __name__ == "__main__":
    main()
