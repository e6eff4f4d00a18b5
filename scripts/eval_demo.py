"""Measure the demo model through llama.cpp: accuracy on held-out items, and the logits against PyTorch.

Held-out means: words, names and products that no training list contains, operand pairs that no step of the
corpus contains, wordings of facts that were left out. Everything is greedy and seeded.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from demo_corpus import SHARES, TASKS, make_doc, prompt_text, render
from demo_extract import extraction, json_list, json_records, reading
from demo_facts import fact, question, yes_no
from demo_source import UNSEEN, Doc, Source, is_seen_pair, overlap
from demo_tasks import arithmetic, bare_arithmetic, chain, copying, lookup, order, small

EXAMPLES = """examples:
  the accuracy table of the model card:
    python scripts/eval_demo.py moetool/demo/demo.gguf
  fewer items, some tasks, as JSON:
    python scripts/eval_demo.py moetool/demo/demo.gguf --items 50 --only extract arithmetic --json
  llama.cpp against PyTorch on 100 held-out prompts (needs torch and the training folder):
    python scripts/eval_demo.py build/demo/demo-F32.gguf --logits build/demo
  no held-out word or operand pair is in the corpus:
    python scripts/eval_demo.py moetool/demo/demo.gguf --leaks 100000
  ask something:
    python scripts/eval_demo.py moetool/demo/demo.gguf --ask "What is 17 + 25?"
"""
MAX_ANSWER = 220  # tokens
END = "<|im_end|>"


class Runner:
    """A llama.cpp context with greedy decoding; ``exact`` turns off what rounds (F32 KV, no FA)."""

    def __init__(self, path: Path, exact: bool = False, threads: int = 2) -> None:
        from llama_cpp import llama_cpp as lib

        self.lib = lib
        self._silent = lib.llama_log_callback(lambda level, text, data: None)
        lib.llama_log_set(self._silent, ctypes.c_void_p())
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 1024
        params.n_threads = params.n_threads_batch = threads
        if exact:
            params.type_k = params.type_v = 0  # GGML_TYPE_F32
            params.flash_attn_type = 0
        self.context = lib.llama_init_from_model(self.model, params)
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.n_vocab = lib.llama_vocab_n_tokens(self.vocab)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text; control tokens in it are recognised."""
        raw = text.encode()
        room = (self.lib.llama_token * (len(raw) + 8))()
        count = self.lib.llama_tokenize(self.vocab, raw, len(raw), room, len(room), False, True)
        return list(room[:count])

    def decode(self, ids: list[int]) -> np.ndarray:
        """Feed tokens; the logits of the last one."""
        array = (self.lib.llama_token * len(ids))(*ids)
        if self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(array, len(ids))):
            raise SystemExit("llama_decode failed (prompt longer than 1024 tokens?)")
        row = self.lib.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(row, (self.n_vocab,)).copy()

    def clear(self) -> None:
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)

    def piece(self, token: int) -> bytes:
        room = ctypes.create_string_buffer(64)
        count = self.lib.llama_token_to_piece(self.vocab, token, room, 64, 0, False)
        return room.raw[:count]

    def answer(self, prompt: str, matcher: Any = None) -> str:
        """The greedy answer, inside a grammar if a matcher is given."""
        self.clear()
        logits, out = self.decode(self.tokenize(prompt)), b""
        for _ in range(MAX_ANSWER):
            if matcher is not None:
                logits = matcher.masked(logits)
            token = int(logits.argmax())
            if self.lib.llama_vocab_is_eog(self.vocab, token) or (
                matcher is not None and not matcher.take(token)
            ):
                break
            out += self.piece(token)
            logits = self.decode([token])
        return out.decode(errors="replace")


class Schemas:
    """JSON schemas as token masks, by llguidance over the model's own vocabulary."""

    def __init__(self, runner: Runner) -> None:
        import llguidance
        import llguidance.llamacpp
        import llguidance.numpy

        self.guide, self.arrays = llguidance, llguidance.numpy
        self.tokenizer = llguidance.llamacpp.lltokenizer_from_vocab(runner.vocab)

    def matcher(self, schema: dict[str, Any]) -> Matcher:
        style = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        grammar = self.guide.LLMatcher.grammar_from_json_schema(schema, overrides=style)
        return Matcher(self, self.guide.LLMatcher(self.tokenizer, grammar))


@dataclass
class Matcher:
    """The state of one constrained answer."""

    schemas: Schemas
    inner: Any

    def masked(self, logits: np.ndarray) -> np.ndarray:
        """Logits with every forbidden token at minus infinity."""
        mask = self.schemas.arrays.allocate_token_bitmask(1, self.schemas.tokenizer.vocab_size)
        self.schemas.arrays.fill_next_token_bitmask(self.inner, mask)
        allowed = np.unpackbits(mask[0].view(np.uint8), bitorder="little")[: logits.size].astype(bool)
        return np.where(allowed, logits, -np.inf)

    def take(self, token: int) -> bool:
        """Accept a token; False when the answer is complete."""
        return not self.inner.is_stopped() and bool(self.inner.consume_token(token))


