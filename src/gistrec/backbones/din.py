"""DIN: a small network weighs every event of the history for a candidate.

    a_ij = w_2 SiLU(W_1 [k_j ; q_i ; k_j * q_i] + b_1) + b_2
    y_i  = sum_j a_ij v_j / sqrt(1 + number of events seen)

Level: architecture
Source: Zhou et al. 2018, "Deep Interest Network for Click-Through Rate Prediction",
arXiv 1706.06978, section 4.3 (activation unit, no softmax, so that the intensity of an interest
is kept).
Differs: the sum is divided by the square root of its length: it grows without end otherwise, and
long histories leave everything that was trained. One hidden layer in place of two (80 and 40
units), SiLU in place of Dice, no mini-batch aware regularisation. Keys and values come from a
memory, and the unit sees projections, not raw vectors. The public versions pad histories and run
the padding through the unit, or mask by multiplying, which is the same only without the softmax
they offer as an option; here what a candidate may not see weighs 0. With `lain` outputs are divided
by the temperature as well.
Cost: 2 * width numbers per event with the full memory; a product of the head's width per candidate,
slot and hidden unit, `hidden` times that of a dot product.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gistrec.backbones._target import TargetAttention, TargetReader
from gistrec.errors import ConfigError

_PART = 128
"""Candidates weighed at once when there are no gradients: what is between stays in the cache."""


class _Reader(TargetReader):
    net: "DIN"

    def weigh(self, score: Tensor, visible: Tensor | None = None) -> Tensor:
        """Sums of what is visible, divided by the root of its number."""
        if visible is None:
            return score / math.sqrt(1 + score.shape[-1])
        seen = visible.to(score.dtype)
        return score * (seen / (1 + seen.sum(-1, keepdim=True)).sqrt())

    def read(
        self, q_BHQK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, visible: Tensor | None = None
    ) -> Tensor:
        """By the activation unit."""
        seen, told, net = self.seen(visible), self.asked.told, self.net
        factor_BHCNK, offset_BHCN = net.unit(q_BHQK)
        flatter: Tensor | float = 1.0
        if told is not None:
            flatter = 1 / told.temperature_BN[:, None, :, None]
            key_BH1NPK, shift_BH1NK = told.key_BHNPK[:, :, None], told.shift_BHNK[:, :, None]
            side = (factor_BHCNK[..., None, :] * key_BH1NPK).sum(-1) + offset_BHCN[..., None]
            self.prompt_BHNP = net.activate(side) * flatter
            offset_BHCN = offset_BHCN + (factor_BHCNK * shift_BH1NK).sum(-1)
        # the offset rides along as one more column
        asked_BHCNk = torch.cat([factor_BHCNK, offset_BHCN[..., None]], -1)
        keys_BHkT = F.pad(k_BHTK, (0, 1), value=1.0).transpose(-1, -2)
        count = q_BHQK.shape[2]
        part = count if torch.is_grad_enabled() else _PART
        out = []
        for start in range(0, count, max(part, 1)):
            some = slice(start, start + part)
            hidden = asked_BHCNk[:, :, :, some].flatten(2, 3) @ keys_BHkT
            score_BHNT = net.activate(hidden.unflatten(2, (net.hidden_units, -1)))
            out.append(self.weigh(score_BHNT, None if seen is None else seen[:, :, some]) @ v_BHTV)
        return torch.cat(out, 2) * flatter


class DIN(TargetAttention):
    """Sums over the whole history, weighed by a network.

    Args:
        num_items: V, from the data.
        hidden: Units of the network that weighs.
        width: D.
        num_heads: H; divides the width. Each has a network of its own.
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
        hidden: int = 8,
        width: int = 32,
        num_heads: int = 1,
        memory: str = "full()",
        labels: int = 1,
        item_features: int = 0,
        dropout: float = 0.1,
        lain: bool = False,
    ) -> None:
        if hidden < 1:
            raise ConfigError(f"din(hidden=...) takes 1 and more, given {hidden}")
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
        self.hidden_units = hidden
        # of a key, of a query, of their product
        inputs = torch.randn(3, num_heads, hidden, self.head_dim)
        self.inputs_3HCK = nn.Parameter(inputs * self.head_dim**-0.5)
        self.bias_HC = nn.Parameter(torch.zeros(num_heads, hidden))
        self.output_HC = nn.Parameter(torch.randn(num_heads, hidden) * hidden**-0.5)
        self.output_H = nn.Parameter(torch.zeros(num_heads))

    def unit(self, q_BHNK: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden units of queries, by what keys are multiplied with and what is added."""
        key_HCK, query_HCK, both_HCK = self.inputs_3HCK
        factor_BHCNK = q_BHNK[:, :, None] * both_HCK[:, :, None] + key_HCK[:, :, None]
        offset_BHCN = query_HCK @ q_BHNK.transpose(-1, -2) + self.bias_HC[..., None]
        return factor_BHCNK, offset_BHCN

    def activate(self, hidden_BHCNT: Tensor) -> Tensor:
        """From hidden units to weights, (B, H, N, T)."""
        units = F.silu(hidden_BHCNT).flatten(3)
        score_BHNT: Tensor = (self.output_HC[:, None] @ units)[:, :, 0]
        score_BHNT = score_BHNT.unflatten(2, hidden_BHCNT.shape[3:])
        return score_BHNT + self.output_H[:, None, None]
