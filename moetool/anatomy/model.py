"""`Header` -> `Anatomy`: counts and sizes of the whole model, layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from moetool.anatomy import facts
from moetool.anatomy.layers import (
    Heads,
    Layer,
    Mixer,
    Parts,
    cache_rows,
    compressor_values,
    has_attention,
    is_recurrent,
    make_parts,
    sliding_layers,
    state_values,
)
from moetool.anatomy.metadata import MAX_LAYERS, Metadata, make_metadata
from moetool.anatomy.reading import active_params, read_by_role, used_experts
from moetool.anatomy.roles import Role, RoledTensor, layer_of, part_of, roled
from moetool.anatomy.routing import Routing, make_routing
from moetool.gguf import ArrayRef, Header, TensorInfo
from moetool.quants import file_type_name


@dataclass(frozen=True)
class Sparse:
    """How a sparse attention chooses cells: `n_head` small heads of `key` values score them, `top_k` pass.

    `pool` and `ratio` tokens share one score, `block` cells are chosen together (0: each by itself).
    """

    n_head: int
    key: int
    top_k: int
    pool: int
    block: int
    ratio: int


@dataclass(frozen=True)
class Anatomy:
    """A model, as its header describes it.

    `n_params` counts every value of the tensor table, as llama_model_n_params does. `n_params_active` counts
    those that take part in computing one text token: of the routed experts the share that is used; not the
    rows of the embedding that are merely looked up (a tied embedding counts, as the output matrix it is too);
    not the next-token layers and not the vision experts. `read_by_role` are the bytes of the same tensors and
    of the looked-up rows: what decoding one token must read besides caches. `n_layer` leaves the next-token
    layers out; `layers` holds them too, marked `mtp`. `n_streams` copies of the residual stream run through
    models with hyper-connections, one through others; a token has `n_positions` for its rope.
    """

    name: str
    arch: str
    quant: str
    n_layer: int
    n_layer_mtp: int
    n_layer_moe: int
    n_embd: int
    n_vocab: int
    n_ctx_train: int
    n_expert: int
    n_expert_used: int
    n_expert_shared: int
    n_params: int
    n_params_active: int
    weights_bytes: int
    file_bytes: int
    bytes_by_role: Mapping[Role, int]
    params_by_role: Mapping[Role, int]
    read_by_role: Mapping[Role, int]
    layers: tuple[Layer, ...] = field(repr=False)
    tensors: tuple[RoledTensor, ...] = field(repr=False)
    unknown: tuple[str, ...]
    tied: bool
    has_mtp_tensors: bool
    causal: bool
    n_positions: int
    n_streams: int
    sparse: Sparse | None
    routing: Routing

    @property
    def bytes_per_token(self) -> int:
        return sum(self.read_by_role.values())

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.weights_bytes / self.n_params if self.n_params else 0.0

    @property
    def learns_positions(self) -> bool:
        """Are positions looked up in a table of `n_ctx_train` rows? Beyond it llama.cpp aborts."""
        return any(tensor.info.name == "position_embd.weight" for tensor in self.tensors)

    @property
    def is_moe(self) -> bool:
        return self.n_layer_moe > 0


def make_anatomy(header: Header, file_bytes: int | None = None) -> Anatomy:
    """The anatomy of the model behind `header` (of all shards: see gguf.merge_shards).

    `file_bytes` is the size of its files, if it is known to differ from what the header states. Raises
    HeaderError for a header that names no architecture or an impossible number of layers.
    """
    metadata = make_metadata(header)
    n_mtp = _mtp_layers(header, metadata)
    n_all = _layer_count(metadata)
    tensors = roled(header.tensors, n_all - n_mtp, _recurrent_layers(metadata, header.tensors))
    tied = _is_tied(header.tensors)
    layers = _make_layers(metadata, tensors, n_all, n_mtp)
    used = used_experts(tensors, layers)
    n_expert = metadata.number("expert_count")
    by_role: Counter[Role] = Counter()
    params: Counter[Role] = Counter()
    for tensor in tensors:
        by_role[tensor.role] += tensor.info.n_bytes
        params[tensor.role] += tensor.info.n_elements
    return Anatomy(
        name=header.get_str("general.name") or header.get_str("general.basename") or header.arch,
        arch=header.arch,
        quant=_quant_name(header),
        n_layer=n_all - n_mtp,
        n_layer_mtp=n_mtp,
        n_layer_moe=sum(layer.ffn == "moe" and not layer.mtp for layer in layers),
        n_embd=metadata.number("embedding_length"),
        n_vocab=_vocabulary(header, metadata),
        n_ctx_train=metadata.number("context_length"),
        n_expert=n_expert,
        n_expert_used=metadata.largest("expert_used_count"),
        n_expert_shared=_shared_experts(metadata, params),
        n_params=sum(params.values()),
        n_params_active=active_params(tensors, used, n_expert, tied),
        weights_bytes=sum(by_role.values()),
        file_bytes=header.file_bytes if file_bytes is None else file_bytes,
        bytes_by_role=dict(by_role),
        params_by_role=dict(params),
        read_by_role=read_by_role(tensors, used, n_expert, tied),
        layers=layers,
        tensors=tensors,
        unknown=tuple(t.info.name for t in tensors if t.role == "unknown"),
        tied=tied,
        has_mtp_tensors=any(t.role == "mtp" for t in tensors),
        n_positions=_positions(metadata),
        n_streams=max(1, metadata.number("hyper_connection.count")),
        sparse=_sparse(metadata, tensors),
        routing=make_routing(metadata, tensors, layers),
        causal=header.get_bool(f"{header.arch}.attention.causal", True) and header.arch not in facts.NO_CACHE,
    )


# --- counts -------------------------------------------------------------------------------------------------


def _layer_count(metadata: Metadata) -> int:
    """Layers as llama.cpp builds them: looped models run their blocks several times (nanbeige)."""
    loops = max(1, metadata.number("num_loops", 1))
    router = 1 if metadata.number("adapter.count") else 0  # granite-switch: one more, for the router's keys
    return min(metadata.number("block_count") * loops + router, MAX_LAYERS)


def _mtp_layers(header: Header, metadata: Metadata) -> int:
    """Next-token layers at the end of the stack; DeepSeek-V4 forgets them when their tensors are missing."""
    count = min(metadata.number("nextn_predict_layers"), metadata.number("block_count"))
    if count and metadata.arch == "deepseek4":
        probe = f"blk.{metadata.number('block_count') - count}.nextn.eh_proj.weight"
        return count if any(t.name == probe for t in header.tensors) else 0
    return count


def _vocabulary(header: Header, metadata: Metadata) -> int:
    for tensor in header.tensors:
        if tensor.name == "token_embd.weight" and len(tensor.shape) == 2:
            return tensor.shape[1]
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, ArrayRef):
        return tokens.count
    return metadata.number("vocab_size") or (len(tokens) if isinstance(tokens, tuple) else 0)


def _recurrent_layers(metadata: Metadata, tensors: Sequence[TensorInfo]) -> frozenset[int]:
    """Layers that keep a state instead of attending."""
    by_layer: dict[int, list[TensorInfo]] = {}
    for tensor in tensors:
        layer = layer_of(tensor.name)
        if layer is not None:
            by_layer.setdefault(layer, []).append(tensor)
    return frozenset(
        index
        for index, inside in by_layer.items()
        if is_recurrent(parts := make_parts(inside), metadata, index)
        and not has_attention(parts, True, _head_count_kv(metadata, index))
    )


def _shared_experts(metadata: Metadata, params: Mapping[Role, int]) -> int:
    """How many experts every token passes through; one where only their width is told."""
    return metadata.number("expert_shared_count") or (1 if params.get("shared experts") else 0)


def _sparse(metadata: Metadata, tensors: Sequence[RoledTensor]) -> Sparse | None:
    if not any(".indexer." in t.info.name for t in tensors):
        return None
    return Sparse(
        n_head=metadata.number("attention.indexer.head_count"),
        key=metadata.number("attention.indexer.key_length"),
        top_k=metadata.number("attention.indexer.top_k"),
        pool=metadata.number("attention.indexer.kpool"),
        block=metadata.number("attention.indexer.block_size"),
        ratio=max(metadata.array("attention.compress_ratios") or (0,)),
    )


def _positions(metadata: Metadata) -> int:
    """Positions per token: four where the rope has sections for time, height and width (n_pos_per_embd)."""
    sections = metadata.array("rope.dimension_sections") or ()
    return 4 if len(sections) > 1 and all(sections[:2]) else 1


def _is_tied(tensors: Sequence[TensorInfo]) -> bool:
    """Whether the token embedding is the output matrix too: no `output.weight` (or classifier) of its own."""
    names = {t.name for t in tensors}
    return "token_embd.weight" in names and not names & {"output.weight", "cls.weight"}


def _quant_name(header: Header) -> str:
    """The file type's name; without one, the type that most bytes are in."""
    if "general.file_type" in header.metadata and (
        name := file_type_name(header.get_int("general.file_type"))
    ):
        return name
    by_type: Counter[str] = Counter()
    for tensor in header.tensors:
        by_type[tensor.type.name] += tensor.n_bytes
    return by_type.most_common(1)[0][0] if by_type else "none"


