"""Train the demo model on the CPU and write it as GGUF (F32 and Q8_0).

The corpus is generated on the fly from the seed; PyTorch is needed here only (the ``train`` extra).
Two processes with one thread each share the weights: both compute gradients, each updates its half.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from demo_corpus import POLISH_SHARES, SHARES, Stream
from demo_export import letter_pieces, quantize, train_tokenizer, write_gguf
from demo_model import Experts, Model, Shape, adamw_step, dense_twin, muon_step
from tokenizers import Tokenizer
from torch import Tensor

MUON_LR, ADAM_LR, DECAY, CLIP, WARM_UP = 5e-3, 3e-3, 0.02, 1.0, 60
EXAMPLES = """examples:
  train the shipped model (about 50 minutes on two cores with AVX512-BF16):
    python scripts/train_demo.py --out build/demo
  go on after a stop:
    python scripts/train_demo.py --out build/demo --resume
  see whether everything works (a minute; the model knows nothing):
    python scripts/train_demo.py --out build/smoke --steps 5 --polish 5
  a dense twin with the same active size and the same corpus:
    python scripts/train_demo.py --out build/dense --dense
  then measure and install it:
    python scripts/eval_demo.py build/demo/demo-Q8_0.gguf
    cp build/demo/demo-Q8_0.gguf moetool/demo/demo.gguf
"""


@dataclass
class Shared:
    """Tensors in shared memory, by parameter name; ``grads`` and ``norms`` have one entry a process."""

    master: dict[str, Tensor]  # float32, the truth
    weights: dict[
        str, Tensor
    ]  # what the forward pass reads: bfloat16 copies of the matrices, else the master
    states: dict[str, tuple[Tensor, ...]]  # Muon: momentum; AdamW: mean and square
    grads: list[dict[str, Tensor]]
    norms: Tensor
    matrices: set[str]


@dataclass
class Log:
    """The training curve and what is needed to go on."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)


def make_shared(shape: Shape, seed: int, world: int) -> Shared:
    """Initial weights and zeroed states."""
    torch.manual_seed(seed)
    model = Model(shape)
    master = {name: p.detach().clone().share_memory_() for name, p in model.named_parameters()}
    matrices = set(model.matrix_names())
    weights = {n: t.bfloat16().share_memory_() if n in matrices else t for n, t in master.items()}
    states = {
        n: tuple(torch.zeros_like(t).share_memory_() for _ in range(1 if n in matrices else 2))
        for n, t in master.items()
    }
    grads = [{n: torch.zeros_like(t).share_memory_() for n, t in weights.items()} for _ in range(world)]
    return Shared(master, weights, states, grads, torch.zeros(world).share_memory_(), matrices)


def owned(shared: Shared, rank: int, world: int) -> list[str]:
    """The parameters that a process updates: the largest first, always to the least loaded."""
    loads, mine = [0] * world, []
    for name in sorted(shared.master, key=lambda n: (-shared.master[n].numel(), n)):
        target = loads.index(min(loads))
        # A Newton-Schulz iteration costs far more than AdamW's few passes.
        loads[target] += shared.master[name].numel() * (20 if name in shared.matrices else 1)
        if target == rank:
            mine.append(name)
    return mine


def sequence_length(progress: float, rng: random.Random) -> int:
    """Short sequences first: skills appear sooner, and long look-ups come when look-up is there."""
    if progress < 0.25:
        return 256
    if progress < 0.5:
        return 256 if rng.random() < 0.35 else 512
    shares = [0.35, 0.3, 0.35] if progress < 1 else [0.25, 0.25, 0.5]
    return rng.choices([256, 512, 1024], shares)[0]


def rate(args: argparse.Namespace, step: int) -> float:
    """Share of the peak learning rate: warm-up, constant to 40 %, linear to 2 %; polish restarts lower."""
    if step >= args.steps:
        done = (step - args.steps) / args.polish
        return min(0.02 + 0.02 * (step - args.steps), 0.35 * (1 - done) + 0.01)
    progress = step / args.steps
    return min(1.0, (step + 1) / WARM_UP, 1.0 - 0.98 * max(0.0, progress - 0.4) / 0.6)


def loss_of(model: Model, ids: Tensor, weights: Tensor) -> tuple[Tensor, float]:
    """Weighted cross entropy plus router losses, and the plain mean loss of the answers."""
    logits = model(ids[:, :-1])
    each = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    answers = weights >= 1
    plain = float(each.detach()[answers].mean())
    return (each * weights).sum() / weights.sum() + model.aux_loss(), plain


def update(shared: Shared, mine: list[str], scale: float, step: int) -> None:
    """Clip the averaged gradients and step the parameters of this process (after both have a norm)."""
    clip = min(1.0, CLIP / (float(shared.norms.sum()) ** 0.5 + 1e-6))
    for name in mine:
        grad = shared.grads[0][name].float()
        grad.mul_(clip)
        if name in shared.matrices:
            muon_step(shared.master[name], grad, shared.states[name][0], MUON_LR * scale, DECAY)
            shared.weights[name].copy_(shared.master[name])
        else:
            mean, square = shared.states[name]
            adamw_step(shared.master[name], grad, (mean, square), ADAM_LR * scale, step + 1)


def average(shared: Shared, mine: list[str], rank: int) -> None:
    """Average the gradients of this process's parameters into entry 0; note their squared norm."""
    total = 0.0
    for name in mine:
        first, *others = (entry[name] for entry in shared.grads)
        mean = first.float()
        for other in others:
            mean += other
        mean /= len(shared.grads)
        first.copy_(mean)
        total += float(torch.linalg.vector_norm(mean)) ** 2
    shared.norms[rank] = total


