"""The parts of a batch: lines in, lines out, a file that is gone on with, and generations side by side."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from moetool.batch.jobs import Job, parse_jobs
from moetool.batch.results import Answer, InOrder, ResultsFile, answer_line
from moetool.batch.side_by_side import answer_side_by_side
from moetool.errors import ContextFull, Interrupted, MoetoolError, TemplateError, UsageError
from moetool.generate import Generation, Limits

END = -1


# -- lines in ------------------------------------------------------------------------------------------------


def one_job(line: str | bytes, system: str = "") -> Job:
    (job,) = parse_jobs(line if isinstance(line, bytes) else line.encode(), system)
    return job


@pytest.mark.parametrize(
    ("line", "roles", "system", "name"),
    [
        ('"Hello"', ["user"], "", None),
        ('{"prompt": "Hello"}', ["user"], "", None),
        ('{"prompt": "Hello", "id": "a", "label": 3}', ["user"], "", "a"),
        ('{"prompt": "Hello", "id": 7, "system": "Be brief."}', ["system", "user"], "Be brief.", 7),
        ('{"messages": [{"role": "user", "content": "Hello"}]}', ["user"], "", None),
        (
            '{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},'
            ' {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Hello"}]}',
            ["system", "user", "assistant", "user"],
            "Be brief.",
            None,
        ),
        ('  {"prompt": "Hello"}\r', ["user"], "", None),
        (b'\xef\xbb\xbf"Hello"', ["user"], "", None),
    ],
)
def test_what_a_line_asks(line: str, roles: list[str], system: str, name: object) -> None:
    job = one_job(line)
    assert job.problem is None
    assert job.conversation is not None
    assert [message.role for message in job.conversation.messages] == roles
    assert job.conversation.messages[-1].content == "Hello"
    assert (job.conversation.system, job.id) == (system, name)


def test_a_system_message_for_all_gives_way_to_a_lines_own() -> None:
    assert one_job('"Hello"', "Be kind.").conversation.system == "Be kind."  # type: ignore[union-attr]
    own = one_job('{"prompt": "Hello", "system": "Be brief."}', "Be kind.")
    assert own.conversation.system == "Be brief."  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("Hello", "not JSON"),
        ('{"prompt": "Hel', "not JSON"),
        ("42", "neither text nor an object"),
        ('["Hello"]', "neither text nor an object"),
        ("{}", 'no "prompt"'),
        ('{"promt": "Hello"}', 'no "prompt"'),
        ('{"prompt": 3}', '"prompt" is not text'),
        ('{"prompt": " "}', "prompt is empty"),
        ('""', "prompt is empty"),
        ('{"prompt": "a", "messages": []}', "both"),
        ('{"prompt": "a", "system": 1}', '"system" is not text'),
        ('{"prompt": "a", "id": [1]}', '"id" is neither'),
        ('{"prompt": "a", "id": true}', '"id" is neither'),
        ('{"prompt": "a", "id": NaN}', "NaN is not JSON"),
        ('{"prompt": "\\ud83d"}', "half of a character"),
        ('{"messages": [{"role": "user", "content": "\\udcff"}]}', "half of a character"),
        ('{"messages": "a"}', "no list"),
        ('{"messages": []}', "last message is not the user's"),
        ('{"messages": [{"role": "robot", "content": "a"}]}', "message 1"),
        ('{"messages": [{"role": "system", "content": "a"}]}', "last message is not the user's"),
        ('{"system": "a", "messages": [{"role": "system", "content": "b"}]}', "two system messages"),
        (b'"\xff"', "not UTF-8"),
        ("[" * 100000, "nested too deeply"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(line: str | bytes, what: str) -> None:
    job = one_job(line)
    assert job.conversation is None
    assert job.problem is not None
    assert job.problem.message.startswith("Line 1 cannot be asked: ")
    assert what in job.problem.message


def test_blank_lines_are_not_counted_but_lines_are_named_as_an_editor_does() -> None:
    jobs = parse_jobs(b'"a"\n\n  \n"b"\nc\n')
    assert [job.index for job in jobs] == [0, 1, 2]
    assert jobs[2].problem is not None
    assert jobs[2].problem.message.startswith("Line 5 ")
    assert parse_jobs(b"") == parse_jobs(b"\n\n") == []


def test_a_prompt_is_known_by_what_it_asks() -> None:
    same = {one_job(line).prompt_hash for line in ('"Hi"', '{"prompt": "Hi"}', '{ "prompt" :"Hi", "x": 1}')}
    others = {one_job(line).prompt_hash for line in ('"Ho"', '{"prompt": "Hi", "id": 1}', '"Hi', '"Hi"x')}
    assert len(same) == 1
    assert len(same | others) == 5


# -- lines out -----------------------------------------------------------------------------------------------


JOBS = parse_jobs(b'"one"\n{"prompt": "two", "id": "b"}\n"three"\n')
LINES = [
    answer_line(JOBS[0], "s", Answer(text="first\u2028ä", seed=1)),
    answer_line(JOBS[1], "s", Answer(error=TemplateError("no", "hint"))),
    answer_line(JOBS[2], "s", Answer(text="third", closing='"}', finish_reason="length")),
]


def test_a_line_says_what_became_of_its_prompt() -> None:
    first, second, third = map(json.loads, LINES)
    assert (first["index"], first["id"], first["text"], first["error"]) == (0, None, "first\u2028ä", None)
    assert (second["id"], second["text"]) == ("b", None)
    assert second["error"] == {"code": "template", "message": "no", "hint": "hint"}
    assert (third["closed"], third["closing"], third["finish_reason"]) == (True, '"}', "length")
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in LINES)


def test_lines_pass_in_order_and_none_waits_longer_than_it_must() -> None:
    written: list[str] = []
    lines = InOrder(written.append, first=3)
    for index, expected in ((5, []), (3, ["3"]), (6, ["3"]), (4, ["3", "4", "5", "6"])):
        lines.add(index, str(index))
        assert written == expected
    assert lines.n_written == 4


def test_a_file_cut_at_any_byte_is_gone_on_with(tmp_path: Path) -> None:
    whole = "".join(LINES).encode()
    path = tmp_path / "answers.jsonl"
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        with ResultsFile(path, JOBS, "s") as file:
            assert file.n_kept == whole[:cut].count(b"\n")
            assert file.n_failed == (file.n_kept >= 2)
            for line in LINES[file.n_kept :]:
                file.write(line)
        assert path.read_bytes() == whole


def kept(path: Path, jobs: Sequence[Job] = JOBS, settings: str = "s") -> int:
    with ResultsFile(path, jobs, settings) as file:
        return file.n_kept


@pytest.mark.parametrize(
    ("content", "jobs", "settings", "what"),
    [
        ("".join(LINES), JOBS, "t", "another model or other options"),
        ("".join(LINES), JOBS[::-1], "s", "line 3 answers another"),
        ("".join(LINES), JOBS[:2], "s", "more lines than there are prompts"),
        (LINES[0] + "torn", JOBS[:1], "s", "more lines than there are prompts"),
        (LINES[1], JOBS, "s", "other prompts"),
        ("my notes\n", JOBS, "s", "something else"),
        ("my notes", JOBS, "s", "something else"),
        (LINES[0] + "my notes", JOBS, "s", "something else"),
        (LINES[0] + '{"index": 7', JOBS, "s", "something else"),
        ('{"prompt": "one"}\n', JOBS, "s", "something else"),
        ("[]\n", JOBS, "s", "something else"),
        ("\n", JOBS, "s", "something else"),
        ("x", [], "s", "more lines"),
    ],
)
def test_a_file_of_something_else_stays_as_it_is(
    tmp_path: Path, content: str, jobs: Sequence[Job], settings: str, what: str
) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(content)
    with pytest.raises(UsageError, match=what):
        kept(path, jobs, settings)
    assert path.read_text() == content


def test_a_file_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MoetoolError, match="There is no folder"):
        kept(tmp_path / "nowhere" / "answers.jsonl")
    with pytest.raises(MoetoolError, match="Is a directory"):
        kept(tmp_path)
    with pytest.raises(UsageError, match="is not a file"):
        kept(Path("/dev/null"))


def test_two_batches_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with ResultsFile(path, JOBS, "s"), pytest.raises(MoetoolError, match="Another batch"):
        kept(path)
    assert kept(path) == 0


# -- side by side --------------------------------------------------------------------------------------------


@dataclass
class ScriptedSlot:
    """Says the script of its job; a token's text is its letter."""

    n_ctx: int = 100
    n_past: int = 0
    script: list[int] = field(default_factory=list)

    def require_room(self, n_more: int) -> None:
        if self.n_past + n_more > self.n_ctx:
            raise ContextFull("full")

    def decode(self, tokens: Sequence[int]) -> None:
        raise AssertionError("slots are decoded together")

    def sample(self, rule: Any = None) -> int:
        return self.script.pop(0)

    def piece(self, token: int) -> bytes:
        return bytes([token])

    def is_end(self, token: int) -> bool:
        return token == END


