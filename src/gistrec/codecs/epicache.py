"""Interests share the slots: those of every interest are kept from the newest on, in turns.

    interest of slot j = argmin_e |k_j - C[e]|           C: k-means of the lowest layer's keys
    importance of slot j = -(how many newer slots of the same interest there are)

The lowest layer's keys are functions of the item alone, so an interest is a cluster of items and
the same for all users.

Level: token eviction
Source: Kim et al. 2025, "EpiCache: Episodic KV Cache Management for Long Conversational Question
Answering", arXiv 2509.17396 (clusters of a history, a cache for each, a budget for each).
Differs: clusters are learned once for all users, so that no append moves them. Within an interest
the newest slots stay, the paper asks which ones a medoid attends to. All interests are read
together: reading only the candidate's interest takes a pass per interest and request, and over a
whole catalogue every interest has candidates. All layers keep the same slots, so layers have no
budgets of their own.
Cost: a kept slot is unchanged and gains its position; time O(episodes * M). Shared: 4 * episodes *
width bytes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from gistrec.codecs import Evict, check_finite, rows_of
from gistrec.codecs._kmeans import centroids
from gistrec.errors import CodecError
from gistrec.state import UserState

SAMPLE_ROWS = 1 << 15


@dataclasses.dataclass(frozen=True)
class EpiCache(Evict):
    """Keeps old interests alive that a sliding window forgets."""

    sink: int = 4
    """Of these, how many of the oldest slots are always kept."""
    episodes: int = 8
    """Interests, 1 to 256."""
    tables: Mapping[str, Tensor] = dataclasses.field(
        default_factory=dict, repr=False, compare=False, kw_only=True
    )
    """`centroids` (episodes, width)."""

    needs = frozenset({"k"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.episodes <= 256:
            raise CodecError(f"{self}: episodes must be 1 to 256")

    def fit(self, states: Sequence[UserState]) -> Self:
        """Cluster the lowest layer's keys.

        Raises:
            CodecError: the states hold no slots, or infinite or NaN values.
        """
        for state in states:
            self.require(state)
        rows = torch.cat([_keys(state) for state in states]) if states else torch.zeros(0, 1)
        if not len(rows):
            raise CodecError(
                f"{self} can't learn from {len(states)} states without a slot: give states of "
                "users with some history"
            )
        check_finite(self, "k", rows)
        rng = torch.Generator().manual_seed(0)
        sample = rows[torch.randperm(len(rows), generator=rng)[:SAMPLE_ROWS]].double().numpy()
        found = torch.from_numpy(centroids(sample, self.episodes)).float()
        return dataclasses.replace(self, tables={"centroids": found})

    def importance(self, state: UserState, layer: int) -> Tensor:
        """Minus the number of newer slots of the same interest, (1, M)."""
        centroid_EW = self.table("centroids").double()
        interest_M = torch.cdist(_keys(state).double(), centroid_EW).argmin(1)
        same_ME = torch.nn.functional.one_hot(interest_M, len(centroid_EW))
        newer_ME = same_ME.flip(0).cumsum(0).flip(0)
        return 1 - newer_ME.gather(1, interest_M[:, None]).T


def _keys(state: UserState) -> Tensor:
    """Keys of the lowest layer, heads joined: (M, H * K)."""
    return rows_of(state.tensors[f"k.{state.layers()[0]}"].float())
