"""`moetool run`: one answer, or a chat."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moetool.cli.on_full import OnFull
from moetool.cli.options import (
    BatchSizeOpt,
    ContextOpt,
    CpuMoeOpt,
    DeviceOpt,
    ExpertsOpt,
    GpuLayersOpt,
    KvOpt,
    Output,
    OutputOpt,
    OverrideOpt,
    ParallelOpt,
    RamOpt,
    ReserveOpt,
    RpcOpt,
    SplitOpt,
    ThreadsOpt,
    UbatchSizeOpt,
    VramOpt,
)
from moetool.cli.think import Think
from moetool.errors import NotFound, UsageError

if TYPE_CHECKING:
    from moetool.cli.answer import Request
    from moetool.cli.task import Task
    from moetool.constrain import Constraint


class SchemaMode(str, Enum):
    """What happens to keywords of a schema that cannot be enforced while decoding."""

    strict = "strict"
    best_effort = "best-effort"


class GrammarEngine(str, Enum):
    """What keeps an answer inside its grammar."""

    llguidance = "llguidance"
    llama_cpp = "llama.cpp"


PromptArg = Annotated[str | None, typer.Argument(help="The prompt; joined with --file and with piped input.")]


def run(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A file, org/repo[:QUANT], a short name, or `demo`. Default: what was pulled last."
        ),
    ] = None,
    prompt: PromptArg = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the prompt from a file.")] = None,
    batch: Annotated[
        str | None,
        typer.Option("--batch", metavar="FILE.jsonl", help="Answer every prompt of a file of JSON lines."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write a batch's answers there, and go on where it ends."),
    ] = None,
    parallel: ParallelOpt = None,
    system: Annotated[str, typer.Option("--system", "-s", help="A system message.")] = "",
    raw: Annotated[bool, typer.Option("--raw", help="Continue the bare text: no chat template.")] = False,
    schema: Annotated[
        str | None, typer.Option("--schema", metavar="FILE|JSON", help="The answer is JSON of this schema.")
    ] = None,
    schema_mode: Annotated[
        SchemaMode,
        typer.Option("--schema-mode", help="best-effort: enforce what can be, check the rest at the end."),
    ] = SchemaMode.strict,
    retries: Annotated[
        int, typer.Option("--retries", min=0, help="Answer anew, so many times, while the answer is invalid.")
    ] = 0,
    grammar: Annotated[
        str | None,
        typer.Option("--grammar", metavar="NAME|FILE", help="The answer follows this GBNF grammar."),
    ] = None,
    grammar_engine: Annotated[
        GrammarEngine,
        typer.Option("--grammar-engine", help="llama.cpp: its own sampler, to compare with; GBNF only."),
    ] = GrammarEngine.llguidance,
    regex: Annotated[str | None, typer.Option("--regex", help="The answer matches this expression.")] = None,
    choice: Annotated[
        str | None, typer.Option("--choice", metavar="A,B,…", help="The answer is one of these.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", "-n", min=1, help="Stop after so many.")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="Stop before this text; may be repeated.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", "--temp", min=0, help="0 takes the likeliest token.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="Draw from the k likeliest tokens only.")] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="… from the likeliest that sum to p.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="… from those at least p x the best.")
    ] = None,
    repeat_penalty: Annotated[
        float | None, typer.Option(min=0.01, help="Above 1 discourages repeats.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=(1 << 32) - 2, help="Repeat a run exactly.")] = None,
    ctx: ContextOpt = None,
    kv: KvOpt = None,
    threads: ThreadsOpt = None,
    gpu_layers: GpuLayersOpt = None,
    n_cpu_moe: CpuMoeOpt = None,
    override_tensor: OverrideOpt = None,
    tensor_split: SplitOpt = None,
    device: DeviceOpt = None,
    batch_size: BatchSizeOpt = None,
    ubatch_size: UbatchSizeOpt = None,
    experts: ExpertsOpt = None,
    rpc: RpcOpt = None,
    vram: VramOpt = None,
    ram: RamOpt = None,
    reserve: ReserveOpt = None,
    think: Annotated[
        Think | None, typer.Option(help="Thinking before the answer: show or hide it, or do without (off).")
    ] = None,
    on_full: Annotated[
        OnFull,
        typer.Option(help="When the context is full: say so, leave out the middle, or forget the oldest."),
    ] = OnFull.refuse,
    session: Annotated[
        str | None,
        typer.Option("--session", metavar="NAME", help="Keep what was read, and go on there next time."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No statistics on stderr.")] = False,
    output: OutputOpt = Output.text,
) -> None:
    """Answer a prompt, or chat when there is none.

    moetool run demo "What is a mixture of experts?"

    cat notes.txt | moetool run demo "Summarise:"

    moetool run demo "Extract name and age as JSON: Ada Lovelace, 36." --schema person.json

    moetool run unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M

    moetool run demo --batch prompts.jsonl --out answers.jsonl
    """
    from moetool.cli.answer import Request, answer_request
    from moetool.cli.opening import default_model, open_model
    from moetool.cli.wishing import Flags, make_wishes
    from moetool.generate import Limits
    from moetool.kept_sessions import find_session

    model, prompt = _model_or_prompt(model, prompt)
    as_json = output is Output.json
    if batch is None:
        _check_no_batch(out, parallel)
    else:
        out = None if out == Path("-") else out
        _check_batch(
            out,
            is_prompt=bool(prompt or file),
            is_session=session is not None,
            is_fitted=on_full is not OnFull.refuse,
            as_json=as_json,
        )
    given: dict[str, float | None] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repeat_penalty": repeat_penalty,
        "seed": seed,
    }
    _check_numbers(given)
    request = Request(
        prompt=_joined_prompt(prompt, file) if batch is None else "",
        system=system,
        raw=raw,
        task=_with_engine(_task(schema, schema_mode, grammar, regex, choice, retries), grammar_engine),
        limits=Limits(max_tokens, tuple(stop or ())),
        as_json=as_json,
        quiet=quiet,
        think=think,
        session=find_session(session) if session is not None else None,
        on_full=on_full,
    )
    if batch is None and not request.prompt:
        _check_chat(request)
    opened = open_model(model or default_model())
    flags = Flags(
        ctx=ctx,
        kv=kv,
        threads=threads,
        gpu_layers=gpu_layers,
        n_cpu_moe=n_cpu_moe,
        override_tensor=override_tensor,
        tensor_split=tensor_split,
        device=device,
        batch_size=batch_size,
        ubatch_size=ubatch_size,
        experts=experts,
        vram=vram,
        ram=ram,
        reserve=reserve,
    )
    wishes = make_wishes(flags)
    if batch is not None:
        from moetool.cli.batch import Batch, answer_batch

        answer_batch(opened, wishes, request, given, rpc, Batch(batch, out, parallel))
    else:
        answer_request(opened, wishes, request, given, rpc)


def _check_numbers(given: Mapping[str, float | None]) -> None:
    """UsageError for what passes for a number, and is none."""
    for name, value in given.items():
        if value is not None and not math.isfinite(value):
            raise UsageError(f"--{name.replace('_', '-')} cannot be {value}", "write a number")


def _check_no_batch(out: Path | None, parallel: int | None) -> None:
    """UsageError for what goes with --batch only."""
    if out is not None or parallel is not None:
        flag = "--out" if out is not None else "--parallel"
        raise UsageError(f"{flag} is for the answers to many prompts", "give a file of them with --batch")


def _check_batch(
    out: Path | None, *, is_prompt: bool, is_session: bool, is_fitted: bool, as_json: bool
) -> None:
    """UsageError for what does not go with --batch."""
    if is_prompt:
        raise UsageError("--batch has the prompts", "drop the other prompt, or put it into the file")
    if is_session:
        raise UsageError("A batch keeps no --session", "what its prompts begin with is read once anyway")
    if is_fitted:
        raise UsageError(
            "A batch leaves nothing out of its prompts", "drop --on-full, or give a larger --ctx"
        )
    if out is None and as_json:
        hint = "add --out FILE, or drop --output json: without it the answers are JSON lines on stdout"
        raise UsageError("--output json tells of a batch whose answers are in a file", hint)


def _check_chat(request: Request) -> None:
    """UsageError where there is no prompt, and nobody to chat with, or where a chat cannot be as asked."""
    if request.as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("There is no prompt", 'give one: moetool run demo "What is a mixture of experts?"')
    if request.task.judge or request.task.retries:
        raise UsageError("A chat has no --schema-mode best-effort and no --retries", "give a prompt")


def _model_or_prompt(model: str | None, prompt: str | None) -> tuple[str | None, str | None]:
    """One argument with a space in it is a prompt for the default model, if it names no model."""
    if model is None or prompt is not None or not any(c.isspace() for c in model):
        return model, prompt
    from moetool.cli.opening import is_known_model

    return (model, None) if is_known_model(model) else (None, model)


def _joined_prompt(prompt: str | None, file: Path | None) -> str:
    """Argument, file and piped input, in this order, with a blank line between."""
    parts = [prompt]
    is_stdin = file == Path("-")
    if file is not None and not is_stdin:
        parts.append(_read_text(file))
    if is_stdin or not sys.stdin.isatty():
        parts.append(_decoded(sys.stdin.buffer.read(), "The input"))
    return "\n\n".join(part.rstrip("\n") for part in parts if part and part.strip())


def _read_text(path: Path) -> str:
    try:
        return _decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise NotFound(f"Cannot read {path}: {error.strerror}", "--file takes a text file") from error


def _decoded(data: bytes, what: str) -> str:
    """A prompt's text; it is told where it is none, and stands as U+FFFD."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        from moetool.render.plain import notice

        notice(
            f"{what} is not UTF-8 text at byte {error.start}: the model gets \ufffd for what cannot be read."
        )
        text = data.decode("utf-8", "replace")
    return text.replace("\r\n", "\n")


