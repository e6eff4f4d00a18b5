"""What `run` does once its flags are read: plan, load, and what answers and chats share."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from moetool.cli.interrupt import CtrlC
from moetool.cli.local_plan import refusal_of
from moetool.cli.on_full import OnFull
from moetool.cli.opening import Opened, read_this_machine
from moetool.cli.priced import show_price
from moetool.cli.task import Task, show_left_out
from moetool.cli.think import Think
from moetool.cli.tuned import tuned_plan
from moetool.engine.model import Engine
from moetool.engine.threads import SharedCores
from moetool.errors import ContextFull, UsageError
from moetool.generate import Grammar, Limits, Stats
from moetool.machine.load import CoreWatch
from moetool.plan import Plan, Wishes
from moetool.render.plain import notice
from moetool.render.units import show_range
from moetool.settings import Sampling
from moetool.speed import Speed

if TYPE_CHECKING:
    from moetool.cli.session import Session
    from moetool.constrain import Constraint
    from moetool.engine.slots import Slot, Slots
    from moetool.kept_sessions import SessionFiles

# Less than this many bytes a token is worth counting exactly.
USUAL_PIECE_BYTES = 16

# What an answer needs once the model is loaded, 0.1 s of imports together; a raw prompt fills no template.
_NEEDED_LATER = ("numpy", "moetool.cli.one_shot")
_NEEDED_BY_TEMPLATES = ("moetool.template.sandbox",)


@dataclass(frozen=True)
class Request:
    """What a run was asked for besides its placement: read from the flags once, then passed on."""

    prompt: str
    system: str
    raw: bool
    task: Task
    limits: Limits
    as_json: bool
    quiet: bool
    think: Think | None = None
    session: SessionFiles | None = None
    on_full: OnFull = OnFull.refuse

    @property
    def constraint(self) -> Constraint | None:
        """What is enforced while decoding."""
        return self.task.constraint


def answer_request(
    opened: Opened,
    wishes: Wishes,
    request: Request,
    sampling_flags: Mapping[str, Any],
    rpc: str | None = None,
) -> None:
    """Plan, load, and answer; or chat when there is no prompt."""
    plan = tuned_plan(opened, read_this_machine(rpc=rpc), wishes, is_quiet=request.quiet)
    require_fit(plan, opened.model.name)
    sampling = choose_sampling(opened, sampling_flags)
    require_chance(request.task, sampling)
    if request.on_full is OnFull.shift:
        from moetool.cli.fitted import require_shift

        require_shift(opened, plan.settings)
    if not request.quiet:
        show_price(plan, opened)
        show_left_out(request.task)
    cores = SharedCores(plan.settings.n_threads, CoreWatch())
    _begin_imports(request)
    with ExitStack() as stack:
        ctrl_c = stack.enter_context(CtrlC())
        session = stack.enter_context(_session_of(request, opened, plan, ctrl_c))
        engine = stack.enter_context(load_engine(opened, plan, ctrl_c.pressed))
        # With another number of threads sums come in another order: a run that is to be repeated keeps it.
        if wishes.n_threads is None and sampling_flags.get("seed") is None:
            engine.share_cores(cores)
        engine.use_sampling(sampling)
        if session is not None:
            session.resume(engine)
        if request.prompt:
            from moetool.cli.one_shot import answer_once

            answer_once(engine, opened, plan, request, sampling, session)
            ctrl_c.answer_is_out()
        else:
            from moetool.cli.chat import chat

            chat(engine, opened, plan, request, sampling, ctrl_c, session)


def _session_of(
    request: Request, opened: Opened, plan: Plan, ctrl_c: CtrlC
) -> AbstractContextManager[Session | None]:
    if request.session is None:
        return nullcontext()
    from moetool.cli.session import use_session

    return use_session(
        request.session, opened, plan.settings, is_quiet=request.quiet, is_cancelled=ctrl_c.pressed
    )


def _begin_imports(request: Request) -> None:
    """llama.cpp reads the model without Python, which imports the rest meanwhile."""
    needed = _NEEDED_LATER if request.raw else (*_NEEDED_LATER, *_NEEDED_BY_TEMPLATES)
    threading.Thread(target=_import_all, args=(needed,), daemon=True).start()


def _import_all(names: Sequence[str]) -> None:
    # What cannot be imported is told where it is used.
    with suppress(ImportError):
        for name in names:
            import_module(name)


def require_chance(task: Task, sampling: Sampling) -> None:
    """UsageError when retries cannot help."""
    if task.retries and sampling.temperature <= 0:
        raise UsageError("At temperature 0 every retry gives the same answer", "raise --temperature")


def require_fit(plan: Plan, name: str) -> None:
    """DoesNotFit, with what is missing and what would help, when a plan does not fit."""
    problem = refusal_of(plan, name)
    if problem:
        raise problem


def choose_sampling(opened: Opened, flags: Mapping[str, Any]) -> Sampling:
    """The flags, else what the model's file recommends (general.sampling.*), else llama.cpp's defaults."""
    recommended = {
        "temperature": opened.header.metadata.get("general.sampling.temp"),
        "top_k": opened.header.metadata.get("general.sampling.top_k"),
        "top_p": opened.header.metadata.get("general.sampling.top_p"),
        "min_p": opened.header.metadata.get("general.sampling.min_p"),
    }
    chosen: dict[str, Any] = {
        name: value for name, value in recommended.items() if isinstance(value, int | float)
    }
    chosen |= {name: value for name, value in flags.items() if value is not None}
    chosen.setdefault("seed", random.randrange((1 << 32) - 1))
    return Sampling(**chosen)


@contextmanager
def load_engine(opened: Opened, plan: Plan, is_cancelled: Callable[[], bool]) -> Iterator[Engine]:
    """The engine with the model loaded, a progress bar on a terminal if it takes long; freed at the end."""
    from moetool.render.progress import load_progress

    paths = opened.model.paths
    with load_progress(opened.model.name) as on_progress:
        engine = Engine(paths, plan.settings, opened.anatomy.arch, on_progress, is_cancelled)
    with engine:
        yield engine


def grammar_maker(engine: Engine | Slots, task: Task) -> Callable[[], Grammar | None]:
    """Makes grammars of a task's constraint over the loaded model's vocabulary, each at the start of an
    answer.

    The vocabulary is prepared (0.2 s for 150k tokens) and the grammar compiled (a millisecond) once, not for
    every retry, every answer of a chat or every prompt of a batch.
    """
    vocabulary, constraint = engine.vocabulary, task.constraint
    if constraint is None:
        return lambda: None
    if task.by_llama:
        from moetool.engine.grammar import LlamaGrammar

        return LlamaGrammar(vocabulary, constraint.source).copy
    from moetool.constrain import TokenTable, make_matcher, make_tokenizer

    table = TokenTable(
        tokens=vocabulary.all_pieces(),
        special=vocabulary.special_tokens(),
        ends=vocabulary.end_tokens(),
        tokenize=lambda data: vocabulary.tokenize(data.decode("utf-8", "surrogateescape")),
    )
    # Tokens are checked first and masks are rare: the slower masks cost less than preparing fast ones.
    tokenizer = make_tokenizer(table, fast_masks=False)
    return make_matcher(tokenizer, constraint).copy


def template_of(opened: Opened, request: Request) -> str:
    """The model's chat template; "" with --raw, and where it has none, which is said."""
    template = "" if request.raw else opened.header.get_str("tokenizer.chat_template")
    if not template and not request.raw and not request.quiet:
        notice("This model has no chat template: its text is continued as it stands.")
    return template


