"""What `imatrix` does once its flags are read: plan, load, read the text with the graph in view."""

from __future__ import annotations

from pathlib import Path

from moetool.cli.answer import load_engine, require_fit
from moetool.cli.interrupt import CtrlC
from moetool.cli.judging import read_text, reading_wishes
from moetool.cli.opening import Opened, plan_for, read_this_machine
from moetool.engine.reading import TextReader
from moetool.engine.watch import Watch
from moetool.lab.collecting import OPS, Collector, read_chunks
from moetool.lab.imatrix import Imatrix
from moetool.plan import Wishes
from moetool.render.progress import step_progress


def collect(opened: Opened, text: Path, n_ctx: int | None, n_threads: int | None) -> Imatrix:
    """The importance matrix of a text: in chunks of 512 tokens unless `n_ctx` says otherwise."""
    content = read_text(text)
    wishes = reading_wishes(opened, Wishes(n_ctx=n_ctx, n_threads=n_threads))
    plan = plan_for(opened, read_this_machine(), wishes)
    require_fit(plan, opened.model.name)
    collector = Collector()
    with CtrlC() as ctrl_c, load_engine(opened, plan, ctrl_c.pressed) as engine:
        engine.use_watch(Watch(collector.see, ops=OPS))
        vocabulary, chunk_tokens = engine.vocabulary, engine.n_ctx
        tokens = vocabulary.tokenize(content, add_special=True)
        reader = TextReader(engine, ctrl_c.pressed)
        bos = vocabulary.bos if vocabulary.adds_bos else None
        with step_progress("Reading", len(tokens) // chunk_tokens) as on_chunk:
            n_chunks = read_chunks(reader, tokens, chunk_tokens, bos, reader.n_rows, on_chunk)
    return Imatrix(collector.entries(), (text.name,), n_chunks, chunk_tokens)