class ScriptedSlots:
    """Takes notes of what is decoded: of each batch, how many tokens each slot gets."""

    def __init__(self, n: int, n_batch: int = 8) -> None:
        self.all = [ScriptedSlot() for _ in range(n)]
        self.n_batch = n_batch
        self.batches: list[list[int]] = []

    def decode(self, parts: Sequence[tuple[ScriptedSlot, Sequence[int]]]) -> None:
        assert sum(len(tokens) for _, tokens in parts) <= self.n_batch
        assert all(tokens for _, tokens in parts)
        for slot, tokens in parts:
            slot.n_past += len(tokens)
        self.batches.append([len(tokens) for _, tokens in parts])


def begin(answers: dict[str, str], limits: Limits | None = None, prompt: int = 3) -> Any:
    def with_slot(job: str, slot: ScriptedSlot) -> Generation:
        slot.n_past = 0
        slot.script = [*answers[job].encode(), END]
        return Generation(slot, [1] * prompt, limits or Limits())

    return with_slot


def texts(outcomes: Any) -> list[tuple[str, str]]:
    return [(job, ended.text if isinstance(ended, Generation) else str(ended)) for job, ended in outcomes]


def test_the_next_prompt_takes_the_place_of_the_first_that_ends() -> None:
    slots = ScriptedSlots(2)
    answers = {"a": "long answer", "b": "bb", "c": "ccc", "d": "d"}
    found = texts(answer_side_by_side(slots, deque("abcd"), begin(answers)))
    assert found == [("b", "bb"), ("c", "ccc"), ("d", "d"), ("a", "long answer")]
    # Both prompts, two tokens of each, then c's prompt beside a's next token.
    assert slots.batches[:5] == [[3, 3], [1, 1], [1, 1], [1, 3], [1, 1]]


