"""Average every `group` consecutive slots into one; the newest `window` slots stay as they are.

    groups of the history:  events 0 .. g-1,  g .. 2g-1, ...
    k' = mean of the group's k        v' = sum of its v (weighted) or their mean
    pos, time, item of the merged slot: those of the group's newest event

A group is merged when all its slots have left the window. The merged slot stands alone in its
group, and only complete groups are merged, so it is never merged again; appending event by event
gives the same bits as one pass over the whole history.

Level: token merging
Source: GMSA, arXiv 2505.12215: group merging, there of an encoder's hidden states.
Differs: keys and values of a finished state are merged, without training and without the paper's
layers that align them with a decoder; the window is ours. HSTU sums SiLU(q k_j) v_j without
normalising, so of a group of equal keys the sum of values is exact and the mean is `group` times
too small beside the slots that stay: `weighted` is on. A softmax normalises, and `weighted` off is
nearer there, although a merged slot then counts as one event. Time bias, position bias and
repeats see a group as its newest event. A group of which a codec in front evicted a slot stays as
it is.
Cost: (M - window) / group + window slots, up to group - 1 more while a group is unfinished, each
with its position; time O(M * width) per layer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gistrec.codecs import SLOTS, Codec, is_row_tensor
from gistrec.errors import CodecError
from gistrec.state import UserState, positions


@dataclass(frozen=True)
class GroupMean(Codec):
    """The least that a learned summary of the older history has to beat."""

    group: int = 4
    """Slots merged into one, at least 2."""
    window: int = 16
    """Newest slots that are never merged, at least 0."""
    weighted: bool = True
    """Whether a merged value is the group's sum (HSTU) or its mean (softmax, other memories)."""

    stage = SLOTS
    dial = "group"
    dial_values = range(16, 1, -1)  # larger groups save little or leave more slots unfinished

    def __post_init__(self) -> None:
        if self.group < 2 or self.window < 0:
            raise CodecError(f"{self}: group must be at least 2 and window at least 0")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]  # depends on an option
        """Values that can be summed, if they are to be."""
        return frozenset({"v"}) if self.weighted else frozenset()

    def encode(self, state: UserState) -> UserState:
        """Merge the complete groups that have left the window."""
        self.require(state)
        pos_M = positions(state)
        group_G, of_M, size_G = torch.unique_consecutive(
            pos_M // self.group, return_inverse=True, return_counts=True
        )
        is_old_G = (group_G + 1) * self.group <= pos_M[-1:] + 1 - self.window
        merge_M = (is_old_G & (size_G == self.group))[of_M]
        is_newest_M = pos_M % self.group == self.group - 1
        kept_N = (~merge_M | is_newest_M).nonzero()[:, 0]
        merged_n, last_n = merge_M[kept_N], (merge_M & is_newest_M).nonzero()[:, 0]
        kept = state.select(kept_N)
        tensors = dict(kept.tensors)
        for name, x in state.slots():
            if is_row_tensor(name, x):
                rows = tensors[name].clone()
                rows[..., merged_n, :] = self._merge(name, x, last_n)
                tensors[name] = rows
        return kept.replace(tensors)

    def decode(self, state: UserState) -> UserState:
        """The state as it is, with fewer slots."""
        return state

    def _merge(self, name: str, x: Tensor, last_n: Tensor) -> Tensor:
        """Rows of the groups that end at the slots `last_n`."""
        total = torch.zeros_like(x[..., last_n, :], dtype=torch.float64)
        for back in range(self.group):  # in this order whatever the number of groups: same bits
            total += x[..., last_n - back, :]
        if not (self.weighted and name.startswith("v.")):
            total /= self.group
        limit = torch.finfo(x.dtype).max
        return total.clamp(-limit, limit).to(x.dtype)
