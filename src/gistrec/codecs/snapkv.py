"""Keep the slots that the newest queries attend to, smoothed over neighbours, and the newest ones.

    s_j = sum over queries i >= j of 2^(-(n - i) / 16) * mean over layers and heads |a_ij|
    importance of slot j = mean of s over the `pool` slots around j

Level: token eviction
Source: Li et al. 2024, "SnapKV: LLM Knows What You are Looking for Before Generation", arXiv
2404.14469, section 4.
Differs: the paper looks once, at the last 16 to 64 queries of a prompt; here every query counts and
loses half of its weight every 16 events, so that the choice can go on as events arrive. One choice
for all layers and heads; |a| in place of softmax weights under HSTU.
Cost: a kept slot is unchanged and gains its position and 2 bytes at most for its score; time
O(pool * M).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gistrec.codecs import EvictByAttention
from gistrec.errors import CodecError
from gistrec.state import UserState


@dataclass(frozen=True)
class SnapKV(EvictByAttention):
    """What mattered of late, neighbours included."""

    share: float = 0.25
    """Share of the kept slots beyond the sinks that are the newest, 0 to 1."""
    pool: int = 5
    """Slots that are averaged, an odd number; 1 for none."""

    needs = frozenset({"recent"})
    score = "recent"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool < 1 or self.pool % 2 == 0:
            raise CodecError(f"{self}: pool must be an odd number")

    def importance(self, state: UserState, layer: int) -> Tensor:
        """Attention received of late by a slot and its neighbours, (1, M)."""
        score_1M = super().importance(state, layer)
        if not score_1M.numel():
            return score_1M
        side, ones_1M = self.pool // 2, torch.ones_like(score_1M)
        summed, count = (
            F.avg_pool1d(F.pad(x, (side, side)), self.pool, 1) for x in (score_1M, ones_1M)
        )
        return summed / count
