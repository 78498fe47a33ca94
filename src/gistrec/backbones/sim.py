"""SIM: a search finds the events that matter to the candidate, attention weighs them.

    soft:  the 50 best by r_ij = q'_i k_j over all heads, q' = W_s x_i, trained by a loss of its own
    hard:  the newest 50 events whose item has the candidate's first feature (its category)
    y_i  = sum_{j among them} softmax(q_i k_j / sqrt(K)) v_j
    loss = BCE + BCE of MLP([x_i ; u_i ; u_i * x_i]),  u_i = mean_j r_ij v_j                  (soft)

Level: architecture
Source: Pi et al. 2020, "Search-based User Interest Modeling with Lifelong Sequential Behavior Data
for Click-Through Rate Prediction", arXiv 2006.05639, sections 3.2 and 3.3.
Differs: the search has a query of its own over the attention's keys, so that nothing is kept for
it. The auxiliary input is a mean, not a sum. No branch over the newest events and no time
intervals. Items without features are searched by the item itself, and those that the model does
not know find nothing by the hard search. Public versions mask scores by multiplying with 0, so that
padding beats every event with a negative score, and cut the mask of their short branch one off:
what a candidate may not see is never found here.
Cost: 2 * width numbers per event with the full memory, and 4 to 8 bytes of its item for the hard
search; two dot products per candidate and slot, and a top-k.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gistrec.backbones._target import TargetAttention, TargetReader
from gistrec.errors import ConfigError
from gistrec.impressions import FEATURE_ROWS, ImpressionBatch
from gistrec.memories import heads

_ANOTHER_KIND = -1e30


class _Reader(TargetReader):
    net: "SIM"

    @property
    def keep(self) -> int:
        return self.net.keep

    def read(
        self, q_BHQK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, visible: Tensor | None = None
    ) -> Tensor:
        """By the search, then by scores."""
        seen = self.seen(visible)
        if self.net.hard:
            return self.softmax(q_BHQK, k_BHTK, v_BHTV, seen, self._newest_of_kind())
        search_BHNK = heads(self.net.search(self.asked.x_BND), self.net.num_heads)
        found_BHNT = (search_BHNK @ k_BHTK.transpose(-1, -2)).sum(1, keepdim=True)
        if self.net.training and seen is not None:
            mean_BHNT = found_BHNT * (seen / seen.sum(-1, keepdim=True).clamp(min=1))
            interest_BND = (mean_BHNT @ v_BHTV).transpose(1, 2).flatten(2)
            self.net.found = self.asked.x_BND, interest_BND
        return self.softmax(q_BHQK, k_BHTK, v_BHTV, seen, found_BHNT.detach())

    def _newest_of_kind(self) -> Tensor:
        slot_BT, item_BT = self.context.slot_BT, self.context.item_BT
        if item_BT is None:
            raise ConfigError("sim(hard=True) needs the items of slots")
        kind_BN, kind_BT = self.net.kind(self.asked.item_BN), self.net.kind(item_BT)
        other_BNT = (kind_BN[..., None] != kind_BT[:, None]).float()
        return (other_BNT.mul_(_ANOTHER_KIND) + slot_BT[:, None])[:, None]


class SIM(TargetAttention):
    """Target attention over events that a search found.

    Args:
        num_items: V, from the data.
        keep: How many events a candidate attends to.
        hard: Whether the search is by the item's first feature, not by vectors.
        width: D.
        num_heads: H; divides the width.
        memory: Spec of what events write and candidates read.
        labels: How many labels there are to predict.
        item_features: Most feature rows that an item has; training sets it.
        dropout: Share of units dropped in training.
        lain: Whether attention is told how long the history is (see `_lain`).
    """

    reader = _Reader
    decoded = True

    def __init__(
        self,
        num_items: int,
        *,
        keep: int = 50,
        hard: bool = False,
        width: int = 32,
        num_heads: int = 2,
        memory: str = "full()",
        labels: int = 1,
        item_features: int = 0,
        dropout: float = 0.1,
        lain: bool = False,
    ) -> None:
        if keep < 1:
            raise ConfigError(f"sim(keep=...) takes 1 and more, given {keep}")
        super().__init__(
            num_items,
            width=width,
            num_heads=num_heads,
            memory=memory,
            labels=labels,
            item_features=item_features,
            dropout=dropout,
            lain=lain,
        )
        self.keep, self.hard = keep, hard
        self.found: tuple[Tensor, Tensor] | None = None
        if not hard:
            self.search = nn.Linear(width, width)
            self.judge = nn.Sequential(
                nn.Linear(3 * width, width), nn.SiLU(), nn.Linear(width, labels)
            )

    @property
    def reads_items(self) -> bool:
        """For the hard search."""
        return self.hard or super().reads_items

    def kind(self, item: Tensor) -> Tensor:
        """By what the hard search goes: the first feature, or the item itself."""
        if not self.feature_VF.shape[1]:
            return item
        first = self.feature_VF[item, 0]
        return first.where(first >= 0, FEATURE_ROWS + item)

    def penalty(self, batch: ImpressionBatch) -> Tensor:
        """Of the memory and the search."""
        total = super().penalty(batch)
        if self.found is None:
            return total
        (x_BND, u_BND), self.found = self.found, None
        logits_BNT = self.judge(torch.cat([x_BND, u_BND, u_BND * x_BND], -1))
        known = ~batch.label_BNT.isnan()
        return total + F.binary_cross_entropy_with_logits(logits_BNT[known], batch.label_BNT[known])
