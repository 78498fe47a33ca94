"""What backbones of constant state share: the frame of a layer, and sums that decay, in chunks.

Shapes: B users, S events, C chunks, L events of a chunk, H heads, K key width, V value width,
D width.
"""

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gistrec.backbones._layer import Layer, Step
from gistrec.kernels.dropout import Dropout
from gistrec.memories import Held

CHUNK = 64
"""Most events of a chunk of `decayed_sums`."""
FASTEST = 1.0
"""Largest decay rate per event there: powers within a chunk then stay between e^-32 and e^32."""


class RecurrentLayer(Layer):
    """Pre-norm residuals around a mixer of events and a feed-forward network, as in SASRec."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm_in, self.norm_mid = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = Dropout(dropout)

    @abstractmethod
    def mix(self, x_BSD: Tensor, held: Held, step: Step) -> tuple[Tensor, Held]:
        """Outputs of the normed events, and what is held after the real ones."""

    def forward(self, x_BQD: Tensor, held: Held | None, step: Step) -> tuple[Tensor, Held]:
        """Mix, then feed forward."""
        y_BSD, held = self.mix(self.norm_in(x_BQD), held_before(self, held, len(x_BQD)), step)
        x_BQD = x_BQD + self.dropout(y_BSD)
        hidden = self.dropout(F.gelu(self.up(self.norm_mid(x_BQD))))
        return x_BQD + self.dropout(self.down(hidden)), held


def held_before(layer: Layer, held: Held | None, users: int) -> Held:
    """What a layer of constant state starts from; None held: the users are new."""
    if held is not None:
        return held
    return {name: t.expand(users, *t.shape[1:]) for name, t in layer.empty().items()}


def spread_log_rates(count: int, fast: float, slow: float) -> Tensor:
    """Logarithms of `count` decay rates, geometric between two time scales in events."""
    return -torch.linspace(math.log(fast), math.log(slow), count)


def log_decay(log_rate: Tensor) -> Tensor:
    """What a learned logarithm of a rate takes off per event: from -FASTEST to 0."""
    return -log_rate.clamp(max=math.log(FASTEST)).exp()


def in_chunks(x: Tensor, size: int, axis: int) -> Tensor:
    """Fill up an axis, counted from the end, with zeros and split it into chunks of `size`."""
    missing = -x.shape[axis] % size
    chunks: Tensor = F.pad(x, (0, 0) * (-1 - axis) + (0, missing)).unflatten(axis, (-1, size))
    return chunks


def decayed_sums(
    q_BHSK: Tensor,
    k_BHSK: Tensor,
    v_BHSV: Tensor,
    real_BS: Tensor,
    *,
    log_decay_HK: Tensor,
    bonus_HK: Tensor,
    sum_BHKV: Tensor,
) -> tuple[Tensor, Tensor]:
    """Read from a sum of outer products that decays per channel, then add to it.

        y_t = q_t (A_{t-1} + diag(bonus) k_t^T v_t)
        A_t = diag(decay) A_{t-1} + k_t^T v_t          A_t = A_{t-1} where there is no event

    Within a chunk decay^(i-1-j) is split into decay^(i-1-L/2) on the query and decay^(L/2-j) on
    the key, so that all is matrix products; from chunk to chunk A is carried.

    Args:
        q_BHSK: Queries.
        k_BHSK: Keys.
        v_BHSV: Values.
        real_BS: Where there is an event; outputs elsewhere mean nothing.
        log_decay_HK: From -FASTEST to 0; K may be 1.
        bonus_HK: Weight of an event for itself; K may be 1.
        sum_BHKV: A before the first event.

    Returns:
        Outputs (B, H, S, V), and A after the last event.
    """
    size = q_BHSK.shape[2]
    chunk, half = min(CHUNK, size), CHUNK / 2
    real_BS1 = real_BS[..., None].to(q_BHSK.dtype)
    k_BHSK = k_BHSK * real_BS1[:, None]
    itself_BHS1 = (q_BHSK * bonus_HK[:, None] * k_BHSK).sum(-1, keepdim=True)
    # real events are counted, so that A stands still behind the last one
    count_BCL1 = in_chunks(real_BS1, chunk, -2).cumsum(-2)
    log_HCLK = log_decay_HK[:, None, None]
    power_BHCLK = ((count_BCL1[:, None] - half) * log_HCLK).exp()
    q_BHCLK = in_chunks(q_BHSK, chunk, -2) * (power_BHCLK * (-log_HCLK).exp())
    k_BHCLK = in_chunks(k_BHSK, chunk, -2) / power_BHCLK
    v_BHCLV = in_chunks(v_BHSV, chunk, -2)
    inside_BHCLV = (q_BHCLK @ k_BHCLK.transpose(-1, -2)).tril(-1) @ v_BHCLV
    added_BHCKV = power_BHCLK[:, :, :, -1, :, None] * (k_BHCLK.transpose(-1, -2) @ v_BHCLV)
    decay_BHCK1 = (count_BCL1[:, None, :, -1] * log_decay_HK[:, None]).exp()[..., None]
    before = []
    for decay_BHK1, added_BHKV in zip(decay_BHCK1.unbind(2), added_BHCKV.unbind(2), strict=True):
        before.append(sum_BHKV)
        sum_BHKV = decay_BHK1 * sum_BHKV + added_BHKV
    centred_HCK1 = (half * log_HCLK).exp().transpose(-1, -2)
    y_BHCLV = inside_BHCLV + q_BHCLK @ (torch.stack(before, 2) * centred_HCK1)
    return y_BHCLV.flatten(2, 3)[:, :, :size] + itself_BHS1 * v_BHSV, sum_BHKV