# --- layers -------------------------------------------------------------------------------------------------


def _make_layers(
    metadata: Metadata, tensors: Sequence[RoledTensor], n_all: int, n_mtp: int
) -> tuple[Layer, ...]:
    by_layer: dict[int, list[RoledTensor]] = {index: [] for index in range(n_all)}
    for tensor in tensors:
        if tensor.layer is not None and tensor.layer in by_layer:
            by_layer[tensor.layer].append(tensor)
    slides, window = sliding_layers(metadata, n_all - n_mtp)
    windows = tuple(window if slides[i] else 0 for i in range(n_all - n_mtp)) + (0,) * n_mtp
    # DeepSeek-V4 lets its next-token layer slide too.
    if metadata.arch == "deepseek4":
        windows = (window,) * n_all
    has_k_b = any("attn_k_b." in t.info.name for t in tensors)
    mla = has_k_b and metadata.number("attention.key_length_mla") > 0
    heads = _heads(metadata, windows, mla)
    return tuple(
        _make_layer(metadata, by_layer[index], index, heads[index], index >= n_all - n_mtp)
        for index in range(n_all)
    )


def _heads(metadata: Metadata, windows: Sequence[int], mla: bool) -> tuple[Heads, ...]:
    sizes = []
    for index, window in enumerate(windows):
        physical = index % max(1, metadata.number("block_count"))
        n_head_kv = _head_count_kv(metadata, physical)
        sizes.append((n_head_kv, _head_size(metadata, "key", window), _head_size(metadata, "value", window)))
    widest = max((n * v for n, _, v in sizes), default=0)
    return tuple(Heads(n, k, v, w, mla, widest) for (n, k, v), w in zip(sizes, windows, strict=True))


