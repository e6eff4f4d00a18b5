"""How a model is to be loaded and run: the part of a plan that the engine obeys. Pure values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorOverride:
    """Tensors whose name matches the regular expression `pattern` go to `device` (first match wins)."""

    pattern: str
    device: str


@dataclass(frozen=True)
class Settings:
    """Everything that llama.cpp is told besides the file.

    `n_gpu_layers` counts as llama.cpp does: N = the output layer and the last N - 1 blocks; 0 = all on
    the CPU. `devices` are the offload devices in use, by llama.cpp's own names ("CUDA0"; empty: none);
    `tensor_split` is one proportion for each of them (empty: by free memory). `type_k` / `type_v` are
    ggml type names ("f16", "q8_0"). `n_seq` sequences share `n_ctx` cells, as in llama.cpp. `experts`
    overrides the number of experts used per token (None: the model's own). With `repack` llama.cpp may keep
    weights of the CPU in a layout of its own: copies, where pages of the file would do. `use_mmap` False
    copies all of them.
    """

    n_ctx: int = 4096
    n_seq: int = 1
    devices: tuple[str, ...] = ()
    n_gpu_layers: int = 0
    tensor_overrides: tuple[TensorOverride, ...] = ()
    tensor_split: tuple[float, ...] = ()
    type_k: str = "f16"
    type_v: str = "f16"
    n_batch: int = 2048
    n_ubatch: int = 512
    n_outputs_max: int = 1
    n_threads: int = 0
    n_threads_batch: int = 0
    flash_attn: bool = True
    kv_unified: bool = False
    swa_full: bool = False
    load_mtp: bool = False
    use_mmap: bool = True
    experts: int | None = None
    repack: bool = True

    @property
    def load_part(self) -> tuple[object, ...]:
        """What the weights in memory depend on: settings that agree in it can share a loaded model."""
        return (
            self.devices,
            self.n_gpu_layers,
            self.tensor_overrides,
            self.tensor_split,
            self.load_mtp,
            self.use_mmap,
            self.experts,
            self.repack,
        )

    @property
    def n_ctx_seq(self) -> int:
        """The share of one sequence."""
        return self.n_ctx // self.n_seq


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. The defaults are llama.cpp's own (common/common.h).

    `temperature` 0 takes the most probable token. `seed` makes a run repeatable on the same build and
    settings. `repeat_penalty` 1 is off; it looks at the last `repeat_last_n` tokens.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    seed: int = 0
