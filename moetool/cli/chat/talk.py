"""A conversation in progress: its messages, how its answers are drawn, and what the last one took."""

from __future__ import annotations

from dataclasses import dataclass, replace

from moetool.cli.answer import Request, grammar_maker, stats_line
from moetool.cli.chat.knobs import Knobs
from moetool.cli.fitted import FittedPrompt, Fitting, begin_with, let_shift, prompt_maker
from moetool.cli.interrupt import CtrlC
from moetool.cli.opening import Opened
from moetool.cli.think import Think
from moetool.cli.thoughts import Show, make_generation
from moetool.conversation import Conversation
from moetool.engine.model import Engine
from moetool.generate import CONTEXT, INTERRUPTED, Generation, Stats
from moetool.plan import Plan
from moetool.render.plain import AnswerWriter, ThinkingWriter, notice
from moetool.settings import Sampling
from moetool.speed import Load, Speed

FULL_HINT = (
    "/undo takes back the last exchange, /clear starts anew; "
    "--ctx gives a larger context, --on-full lets old messages go"
)
# From here on, the line under an answer says how full the context is.
_NEARLY_FULL = 0.75


@dataclass(frozen=True)
class Measured:
    """What an answer took, beside what was predicted for it."""

    stats: Stats
    predicted: Speed


@dataclass(frozen=True)
class Totals:
    """What a chat has cost so far, in tokens."""

    read: int = 0
    written: int = 0


class Talk:
    """One chat over one engine; earlier turns stay in its KV cache."""

    def __init__(self, engine: Engine, opened: Opened, plan: Plan, request: Request, ctrl_c: CtrlC) -> None:
        self.engine = engine
        self.opened = opened
        self.plan = plan
        self.conversation = Conversation(request.system)
        self.last: Measured | None = None
        self.totals = Totals()
        self._n_left_out = 0
        self._request = request
        self._make_grammar = grammar_maker(engine, request.task)
        self._ctrl_c = ctrl_c

    def start(self, sampling: Sampling) -> None:
        """Set how answers are drawn until `set` says otherwise."""
        self.knobs = Knobs(sampling, self._request.limits, self._request.think)

    def set(self, knobs: Knobs) -> None:
        """Draw the next answers by `knobs`; a new seed, or the old one, starts its random sequence again."""
        if knobs.sampling != self.knobs.sampling:
            self.engine.use_sampling(knobs.sampling)
        self.knobs = knobs

    def ask(self, asked: Conversation) -> bool:
        """Answer the last message of `asked`, which then is the conversation; as it was if nothing came.

        Raises ContextFull or TemplateError when it cannot be asked. True: the answer was stopped.
        """
        engine, on_full = self.engine, self._request.on_full
        fitted = self._fitted(asked)
        prompt = fitted.prompt
        tokens = begin_with(engine, fitted, on_full)
        # The next prompt may leave thinking out, or be this one again.
        engine.memory.mark(len(prompt.tokens) - 1)
        generation = make_generation(engine, prompt, tokens, self.knobs.limits, self._make_grammar())
        let_shift(generation, engine, fitted, on_full)
        self._show(generation)
        stats = generation.stats
        assert stats is not None  # the iteration has ended
        if generation.text or stats.finish_reason != INTERRUPTED:
            self.conversation = asked.answered(generation.text)
        self._account(stats)
        return stats.finish_reason == INTERRUPTED

    def n_presses(self) -> int:
        """How often Ctrl-C was pressed while an answer was being stopped; asking forgets it."""
        return self._ctrl_c.take()

    def _fitted(self, asked: Conversation) -> FittedPrompt:
        """The prompt, and in sight what is newly left out of it."""
        template = "" if self._request.raw else self.opened.header.get_str("tokenizer.chat_template")
        make = prompt_maker(self.engine.vocabulary, template, self.knobs.think)
        fitting = Fitting(self.engine, self._request.on_full, self.knobs.limits.max_tokens)
        fitted = fitting.fit(asked.messages, make, self._n_left_out)
        if fitted.is_cut or fitted.n_left_out != self._n_left_out:
            notice(f"(the context is full: {fitted.told or 'nothing left out any more'})")
        self._n_left_out = fitted.n_left_out
        return fitted

    def _show(self, generation: Generation) -> None:
        writer = AnswerWriter()
        show = Show(writer, ThinkingWriter(hidden=self.knobs.think is Think.hide))
        try:
            for token in generation:
                show.write(token)
        finally:
            show.end()
            writer.write(generation.rest())
            writer.end()

    def _account(self, stats: Stats) -> None:
        predicted = self.plan.predict(Load(depth=self.engine.n_past))
        self.last = Measured(stats, predicted)
        self.totals = replace(
            self.totals,
            read=self.totals.read + stats.prompt_tokens,
            written=self.totals.written + stats.generated_tokens,
        )
        if stats.finish_reason == INTERRUPTED:
            notice("(stopped; Ctrl-C again leaves)")
        elif stats.finish_reason == CONTEXT:
            notice(f"(the context is full, the answer is cut off: {FULL_HINT})")
        elif not self._request.quiet:
            notice(stats_line(self.engine, stats, predicted) + self._fullness())
        if stats.shifted_tokens:
            notice(f"(the context was full: {stats.shifted_tokens} older tokens were forgotten on the way)")

    def _fullness(self) -> str:
        share = self.engine.n_past / self.engine.n_ctx
        return f" · context {share:.0%} full" if share >= _NEARLY_FULL else ""
