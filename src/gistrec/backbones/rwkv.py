"""RWKV-5: a matrix per head that decays per channel, fed with mixtures of neighbouring events.

    x' = s x_t + (1 - s) x_{t-1}                          token shift, a share s per channel and use
    y_t = r_t (A_{t-1} + diag(u) k_t^T v_t)               r, k, v = W x'
    A_t = diag(w) A_{t-1} + k_t^T v_t                     w between 1/e and 1
    Y = X + W_o (GroupNorm(y) * SiLU(W_g x'))             x = LN(X)
    X' = Y + sigmoid(W_b x') * W_d ReLU(W_u x')^2         x = LN(Y)

w and u are learned per channel. Training takes chunks of 64 events as matrix products; the state
holds A and the last input of both shifts.

Level: architecture
Source: Peng et al. 2023, arXiv 2305.13048 (token shift, channel mixing, decay and bonus); Peng et
al. 2024, arXiv 2404.05892 ("Eagle", version 5: matrix per head, gate, group norm).
Differs: version 5 and not 4, whose exponentials per channel are no matrix products; and not 6,
whose decay depends on the input. A decay is at most a factor of e per event, so that powers within
a chunk stay in fp32's range. Feed-forward width 4 D in place of 3.5 D; dropout; decays start as
time scales of 2 to 512 events and shares from 0 to 1, in all layers alike; no norm of the
embeddings. Scores and loss as in sasrec.
Cost: width * (head width + 2) numbers per layer, whatever the length (8.7 KB in fp32 at width 64
with 2 heads); with `repeats` 16 bytes per event on top. Time linear in the events.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gistrec.backbones._causal import Causal
from gistrec.backbones._layer import Layer, Step
from gistrec.backbones._recurrent import decayed_sums, held_before, log_decay, spread_log_rates
from gistrec.errors import ConfigError
from gistrec.kernels.dropout import Dropout
from gistrec.memories import Held, heads


class _Shift(nn.Module):
    """Mixtures of every event with the one before it."""

    def __init__(self, width: int, uses: int) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.linspace(0, 1, width).repeat(uses, 1, 1, 1))

    def forward(self, x_BSD: Tensor, last_B1D: Tensor, real_BS: Tensor) -> tuple[Tensor, Tensor]:
        """One mixture per use, (uses, B, S, D), and the last real event, (B, 1, D)."""
        whole_BTD = torch.cat([last_B1D, x_BSD], dim=1)
        earlier_BSD = whole_BTD[:, :-1]
        newest_B11 = real_BS.sum(1)[:, None, None]
        last_B1D = whole_BTD.gather(1, newest_B11.expand(-1, 1, x_BSD.shape[2]))
        return earlier_BSD + self.share * (x_BSD - earlier_BSD), last_B1D


class _RWKVLayer(Layer):
    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.norm_in, self.norm_mid = nn.LayerNorm(width), nn.LayerNorm(width)
        self.shift_in, self.shift_mid = _Shift(width, 4), _Shift(width, 2)
        self.read, self.key, self.value, self.gate, self.out, self.bound = (
            nn.Linear(width, width, bias=False) for _ in range(6)
        )
        self.log_rate = nn.Parameter(spread_log_rates(width, 2, 512).view(num_heads, -1))
        self.bonus = nn.Parameter(torch.ones(num_heads, self.head_dim))
        self.norm_heads = nn.GroupNorm(num_heads, width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        self.dropout = Dropout(dropout)

    def empty(self) -> Held:
        some, num_heads, rows = self.out.weight, self.num_heads, self.head_dim
        return {
            "fixed.sum": some.new_zeros(1, num_heads, rows, rows),
            "fixed.last": some.new_zeros(1, 2, num_heads * rows),
        }

    def forward(self, x_BQD: Tensor, held: Held | None, step: Step) -> tuple[Tensor, Held]:
        held = held_before(self, held, len(x_BQD))
        last_in, last_mid = held["fixed.last"].split(1, dim=1)
        (r, k, v, g), last_in = self.shift_in(self.norm_in(x_BQD), last_in, step.real_BS)
        y_BHSK, sum_BHKK = decayed_sums(
            heads(self.read(r), self.num_heads),
            heads(self.key(k), self.num_heads),
            heads(self.value(v), self.num_heads),
            step.real_BS,
            log_decay_HK=log_decay(self.log_rate),
            bonus_HK=self.bonus,
            sum_BHKV=held["fixed.sum"],
        )
        y_BSD = y_BHSK.transpose(1, 2).flatten(2)
        y_BSD = self.norm_heads(y_BSD.flatten(0, 1)).view_as(y_BSD)  # each event by itself
        x_BQD = x_BQD + self.dropout(self.out(y_BSD * F.silu(self.gate(g))))
        (b, u), last_mid = self.shift_mid(self.norm_mid(x_BQD), last_mid, step.real_BS)
        fed = self.bound(b).sigmoid() * self.down(self.dropout(F.relu(self.up(u)).square()))
        last = torch.cat([last_in, last_mid], dim=1)
        return x_BQD + self.dropout(fed), {"fixed.sum": sum_BHKK, "fixed.last": last}


class RWKV(Causal):
    """RWKV-5 with a constant-size state. Knows the order of events, not their times.

    Args:
        num_items: V, from the data.
        width: D.
        num_layers: L.
        num_heads: H; divides the width.
        dropout: Share of units dropped in training.
        repeats: Whether the user's own past events of an item raise its score; keeps all events.
        temperature: Cosines are divided by it.
        negatives: Sampled items per batch beside the batch's own; 0 for the whole catalogue.
    """

    def __init__(
        self,
        num_items: int,
        *,
        width: int = 64,
        num_layers: int = 2,
        num_heads: int = 2,
        dropout: float = 0.2,
        repeats: bool = False,
        temperature: float = 0.05,
        negatives: int = 0,
    ) -> None:
        if width % num_heads:
            raise ConfigError(f"rwkv: width {width} is not a multiple of num_heads {num_heads}")
        super().__init__(
            num_items,
            width=width,
            num_heads=num_heads,
            layers=[_RWKVLayer(width, num_heads, dropout) for _ in range(num_layers)],
            dropout=dropout,
            temperature=temperature,
            negatives=negatives,
            repeats=repeats,
            uses_time=False,
            request_time=False,
        )
