"""The answers to many prompts: each drawn with a seed of its own, tried anew where it is invalid."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from moetool.batch.jobs import Job
from moetool.batch.prefix import SharedPrefix
from moetool.batch.results import Answer
from moetool.batch.side_by_side import answer_side_by_side
from moetool.cli.answer import Request, grammar_maker, refuse_hopeless, template_of
from moetool.cli.opening import Opened
from moetool.cli.task import problem_of
from moetool.cli.thoughts import make_generation, wished
from moetool.engine.slots import Slot, Slots
from moetool.errors import MoetoolError, OutputInvalid, UsageError
from moetool.generate import Generation
from moetool.prompt import Prompt, chat_prompt, plain_tokens
from moetool.settings import Sampling

# So many prompts tell what all have in common.
_SAMPLE = 16


@dataclass(frozen=True)
class _Try:
    """A prompt, and how often it was tried in vain."""

    job: Job
    retries: int = 0


class BatchAnswers:
    """Answers by a loaded model."""

    def __init__(
        self, slots: Slots, opened: Opened, request: Request, sampling: Sampling, jobs: Sequence[Job]
    ) -> None:
        """`jobs`: all there are, also those that need no answer any more: what they have in common is then
        the same for what is left of them."""
        self._slots = slots
        self._request = request
        self._sampling = sampling
        self._template = template_of(opened, request)
        self._make_grammar = grammar_maker(slots, request.task)
        self._prefix = SharedPrefix(self._sample(jobs) if slots.can_rewind else ())

    def to(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Answer]]:
        """Each job's answer as soon as it is there; Interrupted, or an EngineError, ends all."""
        yield from ((job, Answer(error=job.problem)) for job in jobs if job.problem)
        queue = deque(_Try(job) for job in jobs if not job.problem)
        for tried, ended in answer_side_by_side(self._slots, queue, self._begin):
            answer = self._answer(tried, ended)
            if isinstance(answer.error, OutputInvalid) and tried.retries < self._request.task.retries:
                queue.appendleft(replace(tried, retries=tried.retries + 1))
            else:
                yield tried.job, answer

    def _begin(self, tried: _Try, slot: Slot) -> Generation:
        prompt = self._prompt(tried.job)
        rest = self._prefix.enter(slot, self._slots.all, prompt.tokens)
        slot.use_sampling(replace(self._sampling, seed=self._seed(tried)))
        return make_generation(slot, prompt, rest, self._request.limits, self._make_grammar())

    def _prompt(self, job: Job) -> Prompt:
        assert job.conversation is not None
        messages = job.conversation.messages
        vocabulary = self._slots.vocabulary
        refuse_hopeless(self._slots.all[0], "".join(message.content for message in messages))
        if self._template:
            return chat_prompt(vocabulary, self._template, messages, wished(self._request.think))
        if len(messages) > 1:
            raise UsageError(
                "Without a chat template there is no system message and no earlier turn",
                'give a "prompt" alone',
            )
        return Prompt(plain_tokens(vocabulary, messages[0].content))

    def _sample(self, jobs: Sequence[Job]) -> list[list[int]]:
        """The tokens of the first prompts that can be asked."""
        found: list[list[int]] = []
        for job in jobs[:_SAMPLE]:
            try:
                tokens = [] if job.problem else self._prompt(job).tokens
            except MoetoolError:
                continue  # it is told when its turn comes
            if 0 < len(tokens) <= self._slots.n_ctx:
                found.append(tokens)
        return found

    def _seed(self, tried: _Try) -> int:
        """A seed of its own for every line and try, that one answer can be had again with."""
        text = f"{self._sampling.seed} {tried.job.index} {tried.retries}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % ((1 << 32) - 1)

    def _answer(self, tried: _Try, ended: Generation | MoetoolError) -> Answer:
        if isinstance(ended, MoetoolError):
            return Answer(seed=self._seed(tried), retries=tried.retries, error=ended)
        stats = ended.stats
        assert stats is not None  # it has ended
        problem = problem_of(self._request.task, stats, ended.text)
        return Answer(
            text=ended.text if problem is None else None,
            partial=ended.text if problem is not None else None,
            thinking=ended.thinking or None,
            finish_reason=stats.finish_reason,
            closing=stats.closing,
            prompt_tokens=stats.prompt_tokens + stats.reused_tokens,
            generated_tokens=stats.generated_tokens,
            forced_tokens=stats.forced_tokens,
            seed=self._seed(tried),
            retries=tried.retries,
            error=problem,
        )
