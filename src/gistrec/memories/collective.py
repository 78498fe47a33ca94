"""A few numbers of the user's own per event, the rest gathered from a pool shared by all users.

    k_t = f([W_u x_t ; P[j_t]])    j_t = argmax_j (W_r x_t)_j        (v_t likewise, own pool)
    training: P[j_t] * sigmoid((W_r x_t)_{j_t}), so that the router learns
    loss:     peak    * -mean log sigmoid(chosen logit)              gate -> 1: train = inference
              balance * (log m + sum_j p_j log p_j)                  KL(usage || uniform)

Level: cross-user
Source: CollectiveKV, arXiv 2601.19178 (ICLR 2026); written from the formulas.
Differs: the balance term's exact form and the loss weights are not published; KL of the mean
softmax to uniform is used. Head widths: each head gets own/num_heads numbers of the user's and
the rest from the pool. f follows the backbone (SiLU in HSTU).
Cost: 2 * own numbers and 2 * log2(pool) bits per event and layer; 2 * pool * (width - own)
shared numbers per layer; one gather per slot and read.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gistrec.errors import ConfigError
from gistrec.memories import Context, Held, Memory, Size, heads


class Collective(Memory):
    """User-specific low-width keys and values completed from global pools.

    Args:
        own: Numbers of the user's own per event, for keys and again for values; divisible by heads.
        pool: Rows of each pool (m).
        peak: Weight of the loss that pushes the chosen gate to 1.
        balance: Weight of the loss that spreads usage over the pool.
    """

    def __init__(
        self,
        size: Size,
        *,
        own: int = 4,
        pool: int = 256,
        peak: float = 0.01,
        balance: float = 0.01,
    ) -> None:
        super().__init__(size)
        width, num_heads = size.width, size.num_heads
        if not 0 < own < width or own % num_heads:
            raise ConfigError(
                f"collective(own=...) takes a multiple of the {num_heads} heads below the width "
                f"{width}, given {own}"
            )
        if not 2 <= pool <= 32767:
            raise ConfigError(f"collective(pool=...) takes 2 to 32767 rows, given {pool}")
        self.peak, self.balance = peak, balance
        self.project = nn.Linear(width, 2 * own)
        self.route = nn.Linear(width, 2 * pool)
        shared = (width - own) // num_heads
        self.pool = nn.Parameter(torch.randn(2, pool, num_heads, shared) * width**-0.5)

    def write(self, x_BSD: Tensor) -> Held:
        """Own numbers `ku`, `vu` (B, H, S, own/H) and pool rows `kp`, `vp` (B, S) int16.

        In training the router's logits come along as `route` (B, S, 2, m).
        """
        ku, vu = self.project(x_BSD).chunk(2, dim=-1)
        logits_BSCm = self.route(x_BSD).unflatten(-1, (2, -1))
        chosen = logits_BSCm.argmax(-1)
        held = {
            "ku": heads(ku, self.size.num_heads),
            "vu": heads(vu, self.size.num_heads),
            "kp": chosen[..., 0].to(torch.int16),
            "vp": chosen[..., 1].to(torch.int16),
        }
        return held | ({"route": logits_BSCm.flatten(2)} if self.training else {})

    def keys_values(self, held: Mapping[str, Tensor], context: Context) -> tuple[Tensor, Tensor]:
        """Own numbers completed from the pools."""
        gates = self._gates(held) if "route" in held else (None, None)
        rows = [
            self._complete(held[f"{what}u"], held[f"{what}p"].long(), self.pool[n], gates[n])
            for n, what in enumerate("kv")
        ]
        return rows[0], rows[1]

    def _complete(
        self, own_BHMu: Tensor, row_BM: Tensor, pool_mHK: Tensor, gate_BM: Tensor | None
    ) -> Tensor:
        shared_BMHK = F.embedding(row_BM, pool_mHK.flatten(1)).unflatten(-1, pool_mHK.shape[1:])
        if gate_BM is not None:
            shared_BMHK = shared_BMHK * gate_BM[..., None, None]
        both: Tensor = torch.cat([own_BHMu, shared_BMHK.transpose(1, 2)], dim=-1)
        completed: Tensor = self.activation(both)
        return completed

    def _gates(self, held: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits = held["route"].unflatten(-1, (2, -1))
        chosen = torch.stack([held["kp"], held["vp"]], dim=-1).long()
        gate = logits.gather(-1, chosen[..., None]).squeeze(-1).sigmoid()
        return gate[..., 0], gate[..., 1]

    def penalty(self, held: Mapping[str, Tensor], mask_BS: Tensor) -> Tensor:
        """The peak and balance losses over real events."""
        # means by weights: taking out the real events would copy a wide tensor, forth and back
        weight_N = mask_BS.flatten() / mask_BS.sum()
        logits_NCm = held["route"].flatten(0, 1).unflatten(-1, (2, -1))
        peak = -(weight_N @ F.logsigmoid(logits_NCm.max(-1).values)).mean()
        usage_Cm = (weight_N @ logits_NCm.softmax(-1).flatten(1)).unflatten(0, (2, -1))
        balance = (usage_Cm * (usage_Cm * usage_Cm.shape[-1]).clamp(min=1e-9).log()).sum(-1).mean()
        penalty: Tensor = self.peak * peak + self.balance * balance
        return penalty
