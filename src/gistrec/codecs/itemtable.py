"""Keep only which item each slot holds; its rows are the item's average rows, from a shared table.

    T[i] = mean of x_j over the sample slots j with item_j = i        x'_j = T[item_j]

Of the lowest layer that is exact in any backbone without time or position in its inputs: its keys
and values are functions of the item alone. `itemtable(layers=1) | rvq()` keeps it so and leaves the
layers above to the codec behind it.

One table per tensor (layer, keys or values). Items without samples, and ids beyond the table, get
the mean of all sample slots.

Source: own reference row, no paper. In one layer of target attention without side features, keys
and values are functions of the item alone, so ids and this table lose nothing; what a method that
shares states across users (CollectiveKV, arXiv 2601.19178, and alike) gains must be measured
against it, and in later layers, where a row also depends on the history.
Differs: the table is averaged over sample states, not computed from the model's item embeddings:
nothing of the model is needed, and in later layers it is the best that an item id can say.
Cost: no bytes a slot but the item's id (the log has it too); one gather a slot and tensor. Shared:
2 * V * W bytes a tensor, V = largest sample id + 2, W = H * K: whole numbers of steps in 16 bits,
with an error of at most 2^-15 of the largest mean (bf16 would err by up to 2^-8 of it).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from gistrec.codecs import WIDTH, Codec, from_rows, is_row_tensor, rows_of
from gistrec.errors import CodecError
from gistrec.state import UserState, item_name

LARGEST = 2**15 - 1
"""Steps; what 16 bits hold."""


@dataclass(frozen=True)
class ItemTable(Codec):
    """The fewest bytes; right where a row is a function of its item, and a floor elsewhere."""

    layers: int = 0
    """Only so many layers, from the lowest on; 0 for all."""
    tables: Mapping[str, Tensor] = field(
        default_factory=dict, repr=False, compare=False, kw_only=True
    )
    """`<tensor>.means`, int16 in steps, the last row that of unknown items; `<tensor>.step`."""

    stage = WIDTH
    needs = frozenset({"item"})

    def __post_init__(self) -> None:
        if self.layers < 0:
            raise CodecError(f"{self}: layers must be at least 1, or 0 for all")

    def _is_mine(self, name: str, x: Tensor) -> bool:
        if not is_row_tensor(name, x):
            return False
        layer = name.partition(".")[2]
        return not self.layers or (layer.isdigit() and int(layer) < self.layers)

    def fit(self, states: Sequence[UserState]) -> Self:
        """Average each item's rows.

        Raises:
            CodecError: no slot to learn from, no items, or infinite or NaN values.
        """
        found: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for state in states:
            for name, x in state.slots():
                if self._is_mine(name, x) and x.shape[-2]:
                    if not x.isfinite().all():
                        raise CodecError(
                            f"{self} was given a state whose {name!r} holds infinite or NaN "
                            "values: repair the model that wrote it"
                        )
                    self.require(state)
                    found.setdefault(name, []).append((state.tensors[item_name(state)], x))
        if not found:
            raise CodecError(
                f"{self} can't learn from {len(states)} states without a slot of floating numbers: "
                "give states of users with some history"
            )
        tables: dict[str, Tensor] = {}
        for name, samples in found.items():
            item_N = torch.cat([item for item, _ in samples])
            rows_NW = torch.cat([rows_of(x) for _, x in samples])
            tables |= {f"{name}.{n}": t for n, t in _learn(item_N, rows_NW).items()}
            shape = samples[0][1].shape
            means_VW = tables[f"{name}.means"]
            tables[f"{name}.means"] = means_VW.reshape(-1, *shape[:-2], shape[-1])
        return replace(self, tables=tables)

    def encode(self, state: UserState) -> UserState:
        """The state without its rows."""
        self.require(state)
        kept = {}
        for name, tensor in state.tensors.items():
            if self._is_mine(name, tensor):
                self.table(f"{name}.means")  # or there would be no way back
            else:
                kept[name] = tensor
        return state.replace(kept)

    def decode(self, state: UserState) -> UserState:
        """Every tensor's rows gathered from its table, fp32."""
        self.require(state)
        item_M = state.tensors[item_name(state)]
        out = dict(state.tensors)
        for table, means_VHK in self.tables.items():
            name, _, kind = table.rpartition(".")
            if kind == "means":
                unknown = len(means_VHK) - 1
                known_M = (item_M >= 0) & (item_M < unknown)
                rows_MHK = means_VHK[torch.where(known_M, item_M, unknown)]
                rows_MW = rows_MHK.flatten(1).float() * self.table(f"{name}.step")
                out[name] = from_rows(rows_MW, means_VHK.shape[1:])
        return state.replace(out)


def _learn(item_N: Tensor, rows_NW: Tensor) -> dict[str, Tensor]:
    """Means in steps, (V, W), and the step, a power of two."""
    rows_NW = rows_NW.double()
    count_V1 = torch.bincount(item_N)[:, None]
    sum_VW = rows_NW.new_zeros(len(count_V1), rows_NW.shape[1]).index_add_(0, item_N, rows_NW)
    overall_W = rows_NW.mean(0)
    mean_VW = torch.where(count_V1 > 0, sum_VW / count_V1, overall_W)
    mean_VW = torch.cat([mean_VW, overall_W[None]])
    exponent = math.frexp(float(mean_VW.abs().max()) / LARGEST)[1]
    step = 2.0 ** min(max(exponent, -100), 112)  # the largest row is finite in fp32
    means_VW = (mean_VW / step).round().clamp(-LARGEST, LARGEST).to(torch.int16)
    return {"means": means_VW, "step": torch.tensor(step)}
