"""What `sparsity --layers` does: fewer experts in one layer at a time, and what that makes of a text."""

from __future__ import annotations

from dataclasses import replace

from moetool.cli.answer import load_engine
from moetool.cli.interrupt import CtrlC
from moetool.cli.lab_texts import WHOLE, lab_texts, read_texts, reading_plan
from moetool.cli.opening import Opened, read_this_machine
from moetool.cli.thinning import Asked
from moetool.engine.fewer_experts import FewerExperts
from moetool.errors import UsageError
from moetool.lab.layer_map import ALL_LAYERS, LayerMap, layer_cost
from moetool.lab.sparsity import choose_chunks
from moetool.plan import Wishes
from moetool.render.progress import step_progress


def map_layers(opened: Opened, wishes: Wishes, asked: Asked, rpc: str | None = None) -> LayerMap:
    """Read the texts with all experts, then with fewer in each layer, then with fewer in all of them."""
    keep = _keep(opened, asked)
    texts = read_texts(asked.texts)
    layers = [layer.index for layer in opened.anatomy.layers if layer.ffn == "moe" and not layer.mtp]
    machine = read_this_machine(rpc=rpc, measure="unknown")
    plan = reading_plan(opened, machine, replace(wishes, experts=None))
    n_reads = (len(layers) + 2) * len(texts)
    speed, n_ctx = plan.speed.prompt_tok_s or 100.0, plan.settings.n_ctx_seq
    n_chunks = choose_chunks(speed, n_ctx, n_reads, asked.budget_s)
    fewer = FewerExperts(is_softmaxed=opened.anatomy.routing.is_softmaxed)
    with (
        CtrlC() as ctrl_c,
        load_engine(opened, plan, ctrl_c.pressed) as engine,
        step_progress("Reading", n_reads) as on_text,
        lab_texts(opened, texts, n_chunks, ctrl_c.pressed, on_text) as lab,
    ):
        engine.use_watch(fewer.watch)
        own = lab.read_first(engine)
        costs = []
        for layer in layers:
            fewer.keep = {layer: keep}
            costs.append(layer_cost(layer, lab.read(engine)[WHOLE]))
        fewer.keep = dict.fromkeys(layers, keep)
        together = layer_cost(ALL_LAYERS, lab.read(engine)[WHOLE])
    return LayerMap(opened.anatomy.n_expert_used, keep, own[WHOLE].n_tokens, tuple(costs), together)


def _keep(opened: Opened, asked: Asked) -> int:
    """How many experts a layer keeps: what was asked for, else half of the model's own number."""
    own = opened.anatomy.n_expert_used
    if not opened.anatomy.is_moe:
        raise UsageError(f"{opened.model.name} has no experts", "sparsity is about mixtures of experts")
    if own < 2:
        raise UsageError(
            "This model uses one expert a token: no layer can do with fewer", "leave --layers out"
        )
    if len(asked.counts) > 1:
        raise UsageError("--layers takes one number of experts", f"write --experts {own // 2}")
    keep = asked.counts[0] if asked.counts else own // 2
    if not 1 <= keep < own:
        raise UsageError(
            f"--experts {keep}: with --layers, a layer keeps fewer than the model's own {own}",
            f"use 1 to {own - 1}",
        )
    return keep