def _head_count_kv(metadata: Metadata, layer: int) -> int:
    n_head = metadata.at("attention.head_count", layer)
    return metadata.at("attention.head_count_kv", layer, n_head)


def _head_size(metadata: Metadata, which: str, window: int) -> int:
    """Values per head of a key or value, sliding layers with sizes of their own apart (load_hparams)."""
    n_head = metadata.at("attention.head_count", 0)
    if not n_head:
        return metadata.number(f"attention.{which}_length")
    full = metadata.number(f"attention.{which}_length", metadata.number("embedding_length") // n_head)
    return metadata.number(f"attention.{which}_length_swa", full) if window else full


def _make_layer(
    metadata: Metadata, tensors: Sequence[RoledTensor], index: int, heads: Heads, mtp: bool
) -> Layer:
    parts = make_parts([t.info for t in tensors])
    recurrent = not mtp and is_recurrent(parts, metadata, index)
    attends = has_attention(parts, recurrent, heads.n_head_kv)
    cached = attends and metadata.arch not in facts.NO_CACHE and _owns_cache(metadata, index, mtp)
    state = 0 if mtp else _state_values(parts, metadata, index, heads)
    by_role: Counter[Role] = Counter()
    for tensor in tensors:
        by_role[tensor.role] += tensor.info.n_bytes
    n_expert_used = metadata.at("expert_used_count", index)
    moe = parts.has("ffn_gate_inp.") and bool(metadata.number("expert_count"))
    return Layer(
        index=index,
        mixer=_mixer(recurrent, attends, heads),
        ffn="moe" if moe else "dense" if parts.has("ffn_", "channel_mix_") else "none",
        n_head=metadata.at("attention.head_count", index),
        n_head_kv=heads.n_head_kv,
        head_k=heads.head_k,
        head_v=heads.head_v,
        window=heads.window,
        n_ff=_ffn_width(tensors),
        n_expert_used=n_expert_used if moe else 0,
        cache=cache_rows(parts, metadata, heads, index) if cached else (),
        state_values=state,
        bytes_by_role=dict(by_role),
        mtp=mtp,
    )


def _state_values(parts: Parts, metadata: Metadata, index: int, heads: Heads) -> int:
    if parts.has("attn_kv."):
        return compressor_values(metadata, index, heads.head_k)
    if not is_recurrent(parts, metadata, index):
        return 0
    # The first layer's head count, as llama_hparams::n_embd_r and n_embd_s take it.
    return state_values(parts, metadata, metadata.at("attention.head_count", 0), heads.head_k)


def _mixer(recurrent: bool, attends: bool, heads: Heads) -> Mixer:
    if recurrent:
        return "parallel" if attends else "recurrent"
    if not attends or not heads.n_head_kv:
        return "none"
    if heads.window:
        return "sliding"
    return "mla" if heads.mla else "full"


def _owns_cache(metadata: Metadata, index: int, mtp: bool) -> bool:
    """Whether the layer has cells of its own: not when it reads an earlier layer's (has_kv), and a next-token
    layer only where llama.cpp does not filter it out of the main cache."""
    if mtp:
        return metadata.arch in facts.MTP_IN_MAIN_CACHE
    shared = metadata.number("attention.shared_kv_layers")
    owners = facts.LAYERS_WITH_CACHE.get(metadata.arch, metadata.number("block_count") - shared)
    return index < owners or not (shared or metadata.arch in facts.LAYERS_WITH_CACHE)


def _ffn_width(tensors: Sequence[RoledTensor]) -> int:
    """The width of the dense FFN: what its down projection takes in."""
    for tensor in tensors:
        if part_of(tensor.info.name) == "ffn_down.weight" and tensor.info.shape:
            return tensor.info.shape[0]
    return 0