@dataclass(frozen=True)
class Task:
    """A row of the table: how items are made, and when an answer counts."""

    name: str
    make: Callable[[Source], Doc]
    right: Callable[[str, Doc], bool]
    schema: bool = False
    unseen: bool = True
    distance: int = 0  # look-up: tokens between the key in the list and the answer


@dataclass
class Score:
    """Items, right ones, and what went wrong first."""

    items: int = 0
    right: int = 0
    wrong: list[dict[str, str]] = field(default_factory=list)

    @property
    def percent(self) -> float:
        return 100 * self.right / max(1, self.items)


def same_text(text: str, doc: Doc) -> bool:
    return text == doc.turns[-1].answer


def same_json(text: str, doc: Doc) -> bool:
    """Equal as JSON, key order included."""
    try:
        return json.dumps(json.loads(text)) == json.dumps(json.loads(doc.turns[-1].answer))
    except ValueError:
        return False


def same_result(text: str, doc: Doc) -> bool:
    return text.endswith(f"The answer is {doc.extra['result']}.")


def has_value(text: str, doc: Doc) -> bool:
    return doc.extra["value"] in re.findall(r"\w+", text)


def tasks() -> list[Task]:
    rows = [
        Task("extract-schema", extraction, same_json, schema=True),
        Task("extract-schema-seen", extraction, same_json, schema=True, unseen=False),
        Task("extract", extraction, same_text),
        Task("extract-list-schema", json_list, same_json, schema=True),
        Task("extract-records-schema", json_records, same_json, schema=True),
        Task("extract-question", reading, same_text),
        Task("arithmetic", lambda source: arithmetic(source, held_out=True), same_text),
        Task("arithmetic-bare", lambda source: bare_arithmetic(source, held_out=True), same_text),
    ]
    rows += [
        Task(f"chain-{n}", lambda source, n=n: chain(source, n, held_out=True), same_result)
        for n in (2, 3, 4)
    ]
    rows += [
        Task(f"lookup-{n}", lambda source, n=n: lookup(source, int(n * 1.05)), same_text, distance=n)
        for n in (64, 128, 256, 512, 700)
    ]
    return [
        *rows,
        Task("fact", lambda source: fact(source, held_out=True), has_value),
        Task("yes-no", yes_no, same_text),
        Task("question", lambda source: question(source, held_out=True), same_text),
        Task("order", order, same_text),
        Task("copy", copying, same_text),
        Task("small", small, same_text),
    ]


def items(task: Task, runner: Runner, count: int, seed: int) -> Iterator[Doc]:
    """Held-out documents of a task; look-ups only at the wanted distance."""
    source = Source(random.Random(f"eval-{task.name}-{seed}"), unseen=task.unseen)
    if not task.unseen:
        source.open_share = 0.0
    while count:
        doc = task.make(source)
        if task.distance and not task.distance * 0.6 < _distance(runner, doc) <= task.distance:
            continue
        count -= 1
        yield doc


def _distance(runner: Runner, doc: Doc) -> int:
    """Tokens from the asked value in the list to the end of the prompt; 0 if the prompt is too long."""
    prompt = prompt_text(doc)
    if len(runner.tokenize(prompt)) > 1000:
        return 0
    return len(runner.tokenize(prompt[prompt.find(doc.turns[-1].answer) :]))


def measure(task: Task, runner: Runner, schemas: Schemas, count: int, seed: int) -> Score:
    score = Score()
    for doc in items(task, runner, count, seed):
        matcher = schemas.matcher(doc.schema) if task.schema and doc.schema else None
        text = runner.answer(prompt_text(doc), matcher)
        score.items += 1
        if task.right(text, doc):
            score.right += 1
        elif len(score.wrong) < 20:
            score.wrong.append({"prompt": doc.turns[-1].user, "wanted": doc.turns[-1].answer, "got": text})
    return score


def held_out_prompts(count: int = 100) -> list[str]:
    """Prompts of all kinds with unseen words and pairs, for comparing logits."""
    source = Source(random.Random("prompts"), unseen=True)
    special = {
        "arithmetic": lambda s: arithmetic(s, held_out=True),
        "chain": lambda s: chain(s, held_out=True),
        "fact": lambda s: fact(s, held_out=True),
        "lookup": lambda s: lookup(s, 90),
    }
    kinds = list(SHARES)
    docs = (
        special.get(kinds[i % len(kinds)], lambda s, i=i: TASKS[kinds[i % len(kinds)]](s, 128))(source)
        for i in range(count)
    )
    return [prompt_text(doc) for doc in docs]


