"""Base of codecs with tables of every item's mean row, learned from sample states.

Shapes: N sample slots, V rows of a table, last that of unknown items. The others are those of ids
from 0 on; or, where less than half of these ids are in the samples, of the ids in `<tensor>.ids`
alone: rankers' ids tell the action, too, and most items never meet most actions.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from gistrec.codecs import WIDTH, Codec, is_row_tensor, row_samples
from gistrec.state import UserState, item_name


@dataclass(frozen=True)
class ItemMeans(Codec):
    """Base of codecs that take from a slot's item what its row is like on average."""

    tables: Mapping[str, Tensor] = field(
        default_factory=dict, repr=False, compare=False, kw_only=True
    )
    """`<tensor>.means` (V, H, K), int16, what else `learn` returns, and perhaps `<tensor>.ids`."""

    stage = WIDTH
    slotwise = True
    needs = frozenset({"item"})

    @abstractmethod
    def learn(self, item_N: Tensor, x: Tensor) -> dict[str, Tensor]:
        """The tables of one tensor, from its slots of all sample states joined on axis -2."""

    def is_mine(self, name: str, x: Tensor) -> bool:
        """Whether the codec has a table for a tensor: rows of slots, as `fixed.*` have no item."""
        return is_row_tensor(name, x) and not name.startswith("fixed.")

    def fit(self, states: Sequence[UserState]) -> Self:
        """Learn each item's mean row.

        Raises:
            CodecError: no slot to learn from, no items, or infinite or NaN values.
        """
        tables: dict[str, Tensor] = {}
        for name, samples in row_samples(self, states, self.is_mine).items():
            for state, _ in samples:
                self.require(state)
            item_N = torch.cat([state.tensors[item_name(state)] for state, _ in samples])
            x = torch.cat([x for _, x in samples], dim=-2)
            id_V, place_N = item_N.unique(return_inverse=True)
            if 2 * len(id_V) < int(id_V.max()):
                tables[f"{name}.ids"], item_N = id_V, place_N
            tables |= {f"{name}.{table}": t for table, t in self.learn(item_N, x).items()}
        return replace(self, tables=tables)

    def means(self, name: str, state: UserState) -> Tensor:
        """The mean row of each slot's item, (H, M, K), as the table has it."""
        means_VHK = self.table(f"{name}.means")
        item_M = state.tensors[item_name(state)].long().numpy()
        if f"{name}.ids" in self.tables:
            id_V = self.table(f"{name}.ids").numpy()
            place_M = np.searchsorted(id_V, item_M)
            found = id_V[np.minimum(place_M, len(id_V) - 1)] == item_M
            item_M = np.where(found, place_M, -1)
        # an id below 0 is a huge one without its sign
        item_M = item_M.view(np.uint64)
        place_M = np.minimum(item_M, len(means_VHK) - 1).view(np.int64)
        return means_VHK.index_select(0, torch.from_numpy(place_M)).movedim(0, -2)


def item_means(item_N: Tensor, rows_NW: Tensor, shrink: float = 0) -> Tensor:
    """Each item's mean row, mixed with `shrink` overall means, and last the overall one: (V, W)."""
    count_V1 = torch.bincount(item_N)[:, None]
    sum_VW = rows_NW.new_zeros(len(count_V1), rows_NW.shape[1]).index_add_(0, item_N, rows_NW)
    overall_W = rows_NW.mean(0)
    weight_V1 = count_V1 + shrink
    mean_VW = torch.where(weight_V1 > 0, (sum_VW + shrink * overall_W) / weight_V1, overall_W)
    return torch.cat([mean_VW, overall_W[None]])
