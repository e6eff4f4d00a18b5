"""What a quantization will make of a model, before anything is written: types, and sizes by role."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moetool.anatomy import RoledTensor
from moetool.anatomy.roles import Role
from moetool.lab.file_size import tensor_bytes
from moetool.quants import QuantType


@dataclass(frozen=True)
class RoleRow:
    """Tensors of one role: how many weights, bytes before and after, and weights by type, widest first."""

    role: Role
    n_params: int
    before_bytes: int
    after_bytes: int
    types: tuple[tuple[QuantType, int], ...]


@dataclass(frozen=True)
class QuantPlan:
    """A quantization to be done: `types` of the tensors that change (or are looked at), what the file will be
    called (`file_type`) and how large it will be to the byte, the metadata to add.

    `expected_kld` is the sum of what the tensors should cost, where that was measured on this model; `basis`
    says in words what the types rest on.
    """

    recipe: str
    file_type: str
    types: Mapping[str, QuantType]
    rows: tuple[RoleRow, ...]
    source_bytes: int
    file_bytes: int
    n_params: int
    notes: Mapping[str, str | int]
    expected_kld: float | None
    basis: str

    @property
    def weights_bytes(self) -> int:
        """Bytes of all tensors, without the padding between them."""
        return sum(row.after_bytes for row in self.rows)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.weights_bytes / self.n_params


def make_rows(tensors: Sequence[RoledTensor], types: Mapping[str, QuantType]) -> tuple[RoleRow, ...]:
    """A row for each role, the largest first."""
    by_role: dict[Role, list[RoledTensor]] = {}
    for tensor in tensors:
        by_role.setdefault(tensor.role, []).append(tensor)
    rows = [_make_row(role, inside, types) for role, inside in by_role.items()]
    return tuple(sorted(rows, key=lambda row: -row.after_bytes))


def _make_row(role: Role, tensors: Sequence[RoledTensor], types: Mapping[str, QuantType]) -> RoleRow:
    weights: Counter[QuantType] = Counter()
    after = 0
    for tensor in tensors:
        quant = types.get(tensor.info.name, tensor.info.type)
        weights[quant] += tensor.info.n_elements
        after += tensor_bytes(tensor.info, quant)
    return RoleRow(
        role,
        sum(tensor.info.n_elements for tensor in tensors),
        sum(tensor.info.n_bytes for tensor in tensors),
        after,
        tuple(sorted(weights.items(), key=lambda item: -item[0].bits_per_weight)),
    )
