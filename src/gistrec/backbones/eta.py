"""ETA: the events whose hashes are nearest the candidate's, then attention over them.

    h(x)  = signs of (x R), `bits` of them                    R fixed, drawn from a fixed seed
    near  = number of equal bits of h(q_i) and h(k_j)         in every head
    y_i   = sum_{j in the nearest 50} softmax(q_i k_j / sqrt(K)) v_j

Level: architecture
Source: Chen et al. 2021, "End-to-End User Behavior Retrieval in Click-Through Rate Prediction
Model", arXiv 2108.04468, section 4 (SimHash, Hamming distance, multi-head attention).
Differs: queries and keys are hashed, not the vectors they are made from: the angle that hashes
stand for is then that of the attention, so search and attention are of one mind, and any memory's
rows will do. Of events that are equally near the newer are kept, where the public versions leave
it to the sort. Hashes are computed when read and not kept: 8 bytes an event would save nothing
here, since products of sign bits as numbers take as long as those of the keys themselves.
Cost: 2 * width numbers per event with the full memory; `bits` products per candidate and slot, and
a top-k.
"""

import torch
from torch import Tensor

from gistrec.backbones._target import TargetAttention, TargetReader
from gistrec.errors import ConfigError

_SEED = 2108
_SLOTS = 1 << 17
"""Positions are told apart up to here; beyond, equally near events are kept or left together."""


class _Reader(TargetReader):
    net: "ETA"

    @property
    def keep(self) -> int:
        return self.net.keep

    def read(
        self, q_BHQK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, visible: Tensor | None = None
    ) -> Tensor:
        """By hashes, then by scores."""
        near_BHNT = self._near(q_BHQK.detach(), k_BHTK.detach())
        return self.softmax(q_BHQK, k_BHTK, v_BHTV, self.seen(visible), near_BHNT)

    def _near(self, q_BHNK: Tensor, k_BHTK: Tensor) -> Tensor | None:
        if k_BHTK.shape[2] <= self.keep:
            return None
        plane_Kb = self.net.plane(q_BHNK.shape[-1], q_BHNK.device)
        q_BHNb, k_BHTb = (x @ plane_Kb for x in (q_BHNK, k_BHTK))
        equal_BHNT = q_BHNb.sign() @ k_BHTb.sign().transpose(-1, -2)
        newer_BT = self.context.slot_BT / _SLOTS
        return equal_BHNT + newer_BT[:, None, None]


class ETA(TargetAttention):
    """Target attention over events found by SimHash.

    Args:
        num_items: V, from the data.
        keep: How many events a candidate attends to.
        bits: Of a hash, in every head.
        width: D.
        num_heads: H; divides the width.
        memory: Spec of what events write and candidates read.
        labels: How many labels there are to predict.
        item_features: Most feature rows that an item has; training sets it.
        dropout: Share of units dropped in training.
        lain: Whether attention is told how long the history is (see `_lain`).
    """

    reader = _Reader

    def __init__(
        self,
        num_items: int,
        *,
        keep: int = 50,
        bits: int = 32,
        width: int = 32,
        num_heads: int = 2,
        memory: str = "full()",
        labels: int = 1,
        item_features: int = 0,
        dropout: float = 0.1,
        lain: bool = False,
    ) -> None:
        if keep < 1 or not 1 <= bits <= 64:
            raise ConfigError(
                f"eta takes keep of 1 and more and 1 to 64 bits, given {keep} and {bits}"
            )
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
        self.keep, self.bits = keep, bits

    def plane(self, width: int, device: torch.device) -> Tensor:
        """What keys of a width are hashed with, (K, bits)."""
        rng = torch.Generator().manual_seed(_SEED)
        return torch.randn(width, self.bits, generator=rng).to(device)
