"""Keep only which item each slot holds; its rows are the item's average rows, from a shared table.

    T[i] = mean of x_j over the sample slots j with item_j = i        x'_j = T[item_j]

Of the lowest layer that is exact in any backbone without time or position in its inputs: its keys
and values are functions of the item alone (of a ranker: of item and action, which `hint.item` tells
together). `itemtable(layers=1) | rvq()` keeps it so and leaves the
layers above to the codec behind it.

One table per tensor (layer, keys or values). Items without samples, and ids beyond the table, get
the mean of all sample slots.

Level: cross-user
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

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gistrec.codecs import row_shape, rows_of
from gistrec.codecs._bits import step_of
from gistrec.codecs._items import ItemMeans, item_means
from gistrec.errors import CodecError
from gistrec.kernels.packed import Coded
from gistrec.state import UserState

LARGEST = 2**15 - 1
"""Steps; what 16 bits hold."""


@dataclass(frozen=True)
class ItemTable(ItemMeans):
    """The fewest bytes; right where a row is a function of its item, and a floor elsewhere."""

    layers: int = 0
    """Only so many layers, from the lowest on; 0 for all."""

    def __post_init__(self) -> None:
        if self.layers < 0:
            raise CodecError(f"{self}: layers must be at least 1, or 0 for all")

    def is_mine(self, name: str, x: Tensor) -> bool:
        """Rows of the lowest `layers`."""
        layer = name.partition(".")[2]
        is_low = not self.layers or (layer.isdigit() and int(layer) < self.layers)
        return is_low and super().is_mine(name, x)

    def learn(self, item_N: Tensor, x: Tensor) -> dict[str, Tensor]:
        """Means (V, H, K), int16 in steps, and the step, a power of two."""
        mean_VW = item_means(item_N, rows_of(x).double())
        step = step_of(mean_VW, LARGEST, least=-100, most=112)  # the largest row is finite in fp32
        means_VW = (mean_VW / step).round().clamp(-LARGEST, LARGEST).to(torch.int16)
        return {"means": means_VW.reshape(-1, *row_shape(x)), "step": torch.tensor(step)}

    def encode(self, state: UserState) -> UserState:
        """The state without its rows."""
        self.require(state)
        kept = {}
        for name, tensor in state.tensors.items():
            if self.is_mine(name, tensor):
                self.table(f"{name}.means")  # or there would be no way back
            else:
                kept[name] = tensor
        return state.replace(kept)

    def decode(self, state: UserState) -> UserState:
        """Every tensor's rows gathered from its table, fp32."""
        self.require(state)
        out = dict(state.tensors)
        for table in self.tables:
            name, _, kind = table.rpartition(".")
            if kind == "means":
                out[name] = self.means(name, state).float() * self.table(f"{name}.step")
        return state.replace(out)

    def coded(self, name: str, rows: Coded) -> Coded | None:
        """The table alone; rows that it does not make are as they are."""
        if f"{name}.means" not in self.tables:
            return rows
        if rows.kind != "plain":
            return None
        means_VW = self.table(f"{name}.means").flatten(1).contiguous()
        step, row_of = float(self.table(f"{name}.step")), None
        if (id_V := self.tables.get(f"{name}.ids")) is not None:
            row_of = self._row_of.setdefault(id_V.numpy().tobytes(), _inverse(id_V))
        return Coded("items", means_VW=means_VW, row_of=row_of, step=step)

    @cached_property
    def _row_of(self) -> dict[bytes, NDArray[np.int32]]:
        """By ids of a table; tensors have mostly the same, of which one copy is kept."""
        return {}


def _inverse(id_V: Tensor) -> NDArray[np.int32]:
    """The place of every id from 0 on, that behind all where there is none."""
    out = np.full(int(id_V[-1]) + 1, len(id_V), np.int32)
    out[id_V.numpy()] = np.arange(len(id_V), dtype=np.int32)
    return out
