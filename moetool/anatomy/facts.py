"""What llama.cpp knows about architectures and the file does not say: a table, from src/models/*.cpp.

Everything else is read from metadata and tensors. An architecture without a row is taken at its file's word.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sliding:
    """Which layers slide when the file has no pattern array (llama_hparams::set_swa_pattern).

    Every `period`-th layer is full, the others slide; 0: all slide. `full_first` counts from the first layer.
    `window` stands in for a missing key, `forced_window` overrules it.
    """

    period: int
    full_first: bool = False
    window: int = 0
    forced_window: int = 0


# load_arch_hparams of each architecture: load_swa_pattern(ml, period, dense_first) and the n_swa beside it.
SLIDING: dict[str, Sliding] = {
    "afmoe": Sliding(4),
    "cohere2": Sliding(4),
    "cohere2moe": Sliding(4, full_first=True),
    "deepseek4": Sliding(0),
    "exaone-moe": Sliding(4, window=128),
    "exaone4": Sliding(4, window=4096),
    "gemma-embedding": Sliding(6),
    "gemma2": Sliding(2, window=4096),
    "gemma3": Sliding(6),
    "gemma3n": Sliding(5),
    "gpt-oss": Sliding(2),
    "laguna": Sliding(4, full_first=True),
    "lfm2": Sliding(0),
    "llama4": Sliding(4, window=8192, forced_window=8192),
    "mellum": Sliding(4),
    "modern-bert": Sliding(3, full_first=True),
    "muse-glimmer": Sliding(4),
    "olmo2": Sliding(4),
    "plamo3": Sliding(8),
    "smallthinker": Sliding(4, full_first=True, forced_window=4096),
}

# EXAONE 4 slides in its 32B size only (src/models/exaone4.cpp).
EXAONE4_SLIDING_LAYERS = 64

# Encoders and diffusion models: no cache at all (llama_model::create_memory).
NO_CACHE = frozenset(
    {
        "bert",
        "dream",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "llada",
        "llada-moe",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "rnd1",
        "wavtokenizer-dec",
    }
)

# Hybrids whose layer filter does not leave the next-token layers out of the main cache.
MTP_IN_MAIN_CACHE = frozenset({"bailingmoe3", "kimi-k3", "kimi-linear", "nemotron_h_moe"})

# Layers that own a cache, where no key says so (src/models/gemma3n.cpp).
LAYERS_WITH_CACHE = {"gemma3n": 20}

# The output matrix of a tied model is made before the embedding, so that even without offload it is held
# twice when the file is not mapped (src/models/gemma4.cpp).
TIED_TWICE_ON_CPU = frozenset({"gemma4"})

# Architectures whose graph picks the rows that become logits behind the last layer instead of inside it
# (inp_out_ids in src/models/*.cpp), and what they keep of all rows for drafting (t_h_nextn): the last layer's
# output, the same normed, or nothing.
ROWS_CHOSEN_AT_END = {
    "bailingmoe3": "normed",
    "cohere2moe": "normed",
    "deepseek4": "",
    "gemma3n": "",
    "gemma4": "normed",
    "glm5-next": "",
    "gpt-oss": "hidden",
    "hrm_text": "",
    "hy_v3": "normed",
    "hy_v4": "",
    "kimi-k3": "",
    "nemotron_h": "normed",
    "nemotron_h_moe": "normed",
    "qwen35": "normed",
    "qwen35moe": "normed",
    "qwen3next": "normed",
    "step35": "hidden",
}

# Architectures that norm values too, with nothing that a tensor would tell.
NORMED_VALUES = frozenset({"gemma3n", "gemma4"})

# Architectures whose indexer keys are rotated in any case (src/llama-kv-cache.cpp).
ROTATED_INDEX = frozenset({"deepseek32", "deepseek4", "dots3note", "glm-dsa"})

# Architectures that llama.cpp runs without flash attention, whatever is asked for (src/llama-context.cpp).
NO_FLASH_ATTENTION = frozenset({"grok"})

# Architectures without a rotary embedding (LLAMA_ROPE_TYPE_NONE in llama_model_rope_type).
NO_ROPE = frozenset(
    {
        "bloom",
        "glm5-next",
        "gpt2",
        "jais",
        "jamba",
        "jina-bert-v2",
        "kimi-k3",
        "kimi-linear",
        "mpt",
        "nemotron_h",
        "nemotron_h_moe",
        "refact",
        "starcoder",
    }
)

# Architectures where a layer's first recurrent state is gathered before the end of the layer before it,
# because nothing makes that end earlier (no ggml_build_forward_expand of its input in src/models/*.cpp).
STATES_AHEAD = frozenset(
    {
        "granitehybrid",
        "jamba",
        "lfm2",
        "lfm2moe",
        "mamba",
        "mamba2",
        "minimax-01",
        "nemotron_h",
        "nemotron_h_moe",
        "plamo2",
    }
)

# Architectures whose last norm is called token_embd_norm (LLM_TENSOR_OUTPUT_NORM_LFM2, src/llama-arch.cpp).
NORMED_AT_END = frozenset({"lfm2", "lfm2moe"})

# Architectures whose norms have no weights, so that no tensor tells of them.
BARE_NORMS = frozenset({"hrm_text", "olmo", "talkie"})
