"""LAIN: a ranker's attention told how long the history is, in a form that keeps cached keys valid.

    l     = log(1 + events)
    e     = MLP(LN(W [sin(w l) ; cos(w l)]))               spectral length encoding, w learned
    q'    = (q + W_q e) / tau
    tau   = 1 + gamma sigmoid(-beta (l - log 101))         short histories: flatter weights
    s_j   = q' (k_j + W_k e) = q' k_j + q' W_k e           the second term is added when read
    p     = MLP(e)                                         a few keys and values beside the events'

Shapes: B users, N candidates, D width, H heads, K head width, P prompts.

Level: option of rankers (`lain=True`)
Source: LAIN, Length-Adaptive Interest Network, arXiv 2601.19142: spectral length encoder,
length-conditioned prompting, length-modulated attention.
Differs: the logarithm of the length is encoded, not the length: sines of learned frequencies times
thousands of events say nothing of near lengths. Prompts stand beside the attended events and are
read by the candidates alone, where the paper puts them before the history. What the length adds to
keys is added to scores instead, which is the same number for every event: so keys do not depend on
the length, states stay valid while a history grows, and item tables stay exact. In a softmax that
number only decides between events and prompts; in attention without softmax it does more.
Cost: no bytes of a user; a network of the width per request.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gistrec.memories import heads

_FREQUENCIES = 8
_PROMPTS = 2
_MIDDLE = math.log(101)


class Told(NamedTuple):
    """What a history's length does to the attention over it; N may be 1."""

    q_BHNK: Tensor
    """Queries, the temperature applied."""
    temperature_BN: Tensor
    shift_BHNK: Tensor
    """What is added to every event's key."""
    key_BHNPK: Tensor
    value_BHNPK: Tensor

    @property
    def shift_BHN1(self) -> Tensor:
        """What is added to the score of every event."""
        return (self.q_BHNK * self.shift_BHNK).sum(-1, keepdim=True)

    @property
    def side_BHNP(self) -> Tensor:
        """Scores of the prompts."""
        return (self.q_BHNK[..., None, :] * self.key_BHNPK).sum(-1)

    def of_prompts(self, weight_BHNP: Tensor) -> Tensor:
        """What the prompts add to the outputs, (B, H, N, K)."""
        return (weight_BHNP[..., None] * self.value_BHNPK).sum(-2)


class Lain(nn.Module):
    """Tells one attention layer how long the history is.

    Args:
        width: D.
        num_heads: H.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        # periods from a whole range of lengths to a factor of 1.6
        self.log_frequency = nn.Parameter(torch.linspace(-1.0, math.log(2.0), _FREQUENCIES))
        self.encode = nn.Sequential(
            nn.Linear(2 * _FREQUENCIES, width),
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
        )
        self.sides = nn.Linear(width, 2 * width)
        self.prompt = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2 * _PROMPTS * width)
        )
        self.strength = nn.Parameter(torch.zeros(()))
        self.steepness = nn.Parameter(torch.ones(()))

    def temperature(self, length: Tensor) -> Tensor:
        """By what scores are divided: at least 1, and larger for short histories."""
        steep = F.softplus(self.steepness) * (_MIDDLE - (1 + length.float()).log())
        tau: Tensor = 1 + F.softplus(self.strength) * steep.sigmoid()
        return tau

    def forward(self, q_BHNK: Tensor, length_BN: Tensor) -> Told:
        """Queries of candidates, and what stands beside the events."""
        wave = (1 + length_BN.float()).log()[..., None] * self.log_frequency.exp()
        e_BND = self.encode(torch.cat([wave.sin(), wave.cos()], -1))
        query, shift = self.sides(e_BND).chunk(2, -1)
        rows = self.prompt(e_BND).unflatten(-1, (2, _PROMPTS, self.num_heads, -1))
        key, value = rows.permute(2, 0, 4, 1, 3, 5).unbind()
        tau_BN = self.temperature(length_BN)
        q_BHNK = (q_BHNK + heads(query, self.num_heads)) / tau_BN[:, None, :, None]
        return Told(q_BHNK, tau_BN, heads(shift, self.num_heads), key, value)