def refuse_hopeless(engine: Engine | Slot, prompt: str) -> None:
    """ContextFull for a prompt that cannot fit however it is cut into tokens: cutting would take minutes."""
    n_ctx = engine.n_ctx
    if len(prompt) <= n_ctx * USUAL_PIECE_BYTES:
        return
    # Blanks apart: some tokenizers and templates drop them.
    n_bytes = len("".join(prompt.split()).encode("utf-8", "surrogateescape"))
    least = n_bytes // max(map(len, engine.vocabulary.all_pieces()))
    if least > n_ctx:
        raise ContextFull(
            f"The prompt has more than {least} tokens: they do not fit into a context of {n_ctx}",
            "ask for a larger one with --ctx, or shorten the prompt",
        )


def stats_line(engine: Engine, stats: Stats, predicted: Speed) -> str:
    """The dim line under an answer; the prediction stands beside what was measured."""
    parts = [f"{stats.generated_tokens} tokens"]
    if stats.ttft_s is not None:
        parts.append(f"first token {stats.ttft_s:.2f} s")
    if stats.decode_tok_s is not None:
        promised = show_range(predicted.decode_low, predicted.decode_high)
        expected = f" (predicted {promised})" if predicted.decode_tok_s else ""
        parts.append(f"{stats.decode_tok_s:.1f} tok/s{expected}")
    if stats.forced_tokens:
        parts.append(f"{stats.forced_tokens} tokens forced by the grammar")
    if engine.n_threads < engine.settings.n_threads:
        parts.append(f"{engine.n_threads} of {engine.settings.n_threads} threads: other programs need cores")
    return " · ".join(parts)