def _task(
    schema: str | None,
    mode: SchemaMode,
    grammar: str | None,
    regex: str | None,
    choice: str | None,
    retries: int,
) -> Task:
    """What the answer must look like, compiled before a model is loaded."""
    from moetool.cli.task import Task, best_effort_task

    given = [flag for flag in (schema, grammar, regex, choice) if flag is not None]
    if len(given) > 1:
        raise UsageError(
            "Only one of --schema, --grammar, --regex and --choice can be used", "drop the others"
        )
    if retries and not given:
        raise UsageError("--retries needs an answer that can be invalid", "add --schema, or drop it")
    if mode is SchemaMode.best_effort:
        if schema is None:
            raise UsageError("--schema-mode needs a schema", "add --schema, or drop it")
        return best_effort_task(schema, retries)
    return Task(_constraint(schema, grammar, regex, choice), retries=retries)


def _with_engine(task: Task, engine: GrammarEngine) -> Task:
    """The task, done by the engine that was asked for; UsageError where that cannot."""
    if engine is GrammarEngine.llguidance:
        return task
    constraint = task.constraint
    if constraint is None or constraint.kind != "grammar" or "::=" not in constraint.source:
        raise UsageError(
            "llama.cpp's own engine follows GBNF only", "give a --grammar, or drop --grammar-engine"
        )
    return replace(task, by_llama=True)


def _constraint(
    schema: str | None, grammar: str | None, regex: str | None, choice: str | None
) -> Constraint | None:
    from moetool import constrain

    if schema is not None:
        return constrain.parse_schema(schema)
    if grammar is not None:
        return constrain.parse_grammar(grammar)
    if regex is not None:
        return constrain.parse_regex(regex)
    return constrain.parse_choice(constrain.split_choice(choice)) if choice is not None else None
