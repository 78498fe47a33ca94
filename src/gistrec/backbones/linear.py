"""Linear attention: a history is the decaying sum of its events' outer products of key and value.

    S_t = g S_{t-1} + f(k_t)^T v_t      z_t = g z_{t-1} + f(k_t)      f(x) = elu(x) + 1
    y_t = f(q_t) S_t / f(q_t) z_t^T
    Y = X + W_o y,   q, k, v from LN(X);      X' = Y + W_2 GELU(W_1 LN(Y))

g, between 1/e and 1, is learned per head (`decay=True`) or 1. Training takes chunks of 64 events as
matrix products; the state holds S and z.

Level: architecture
Source: Katharopoulos et al. 2020, arXiv 2006.16236, section 3; the decay per head as in RetNet,
Sun et al. 2023, arXiv 2307.08621.
Differs: RetNet fixes the decays and drops the normaliser; here they are learned and it decays
along. Without a decay the layer sees a bag of events, as no positions are added to the inputs:
those would bound the history. Then an order of two events behind each other can't be learned,
which is why decay is the default. Pre-norm, GELU; scores and loss as in sasrec.
Cost: width * (head width + 1) numbers per layer, whatever the length (8.4 KB in fp32 at width 64
with 2 heads); with `repeats` 16 bytes per event on top. Time linear in the events.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gistrec import memories
from gistrec.backbones._causal import Causal
from gistrec.backbones._layer import Step
from gistrec.backbones._recurrent import RecurrentLayer, decayed_sums, log_decay, spread_log_rates
from gistrec.errors import ConfigError
from gistrec.memories import Held


class _LinearLayer(RecurrentLayer):
    def __init__(self, width: int, num_heads: int, decay: bool, dropout: float) -> None:
        super().__init__(width, dropout)
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        rates_H = spread_log_rates(num_heads, 4, 256)
        self.log_rate = nn.Parameter(rates_H[:, None]) if decay else None

    def empty(self) -> Held:
        nothing = self.out.weight.new_zeros(1, self.num_heads, self.head_dim, self.head_dim)
        return {"fixed.sum": nothing, "fixed.norm": nothing[:, :, :1]}

    def mix(self, x_BSD: Tensor, held: Held, step: Step) -> tuple[Tensor, Held]:
        q, k, v = (memories.heads(p, self.num_heads) for p in self.project(x_BSD).chunk(3, dim=-1))
        log_H1 = self.out.weight.new_zeros(self.num_heads, 1)
        if self.log_rate is not None:
            log_H1 = log_decay(self.log_rate)
        # one more value, always 1, makes the last column of the sum the normaliser; what is read
        # has not decayed yet, so the event itself weighs 1/g, and g cancels out
        y, total = decayed_sums(
            F.elu(q) + 1,
            F.elu(k) + 1,
            F.pad(v, (0, 1), value=1.0),
            step.real_BS,
            log_decay_HK=log_H1,
            bonus_HK=(-log_H1).exp(),
            sum_BHKV=torch.cat([held["fixed.sum"], held["fixed.norm"].transpose(-1, -2)], dim=-1),
        )
        y_BHSK = y[..., :-1] / (y[..., -1:] + 1e-6)
        held = {"fixed.sum": total[..., :-1], "fixed.norm": total[..., -1:].transpose(-1, -2)}
        return self.out(y_BHSK.transpose(1, 2).flatten(2)), held


class Linear(Causal):
    """Linear attention with a constant-size state. Knows the order of events, not their times.

    Args:
        num_items: V, from the data.
        width: D.
        num_layers: L.
        num_heads: H; divides the width.
        decay: Whether heads forget, each at a rate of its own; without, order does not count.
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
        decay: bool = True,
        dropout: float = 0.2,
        repeats: bool = False,
        temperature: float = 0.05,
        negatives: int = 0,
    ) -> None:
        if width % num_heads:
            raise ConfigError(f"linear: width {width} is not a multiple of num_heads {num_heads}")
        super().__init__(
            num_items,
            width=width,
            num_heads=num_heads,
            layers=[_LinearLayer(width, num_heads, decay, dropout) for _ in range(num_layers)],
            dropout=dropout,
            temperature=temperature,
            negatives=negatives,
            repeats=repeats,
            uses_time=False,
            request_time=False,
        )