def compare_logits(path: Path, folder: Path) -> dict[str, Any]:
    """Largest difference of last-position logits, PyTorch to llama.cpp, in F32 without flash attention."""
    import torch
    from demo_model import Model, Shape
    from tokenizers import Tokenizer

    torch.set_num_threads(1)
    runner = Runner(path, exact=True, threads=1)
    shape = json.loads((folder / "train.json").read_text())["shape"]
    model = Model(Shape(**shape))
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    worst, other_top, other_tokens, prompts = 0.0, 0, 0, held_out_prompts()
    for prompt in prompts:
        ids = tokenizer.encode(prompt).ids
        other_tokens += ids != runner.tokenize(prompt)
        runner.clear()
        theirs = runner.decode(ids)
        with torch.no_grad():
            ours = model(torch.tensor([ids]))[0, -1].numpy()
        worst = max(worst, float(np.abs(ours - theirs).max()))
        other_top += int(ours.argmax() != theirs.argmax())
    return {
        "prompts": len(prompts),
        "max_abs_difference": worst,
        "different_top_token": other_top,
        "different_tokenization": other_tokens,
    }


def leaks(path: Path, count: int) -> dict[str, Any]:
    """Held-out words and pairs found in ``count`` training documents (invented words may hit by chance)."""
    runner = Runner(path)
    texts = (runner.lib.llama_vocab_get_text(runner.vocab, i).decode() for i in range(runner.n_vocab))
    pieces = sorted(text for text in texts if text.isascii() and text.isalpha())
    source = Source(random.Random("leaks"), pieces)
    unseen = {word.lower() for kind, words in UNSEEN.items() if kind != "day" for word in words}
    found: dict[str, int] = {}
    pairs = 0
    for index in range(count):
        doc = make_doc(source, list(SHARES)[index % len(SHARES)], 256)
        text = "".join(part for part, _ in render(doc))
        for word in set(re.findall(r"\w+", text.lower())) & unseen:
            found[word] = found.get(word, 0) + 1
        for turn in doc.turns:  # a question "1 + 2 + 3 = ?" is no step, the worked answer is
            steps = re.findall(r"(\d+) [+-] (\d+) =", turn.answer)
            pairs += sum(not is_seen_pair(int(a), int(b)) for a, b in steps)
    return {
        "documents": count,
        "unseen_words_found": found,
        "held_out_pairs_found": pairs,
        "overlap": overlap(),
    }


def report(args: argparse.Namespace) -> dict[str, Any]:
    """The accuracy table, printed row by row."""
    runner = Runner(args.model, threads=args.threads)
    schemas = Schemas(runner)
    rows = {}
    for task in tasks():
        if args.only and not any(task.name.startswith(name) for name in args.only):
            continue
        score = measure(task, runner, schemas, args.items, args.seed)
        rows[task.name] = {"items": score.items, "right": score.right, "percent": round(score.percent, 1)}
        if not args.json:
            print(f"{task.name:22} {score.right:5} of {score.items:5}   {score.percent:5.1f} %", flush=True)
            for wrong in score.wrong[: args.wrong]:
                print(f"    {wrong}", flush=True)
    return rows


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="a GGUF file of the demo model")
    parser.add_argument("--items", type=int, default=300, help="items of each task (default 300)")
    parser.add_argument("--seed", type=int, default=1, help="of the items (default 1)")
    parser.add_argument("--only", nargs="+", default=[], metavar="TASK", help="tasks whose names start so")
    parser.add_argument("--wrong", type=int, default=0, metavar="N", help="show N wrong answers of each task")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--ask", action="append", metavar="PROMPT", help="print the answer to a prompt, and stop"
    )
    parser.add_argument("--logits", type=Path, metavar="FOLDER", help="compare with PyTorch, and stop")
    parser.add_argument(
        "--leaks", type=int, metavar="N", help="search N training documents for held-out items"
    )
    parser.add_argument(
        "--write-prompts", type=Path, metavar="FILE", help="write the 100 prompts for the tests"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.ask:
        runner = Runner(args.model, threads=args.threads)
        for prompt in args.ask:
            text = f"<|im_start|>user\n{prompt}{END}\n<|im_start|>assistant\n"
            print(runner.answer(text), flush=True)
    elif args.logits:
        print(json.dumps(compare_logits(args.model, args.logits), indent=1))
    elif args.leaks:
        print(json.dumps(leaks(args.model, args.leaks), indent=1))
    elif args.write_prompts:
        args.write_prompts.write_text(json.dumps(held_out_prompts(), ensure_ascii=False, indent=1) + "\n")
    else:
        rows = report(args)
        if args.json:
            print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
