"""What `moetool experts` does: which texts, read where, and what is kept of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from moetool.assets import quality_text_path
from moetool.cli.answer import load_engine, require_fit
from moetool.cli.interrupt import CtrlC
from moetool.cli.judging import read_text
from moetool.cli.new_file import new_file, require_other
from moetool.cli.opening import Opened, open_model, plan_for, read_this_machine
from moetool.engine.model import Engine
from moetool.errors import ContextFull, UsageError
from moetool.eval import CHUNK_TOKENS
from moetool.identity import read_model_digest
from moetool.kept_profiles import KeptLayer, KeptProfile, keep_profile, read_profiles_folder
from moetool.lab.examined import Examined, Model, arrays_of, examine
from moetool.lab.reading import RoutingReader
from moetool.lab.tally import Profile
from moetool.plan import Wishes
from moetool.prompt import Message, chat_tokens, plain_tokens
from moetool.render.plain import notice
from moetool.render.progress import step_progress

# Logits of one batch. Shorter batches would read all experts' weights for few tokens.
_LOGITS_BYTES = 256 << 20
_LEAST_ROWS = 16
_PROMPT_CTX = 4096
# Of our own text: enough to tell how experts are used, and no more to wait for.
_OWN_TOKENS = 16 * CHUNK_TOKENS


@dataclass(frozen=True)
class Asked:
    """What the flags say: files to read (none: our text, unless there is a prompt), what to answer, in how
    many tokens, and how much of a text is read at once."""

    texts: tuple[Path, ...]
    prompt: str | None
    max_tokens: int
    n_chunk: int | None


def profile_model(
    name: str, wishes: Wishes, asked: Asked, rpc: str | None, outputs: Mapping[str, Path | None]
) -> Examined:
    """Read, count, conclude, and keep the profile. UsageError for a model without experts, and for `outputs`
    (by flag) that are what is read."""
    texts = _read_texts(asked)
    opened = open_model(name)
    if not opened.anatomy.is_moe:
        raise UsageError(
            f"{opened.model.name} is dense: it has no experts to watch", "moetool inspect shows what it has"
        )
    require_other(outputs, (*opened.model.paths, *asked.texts))
    plan = plan_for(opened, read_this_machine(rpc=rpc), _reading_wishes(opened, wishes, asked))
    require_fit(plan, opened.model.name)
    answer = None
    with CtrlC() as ctrl_c, load_engine(opened, plan, ctrl_c.pressed) as engine:
        reader = RoutingReader(engine, opened.anatomy.n_expert, ctrl_c.pressed)
        began = time.perf_counter()
        n_chunk = asked.n_chunk or _chunk_tokens(opened)
        prompt = None if asked.prompt is None else _prompt_tokens(engine, opened, asked.prompt)
        _read_all(engine, reader, texts, n_chunk, is_ours=not asked.texts)
        if prompt is not None:
            tokens = reader.read_and_write(prompt, asked.max_tokens)
            answer = b"".join(map(engine.piece, tokens)).decode("utf-8", "replace")
        seconds = time.perf_counter() - began
    digest = read_model_digest(opened.model.paths)
    anatomy = opened.anatomy
    model = Model(anatomy.name, anatomy.arch, anatomy.quant, digest, wishes.experts)
    found = examine(model, reader.tally.profile(), seconds, answer)
    _keep(found)
    return found


def write_arrays(path: Path, profile: Profile) -> None:
    """Write all counts for numpy.load; UsageError for a place where they cannot be written."""
    with new_file(path, "--npz") as part, part.open("wb") as stream:
        np.savez_compressed(stream, **arrays_of(profile))
    notice(f"Written: {path}")


def _read_texts(asked: Asked) -> dict[str, str]:
    """What is to be read, by the names that it is told apart by: those of files, without what they share."""
    if not asked.texts and asked.prompt is None:
        return {quality_text_path().name: read_text(quality_text_path())}
    names = [path.name for path in asked.texts]
    return {path.name if names.count(path.name) == 1 else str(path): read_text(path) for path in asked.texts}


def _chunk_tokens(opened: Opened) -> int:
    return min(CHUNK_TOKENS, opened.anatomy.n_ctx_train or CHUNK_TOKENS)


def _reading_wishes(opened: Opened, wishes: Wishes, asked: Asked) -> Wishes:
    """Room for a chunk, or for the prompt and its answer, and for the logits of as many tokens as are
    computed at once: only tokens whose logits are wanted get to the router of the last layer."""
    n_ctx = asked.n_chunk or _chunk_tokens(opened)
    if asked.prompt is not None:
        n_ctx = max(n_ctx, min(_PROMPT_CTX, opened.anatomy.n_ctx_train or _PROMPT_CTX))
    n_rows = max(_LEAST_ROWS, _LOGITS_BYTES // (4 * max(1, opened.anatomy.n_vocab)))
    return replace(wishes, n_ctx=n_ctx, n_outputs=min(n_rows, n_ctx, 512))


def _read_all(
    engine: Engine, reader: RoutingReader, texts: dict[str, str], n_chunk: int, *, is_ours: bool
) -> None:
    tokens = {name: engine.vocabulary.tokenize(text, add_special=True) for name, text in texts.items()}
    if is_ours:
        tokens = {name: found[:_OWN_TOKENS] for name, found in tokens.items()}
    for name, found in tokens.items():
        if not found:
            raise UsageError(f"There is nothing to read in {name}", "--text takes a text file")
    n_chunks = sum(-(-len(found) // n_chunk) for found in tokens.values())
    with step_progress("Reading", n_chunks) as on_chunk:
        for name, found in tokens.items():
            reader.read_text(name, found, n_chunk, on_chunk)


def _prompt_tokens(engine: Engine, opened: Opened, prompt: str) -> Sequence[int]:
    """As `run` would read it: as a message, where the model has a chat template."""
    template = opened.header.get_str("tokenizer.chat_template")
    if template:
        tokens = chat_tokens(engine.vocabulary, template, [Message("user", prompt)])
    else:
        tokens = plain_tokens(engine.vocabulary, prompt)
    if len(tokens) >= engine.n_ctx:
        raise ContextFull(
            f"The prompt has {len(tokens)} tokens, and the context is of {engine.n_ctx}",
            "give it as a file with --text, which is read in chunks",
        )
    return tokens


def _keep(found: Examined) -> None:
    """Keep the profile for what plans later, if it is of the model as it is; and say so."""
    if found.model.experts is not None:
        return
    profile = found.profile
    layers = tuple(
        KeptLayer(
            figures.layer,
            figures.n_used,
            tuple(profile.counts[:, at, : figures.n_expert].sum(axis=0).tolist()),
            tuple(np.round(profile.mass[:, at, : figures.n_expert].sum(axis=0), 3).tolist()),
        )
        for at, figures in enumerate(found.layers)
    )
    when = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    n_tokens = sum(profile.n_tokens)
    model = found.model
    kept = KeptProfile(model.sha256, model.name, when, profile.texts, n_tokens, layers)
    keep_profile(read_profiles_folder(), kept)