def test_a_long_prompt_takes_what_room_the_others_leave() -> None:
    slots = ScriptedSlots(2, n_batch=4)
    short, long = begin({"a": "aaaaaaaaa"}, prompt=1), begin({"b": "b"}, prompt=10)

    def either(job: str, slot: ScriptedSlot) -> Generation:
        generation: Generation = (short if job == "a" else long)(job, slot)
        return generation

    outcomes = answer_side_by_side(slots, deque("ab"), either)
    assert texts(outcomes) == [("b", "b"), ("a", "aaaaaaaaa")]
    assert slots.batches[:4] == [[1, 3], [1, 3], [1, 3], [1, 1]]


def test_more_slots_than_a_batch_has_room_for() -> None:
    slots = ScriptedSlots(3, n_batch=2)
    found = texts(answer_side_by_side(slots, deque("abc"), begin({"a": "aa", "b": "bb", "c": "cc"})))
    assert sorted(found) == [("a", "aa"), ("b", "bb"), ("c", "cc")]


def test_what_cannot_begin_or_does_not_fit_stops_nobody_else() -> None:
    slots = ScriptedSlots(2)
    slots.all[0].n_ctx = slots.all[1].n_ctx = 6
    normal = begin({"a": "aaaaaaaaaaaa", "c": "c"})

    def some(job: str, slot: ScriptedSlot) -> Generation:
        if job == "b":
            raise TemplateError("cannot be rendered")
        if job == "d":
            return Generation(slot, [1] * 7, Limits())
        return normal(job, slot)

    outcomes = dict(answer_side_by_side(slots, deque("abcd"), some))
    assert isinstance(outcomes["b"], TemplateError)
    assert isinstance(outcomes["d"], ContextFull)
    assert outcomes["a"].stats.finish_reason == "context"
    assert outcomes["a"].text == "aaaa"
    assert outcomes["c"].text == "c"


def test_the_queue_may_grow_while_it_is_worked_off() -> None:
    queue = deque(["a"])
    found = []
    for job, ended in answer_side_by_side(ScriptedSlots(2), queue, begin({"a": "a", "b": "b"})):
        found.append((job, ended.text))
        if job == "a":
            queue.appendleft("b")
    assert found == [("a", "a"), ("b", "b")]


def test_an_interrupt_ends_everything() -> None:
    def interrupted(job: str, slot: ScriptedSlot) -> Generation:
        raise Interrupted("Interrupted")

    with pytest.raises(Interrupted):
        list(answer_side_by_side(ScriptedSlots(2), deque("ab"), interrupted))
