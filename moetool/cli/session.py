"""`--session`: what an earlier run's model remembers is taken up, and what this one's does is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from moetool.cli.opening import Opened
from moetool.engine.library import LLAMA_CPP_PYTHON
from moetool.engine.model import Engine
from moetool.errors import Interrupted
from moetool.generate import Stats
from moetool.identity import read_model_digest
from moetool.kept_sessions import (
    KeptState,
    SessionFiles,
    keep_state,
    open_state,
)
from moetool.render.plain import notice
from moetool.render.units import show_bytes
from moetool.settings import Settings


@dataclass(frozen=True)
class _About:
    """What a state is of: the model's digest and name, and what else it depends on."""

    model: str
    model_name: str
    conditions: dict[str, str]


@dataclass(frozen=True)
class Saved:
    """What was kept: how many tokens, and the bytes of the file."""

    n_tokens: int
    n_bytes: int


class Session:
    """A session in use by one run: `kept` is what an earlier one left of `model` (its digest)."""

    def __init__(self, files: SessionFiles, kept: KeptState | None, about: _About, *, is_quiet: bool) -> None:
        self.files = files
        self._kept = kept
        self._about = about
        self._is_quiet = is_quiet

    def resume(self, engine: Engine) -> None:
        """Let the engine remember what was kept, or tell why it cannot: then all is read anew."""
        problem = self._load(engine, self._kept) if self._kept is not None else ""
        if problem:
            self.tell(f"Session {self.files.name} is read anew: {problem}.")

    def _load(self, engine: Engine, kept: KeptState) -> str:
        n_tokens, before = kept.about["n_tokens"], kept.about["conditions"]
        if n_tokens > engine.n_ctx:
            return f"its {n_tokens} tokens do not fit into a context of {engine.n_ctx} (--ctx)"
        for what, now in self._about.conditions.items():
            if before.get(what) != now:
                return f"{what} was {before.get(what)} and is {now}"
        return "" if engine.memory.load(kept.payload, kept.about) else "llama.cpp does not take what was kept"

    def keep(self, engine: Engine) -> Saved:
        """Write down what the engine remembers. MoetoolError when that cannot be."""
        memory = engine.memory
        n_bytes = keep_state(self.files, asdict(self._about), memory.state_bytes(), memory.save)
        return Saved(len(memory.tokens), n_bytes)

    def tell_kept(self, saved: Saved, stats: Stats | None = None) -> None:
        """Say what was kept and, of an answer, how much of its prompt was there."""
        kept = f"{saved.n_tokens} tokens kept, {show_bytes(saved.n_bytes)}"
        if stats is None:
            self.tell(f"Session {self.files.name}: {kept}")
            return
        n_prompt = stats.prompt_tokens + stats.reused_tokens
        there = f"{stats.reused_tokens} of {n_prompt} prompt tokens were there"
        self.tell(f"Session {self.files.name}: {there}; {kept}")

    def tell(self, text: str) -> None:
        """A line for people, if they want any."""
        if not self._is_quiet:
            notice(text)


@contextmanager
def use_session(
    files: SessionFiles,
    opened: Opened,
    settings: Settings,
    *,
    is_quiet: bool,
    is_cancelled: Callable[[], bool],
) -> Iterator[Session]:
    """The session with what was kept of it, checked. SessionError for what must not be used,
    before a model is loaded."""

    def on_bytes(_n: int) -> None:
        if is_cancelled():
            raise Interrupted("Interrupted")

    digest = read_model_digest(opened.model.paths)
    about = _About(digest, opened.model.name, conditions_of(opened, settings))
    with open_state(files, digest, on_bytes) as kept:
        yield Session(files, kept, about, is_quiet=is_quiet)


def conditions_of(opened: Opened, settings: Settings) -> dict[str, str]:
    """What a state depends on besides the model, in words: with anything else it would be useless, or wrong.

    Where layers are placed does not matter: llama.cpp writes states layer by layer, whatever the device.
    """
    header, arch = opened.header, opened.anatomy.arch
    experts = settings.experts or opened.anatomy.n_expert_used
    # Models with two sets of RoPE factors take the one or the other by the context's size
    # (llama_model::get_rope_factors); a context is padded to 256.
    n_trained = header.get_int(f"{arch}.rope.scaling.original_context_length", opened.anatomy.n_ctx_train)
    has_both = any(tensor.name.startswith("rope_factors_long") for tensor in header.tensors)
    is_long = has_both and -(-settings.n_ctx // 256) * 256 > n_trained
    return {
        "llama-cpp-python": LLAMA_CPP_PYTHON,
        "the KV cache": f"{settings.type_k}/{settings.type_v}",
        "flash attention": "on" if settings.flash_attn else "off",
        "the number of experts per token": str(experts),
        "the context": f"longer than {n_trained} tokens" if is_long else "of any length",
    }
