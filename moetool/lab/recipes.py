"""Recipes for quantizing: llama.cpp's own mixes by their names, and `moe-aware`, which spends bits where they
save most.

A routed expert's weights take many bytes and matter little each; attention, router, shared experts and the
output are small and matter to every token. `moe-aware` does not fix that by rule: each tensor has the types
below to choose from, each with its bytes and its expected loss, and all together get what loses least.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from moetool.errors import UsageError
from moetool.gguf import TensorInfo
from moetool.gguf.header import padded
from moetool.lab.allocation import Option, Options
from moetool.lab.file_size import ALIGNMENT, tensor_bytes
from moetool.quants import BY_NAME, FILE_TYPES, QuantType

MOE_AWARE = "moe-aware"

# What `moe-aware` chooses from, narrow to wide. IQ4_XS beats Q4_K for its bytes; the other IQ types need an
# importance matrix or are slow on a CPU.
_TYPES = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "F16")
# For rows that are not whole blocks of 256.
_SHORT_TYPES = ("Q4_0", "IQ4_NL", "Q5_0", "Q5_1", "Q8_0", "F16")

# Types that are garbage without an importance matrix (tensor_requires_imatrix, src/llama-quant.cpp).
NEED_IMPORTANCE = frozenset({"IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S"})

# The file type that a file of mostly such tensors goes by.
_FILE_TYPE = {
    "Q2_K": "Q2_K",
    "Q3_K": "Q3_K_M",
    "IQ4_XS": "IQ4_XS",
    "Q4_K": "Q4_K_M",
    "Q5_K": "Q5_K_M",
    "Q6_K": "Q6_K",
    "Q4_0": "Q4_0",
    "IQ4_NL": "IQ4_NL",
    "Q5_0": "Q5_0",
    "Q5_1": "Q5_1",
}
# The quantizer follows types of tensors only under a file type that is quantized.
_OTHER_FILE_TYPE = "Q8_0"
_NOT_MADE = frozenset(
    {"F32", "NVFP4"}
)  # llama.cpp's quantizer has no default type for these, or changes nothing


def parse_recipe(name: str) -> str:
    """A recipe by its name, in upper or lower case; UsageError for another."""
    if name.lower() == MOE_AWARE:
        return MOE_AWARE
    if name.upper() in FILE_TYPES.values() and name.upper() not in _NOT_MADE:
        return name.upper()
    raise UsageError(
        f"There is no recipe {name!r}",
        f"--recipe takes {MOE_AWARE}, or a mix of llama.cpp's: Q4_K_M, Q5_K_M …",
    )


def probe_file_type(tensors: Sequence[TensorInfo]) -> str:
    """A file type under which llama.cpp would change every tensor that it changes at all."""
    own = {tensor.type.name for tensor in tensors}
    return next(name for name in ("Q8_0", "Q4_0", "Q5_0", "Q5_1") if name not in own)


def candidate_types(tensor: TensorInfo) -> tuple[QuantType, ...]:
    """The types that a tensor may get: narrower ones that its rows fit into, and its own."""
    names = _TYPES if tensor.shape[0] % 256 == 0 else _SHORT_TYPES
    fitting = (quant for quant in map(BY_NAME.__getitem__, names) if tensor.shape[0] % quant.block_size == 0)
    narrower = [quant for quant in fitting if quant.bits_per_weight < tensor.type.bits_per_weight]
    return (*narrower, tensor.type)


def make_options(
    tensors: Collection[TensorInfo],
    errors: Mapping[str, Mapping[QuantType, float]],
    loss: Callable[[str, float], float],
) -> Options:
    """What each tensor may choose from; its own type loses nothing."""
    return {
        tensor.name: [
            Option(
                quant,
                padded(tensor_bytes(tensor, quant), ALIGNMENT),
                0.0 if quant == tensor.type else loss(tensor.name, errors[tensor.name][quant]),
            )
            for quant in candidate_types(tensor)
        ]
        for tensor in tensors
    }


def file_type_of(types: Mapping[str, QuantType], tensors: Collection[TensorInfo]) -> str:
    """What to call a file of these types: after the one that most weights have."""
    weights: dict[str, int] = {}
    for tensor in tensors:
        name = types[tensor.name].name
        weights[name] = weights.get(name, 0) + tensor.n_elements
    return _FILE_TYPE.get(max(weights, key=lambda name: weights[name]), _OTHER_FILE_TYPE)
