"""How large a quantized file may be, or how much worse than its source; and the types that follow."""

from __future__ import annotations

from dataclasses import dataclass

from moetool.errors import DoesNotFit
from moetool.lab.allocation import Choice, Options, allocate, allocate_until, least_bytes, total_loss


@dataclass(frozen=True)
class Target:
    """Bytes of the whole file, bits per weight, or nats of divergence: one of the three; none for a recipe
    that leaves no choice."""

    file_bytes: int | None = None
    bits_per_weight: float | None = None
    kld: float | None = None

    @property
    def n_given(self) -> int:
        return sum(value is not None for value in (self.file_bytes, self.bits_per_weight, self.kld))


@dataclass(frozen=True)
class Rest:
    """What is not to be chosen: bytes of the file and of the weights besides the options, all parameters."""

    file_bytes: int
    weights_bytes: int
    n_params: int


def choose_types(options: Options, target: Target, rest: Rest) -> Choice:
    """The types that lose least under the target. DoesNotFit when the narrowest types are too large."""
    if target.kld is not None:
        limit = target.kld
        return allocate_until(options, lambda chosen: total_loss(chosen) <= limit)
    if target.bits_per_weight is not None:
        budget = int(target.bits_per_weight * rest.n_params / 8) - rest.weights_bytes
    else:
        budget = (target.file_bytes or 0) - rest.file_bytes
    least = least_bytes(options)
    if budget < least:
        bits = 8 * (rest.weights_bytes + least) / rest.n_params
        raise DoesNotFit(
            f"In the narrowest types it has {bits:.2f} bits a weight, {rest.file_bytes + least} bytes",
            "ask for more, or choose one of llama.cpp's IQ mixes with --recipe",
        )
    return allocate(options, budget)