def worker(rank: int, args: argparse.Namespace, shape: Shape, shared: Shared, log: Log, barrier: Any) -> None:
    """One training process: its own documents, the shared weights."""
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(Path(args.out, "tokenizer.json")))
    stream = Stream(tokenizer, letter_pieces(tokenizer), args.seed, rank)
    model = Model(shape)
    params = dict(model.named_parameters())
    for name, param in params.items():
        param.data = shared.weights[name]
    mine = owned(shared, rank, args.threads)
    started, recent = time.monotonic() - log.seconds, []
    for step in range(log.step, args.steps + args.polish):
        progress = step / args.steps
        length = sequence_length(progress, random.Random(f"length-{args.seed}-{step}"))
        ids, weights = stream.batch(step, args.batch // args.threads // length, length, step >= args.steps)
        loss, plain = loss_of(model, torch.tensor(ids), torch.tensor(weights))
        loss.backward()
        for name, param in params.items():
            shared.grads[rank][name].copy_(param.grad)
            param.grad = None
        barrier.wait()
        average(shared, mine, rank)
        barrier.wait()
        update(shared, mine, rate(args, step), step)
        barrier.wait()
        if rank == 0:
            recent = [*recent[-19:], plain]
            log.step, log.seconds = step + 1, time.monotonic() - started
            log.tokens += args.batch
            note(args, log, shared, model, sum(recent) / len(recent))


def note(args: argparse.Namespace, log: Log, shared: Shared, model: Model, loss: float) -> None:
    """A line every 20 steps, a checkpoint every 200 and at the end."""
    last = log.step == args.steps + args.polish
    if log.step % 20 == 0 or last or log.step <= 3:
        blocks = [block.ffn for block in model.blocks if isinstance(block.ffn, Experts)]
        shares = (
            [round(float(b.shares.min()), 3) for b in blocks],
            [round(float(b.shares.max()), 3) for b in blocks],
        )
        row = {
            "step": log.step,
            "seconds": round(log.seconds, 1),
            "tokens": log.tokens,
            "answer_loss": round(loss, 4),
            "least_expert": shares[0],
            "most_expert": shares[1],
        }
        log.curve.append(row)
        print(json.dumps(row), flush=True)
    if log.step % 200 == 0 or last:
        path = Path(args.out, "checkpoint.pt")
        torch.save(
            {"master": shared.master, "states": shared.states, "log": vars(log)}, path.with_suffix(".tmp")
        )
        path.with_suffix(".tmp").replace(path)


def load_checkpoint(out: Path, shared: Shared, log: Log) -> None:
    """Put a checkpoint into the shared tensors."""
    saved = torch.load(out / "checkpoint.pt", weights_only=True)
    for name, tensor in saved["master"].items():
        shared.master[name].copy_(tensor)
        if name in shared.matrices:
            shared.weights[name].copy_(tensor)
        for target, state in zip(shared.states[name], saved["states"][name], strict=True):
            target.copy_(state)
    vars(log).update(saved["log"])


def export(args: argparse.Namespace, shape: Shape, shared: Shared, log: Log) -> None:
    """Write the GGUF files, the F32 weights and the training log."""
    tokenizer = Tokenizer.from_file(str(args.out / "tokenizer.json"))
    weights: dict[str, np.ndarray] = {name: tensor.numpy() for name, tensor in shared.master.items()}
    full, small = args.out / "demo-F32.gguf", args.out / "demo-Q8_0.gguf"
    write_gguf(full, weights, shape, tokenizer, {"seed": args.seed, "steps": log.step})
    quantize(full, small, threads=args.threads)
    torch.save(shared.master, args.out / "weights.pt")
    record = {
        "seed": args.seed,
        "steps": log.step,
        "tokens": log.tokens,
        "wall_s": round(log.seconds, 1),
        "processes": args.threads,
        "tokens_per_step": args.batch,
        "dense": args.dense,
        "shape": shape.as_dict(),
        "parameters": sum(w.size for w in weights.values()),
        "shares": SHARES,
        "polish_steps": args.polish,
        "polish_shares": POLISH_SHARES,
        "f32_bytes": full.stat().st_size,
        "q8_0_bytes": small.stat().st_size,
        "torch": torch.__version__,
        "curve": log.curve,
    }
    (args.out / "train.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {full}, {small} and train.json", flush=True)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the model, the tokenizer and the log"
    )
    parser.add_argument("--seed", type=int, default=20, help="of weights and corpus (default 20)")
    parser.add_argument("--steps", type=int, default=2600, help="training steps (default 2600)")
    parser.add_argument("--polish", type=int, default=700, help="steps on what is hardest (default 700)")
    parser.add_argument("--batch", type=int, default=8192, help="tokens in a step, all processes together")
    parser.add_argument("--threads", type=int, default=2, help="processes with one thread each (default 2)")
    parser.add_argument("--dense", action="store_true", help="train the dense twin (architecture qwen3)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--export-only", action="store_true", help="write the GGUF files from the checkpoint")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    shape = dense_twin(Shape()) if args.dense else Shape()
    shared, log = make_shared(shape, args.seed, args.threads), Log()
    if args.resume or args.export_only:
        load_checkpoint(args.out, shared, log)
    else:
        train_tokenizer(shape.n_vocab, args.seed).save(str(args.out / "tokenizer.json"))
    if not args.export_only:
        context = mp.get_context("spawn")
        extra = (args, shape, shared, log, context.Barrier(args.threads))
        mp.spawn(worker, args=extra, nprocs=args.threads)
        load_checkpoint(args.out, shared, log)  # the worker's log lives in its own process
    export(args, shape, shared, log)


if __name__ == "__main__":
    main()
