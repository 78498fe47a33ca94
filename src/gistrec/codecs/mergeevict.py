"""Merge neighbouring slots with the most similar keys until `keep` slots are left.

    cost of joining i and j = n_i n_j / (n_i + n_j) * sum over layers and heads of |k_i - k_j|^2
    k' = (n_i k_i + n_j k_j) / (n_i + n_j)        v' = v_i + v_j (weighted), or as k'
    n' = n_i + n_j        pos, time, item of the merged slot: those of its newest event

n is how many events a slot stands for. Only neighbours are joined and none is dropped, so it is the
distance to the position before and needs no bytes of its own. An append joins the one cheapest
pair; a long history is joined in passes, each along the cheapest quarter of all links.

Level: token merging
Source: Bolya et al. 2022, "Token Merging: Your ViT But Faster", arXiv 2210.09461, section 3 (merge
by key similarity, weights in later merges); Wan et al. 2024, "D2O", arXiv 2406.13035 (merge
instead of evicting from a cache); the cost is Ward 1963, "Hierarchical grouping to optimize an
objective function".
Differs: neighbours in time in place of any two slots; Ward's cost in place of cosine similarity,
which would let a large merged slot swallow all that follow; one choice for all layers and heads; no
attention scores and no threshold. HSTU sums SiLU(q k_j) v_j without normalising, so equal keys and
summed values merge without loss: `weighted` is on, for a softmax it should be off. Time bias,
position bias and repeats see a merged slot as its newest event. What is merged depends on the
path: appends one by one and one long prefill end in different states. A codec or memory in front
that drops slots would make its gaps count as merged events.
Cost: a slot gains its position; time O(M * width) per layer for an append, about four times that
for a prefill.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gistrec.codecs import SLOTS, Codec, is_row_tensor, rows_of
from gistrec.errors import CodecError
from gistrec.state import UserState, positions

LINKS_PER_PASS = 4
"""A pass joins at most one link in so many, since every join changes the costs beside it."""


@dataclass(frozen=True)
class MergeEvict(Codec):
    """Eviction that adds a slot to its neighbour instead of dropping it."""

    keep: int
    """Slots kept."""
    sink: int = 4
    """Of these, how many of the oldest slots are never merged."""
    window: int = 0
    """Of these, how many of the newest slots are never merged."""
    weighted: bool = True
    """Whether a merged value is the sum of its events' values (HSTU) or their mean (softmax)."""

    stage = SLOTS
    dial = "keep"
    needs = frozenset({"k", "v"})

    def __post_init__(self) -> None:
        if self.sink < 0 or self.window < 0 or self.keep <= self.sink + self.window:
            raise CodecError(
                f"{self}: sink and window must be at least 0, and keep larger than both together: "
                "at least one slot must be free to be merged"
            )

    @property
    def dial_values(self) -> Sequence[int]:
        """From the smallest `keep` with these sinks and window on."""
        return range(self.sink + self.window + 1, 1 << 16)

    def encode(self, state: UserState) -> UserState:
        """Merge until `keep` slots are left."""
        self.require(state)
        slots, pos_M = state.num_slots, positions(state)
        if slots <= self.keep:
            return state.select(torch.arange(slots))
        count_M = pos_M.diff(prepend=pos_M.new_tensor([-1])).double()
        keys = [rows_of(x) for name, x in state.slots() if name.startswith("k.")]
        run_M = self._runs(torch.cat(keys, dim=1).double(), count_M)
        count_R = _sums(count_M[:, None], run_M)
        merged = state.select(run_M.diff(append=run_M.new_tensor([self.keep])).nonzero()[:, 0])
        tensors = dict(merged.tensors)
        for name, x in state.slots():
            if is_row_tensor(name, x):
                if self.weighted and name.startswith("v."):
                    rows = _sums(x.double(), run_M)
                else:
                    rows = _sums(x.double() * count_M[:, None], run_M) / count_R
                limit = torch.finfo(x.dtype).max
                tensors[name] = rows.clamp(-limit, limit).to(x.dtype)
        return merged.replace(tensors)

    def decode(self, state: UserState) -> UserState:
        """The state as it is, with fewer slots."""
        return state

    def _runs(self, key_MW: Tensor, count_M: Tensor) -> Tensor:
        """For each slot the merged slot that it becomes part of, 0 to keep - 1, ascending."""
        run_M = torch.arange(len(key_MW))
        key_RW, count_R1 = key_MW, count_M[:, None]
        while (runs := len(key_RW)) > self.keep:
            n_R = count_R1[:, 0]
            cost_R = (key_RW[1:] - key_RW[:-1]).square().sum(1)  # of the link behind each run
            cost_R *= n_R[1:] * n_R[:-1] / (n_R[1:] + n_R[:-1])
            cost_R.nan_to_num_(nan=torch.finfo(torch.float64).max)
            cost_R[: self.sink] = torch.inf
            cost_R[runs - 1 - self.window :] = torch.inf
            links = runs - 1 - self.sink - self.window
            joins = min(runs - self.keep, -(-links // LINKS_PER_PASS))
            starts_R = torch.ones(runs, dtype=torch.int64)
            starts_R[cost_R.argsort(stable=True)[:joins] + 1] = 0
            of_R = starts_R.cumsum(0) - 1
            total_RW, count_after_R1 = _sums(key_RW * count_R1, of_R), _sums(count_R1, of_R)
            key_RW, count_R1 = total_RW / count_after_R1, count_after_R1
            run_M = of_R[run_M]
        return run_M


def _sums(rows: Tensor, run_M: Tensor) -> Tensor:
    """Sums of the rows of every run: (..., M, W) -> (..., R, W)."""
    shape = list(rows.shape)
    shape[-2] = int(run_M[-1]) + 1
    return rows.new_zeros(shape).index_add_(-2, run_M, rows)
