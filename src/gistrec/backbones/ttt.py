"""TTT-Linear: a history is the weights of a linear model that is trained on it, event by event.

    loss_j = 1/2 |LN(k_j W + b) - (v_j - k_j)|^2          G_j = its gradient at k_j W + b
    rate_j = eta sigmoid(w x_j) / K                       share_i = max(0, 1/i + learned_i)
    W_i = W - share_i sum_{j <= i} rate_j k_j^T G_j       b_i = b - share_i sum_{j <= i} rate_j G_j
    y_i = q_i + LN(q_i W_i + b_i)                         i, j: places 1..P of a mini-batch
    Y = X + W_o LN(y),   q, k, v from x = LN(X);          X' = Y + W_2 GELU(W_1 LN(Y))

Gradients are taken at the W, b with which the mini-batch of P events began, which makes it matrix
products ("dual form"); the next one begins with W_P, b_P. q and k are rotated by their place. The
state holds W and b and the two sums of the mini-batch that is not full yet; the number of events
says how far it is, so an append is exact at every cut.

Shapes: K head width, T events filled up to N mini-batches of P places.

Level: architecture
Source: Sun et al. 2024, arXiv 2407.04620 (mini-batch TTT and its dual form; inner layer norm,
target, rates and rotation as in its public code); for recommendation TTT4Rec, Yang et al. 2024,
arXiv 2409.19142 and Zhan et al. 2024, arXiv 2411.15186.
Differs: linear in place of 2409.19142's MLP; no temporal convolution and no gate; 1e-5 in the inner
norm, as a small one magnifies rounding. Pre-norm, GELU; scores and loss as in sasrec.
Cost: 2 * width * (head width + 1) numbers per layer, whatever the length (16.9 KB in fp32 at width
64 with 2 heads); with `repeats` 16 bytes per event on top. Time linear in the events, one step of
a loop per mini-batch.
"""

import torch
from torch import Tensor, nn

from gistrec.backbones._causal import Causal
from gistrec.backbones._layer import Step
from gistrec.backbones._recurrent import RecurrentLayer
from gistrec.errors import ConfigError
from gistrec.memories import Held, heads

_EPSILON = 1e-5
_ROTATION = 1000.0
_NAMES = ("fixed.weight", "fixed.bias", "fixed.weight_sum", "fixed.bias_sum")


class _TTTLayer(RecurrentLayer):
    def __init__(
        self, width: int, num_heads: int, mini_batch: int, rate: float, dropout: float
    ) -> None:
        super().__init__(width, dropout)
        self.num_heads, self.mini_batch = num_heads, mini_batch
        head_dim = width // num_heads
        self.fastest = rate / head_dim
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.rate = nn.Linear(width, num_heads)
        self.share = nn.Parameter(torch.zeros(mini_batch))
        self.weight = nn.Parameter(torch.randn(num_heads, head_dim, head_dim) * 0.02)
        self.bias = nn.Parameter(torch.zeros(num_heads, 1, head_dim))
        self.inner_scale = nn.Parameter(torch.ones(num_heads, 1, head_dim))
        self.inner_shift = nn.Parameter(torch.zeros(num_heads, 1, head_dim))
        self.norm_out = nn.LayerNorm(width)

    def empty(self) -> Held:
        begun = self.weight[None].clone(), self.bias[None].clone()
        sums = (torch.zeros_like(t) for t in begun)
        return dict(zip(_NAMES, (*begun, *sums), strict=True))

    def mix(self, x_BSD: Tensor, held: Held, step: Step) -> tuple[Tensor, Held]:
        # users may stand at different places: each is moved right to its own
        (users, size, width), places = x_BSD.shape, self.mini_batch
        moved_B1 = step.query_BQ[:, :1] % places
        total = -(-(size + int(moved_B1.max())) // places) * places
        from_BT = torch.arange(total, device=x_BSD.device).expand(users, -1) - moved_B1
        known_BT, from_BT = (from_BT >= 0) & (from_BT < size), from_BT.clamp(0, size - 1)
        known_BT = known_BT & step.real_BS.gather(1, from_BT)
        x_BTD = x_BSD.gather(1, from_BT[..., None].expand(-1, -1, width))
        y_BTD, held = self._learn(x_BTD, known_BT, held)
        to_BS = torch.arange(size, device=x_BSD.device).expand(users, -1) + moved_B1
        return self.out(y_BTD.gather(1, to_BS[..., None].expand(-1, -1, width))), held

    def _learn(self, x_BTD: Tensor, known_BT: Tensor, held: Held) -> tuple[Tensor, Held]:
        """Outputs of whole mini-batches, and what is held after the known events."""
        each = self.num_heads, (-1, self.mini_batch)
        parts = self.project(x_BTD).chunk(3, dim=-1)
        q, k, v_BHNPK = (heads(p, each[0]).unflatten(2, each[1]) for p in parts)
        q_BHNPK, k_BHNPK = _rotate(q), _rotate(k)
        rate_BTH = self.rate(x_BTD).sigmoid() * self.fastest * known_BT[..., None]
        rate_BHNP1 = heads(rate_BTH, each[0]).unflatten(2, each[1])
        count_P = torch.arange(1, self.mini_batch + 1, device=x_BTD.device)
        share_P1 = (1 / count_P + self.share).clamp(min=0)[:, None]
        rated_BHNPK = rate_BHNP1 * k_BHNPK
        full_BN = known_BT.unflatten(1, each[1])[:, :, -1].to(x_BTD.dtype)
        paid_BHNPP = q_BHNPK @ rated_BHNPK.transpose(-1, -2) + rate_BHNP1.transpose(-1, -2)
        paid_BHNPP = share_P1 * paid_BHNPP.tril()
        weight, bias, weight_sum, bias_sum = (held[name] for name in _NAMES)
        # only the first mini-batch was begun before
        begun = share_P1 * (q_BHNPK[:, :, 0] @ weight_sum + bias_sum)
        out = []
        for n in range(full_BN.shape[1]):
            q, k, v = q_BHNPK[:, :, n], k_BHNPK[:, :, n], v_BHNPK[:, :, n]
            gradient = self._gradient(k @ weight + bias, v - k)
            read = q @ weight + bias - paid_BHNPP[:, :, n] @ gradient
            out.append(read if n else read - begun)
            weight_sum = weight_sum + rated_BHNPK[:, :, n].transpose(-1, -2) @ gradient
            bias_sum = bias_sum + (rate_BHNP1[:, :, n] * gradient).sum(-2, keepdim=True)
            full = full_BN[:, n, None, None, None]
            weight = weight - full * share_P1[-1] * weight_sum
            bias = bias - full * share_P1[-1] * bias_sum
            weight_sum, bias_sum = weight_sum * (1 - full), bias_sum * (1 - full)
        normed, _ = _normed(torch.cat(out, dim=2))
        y_BHTK = q_BHNPK.flatten(2, 3) + normed * self.inner_scale + self.inner_shift
        held = dict(zip(_NAMES, (weight, bias, weight_sum, bias_sum), strict=True))
        return self.norm_out(y_BHTK.transpose(1, 2).flatten(2)), held

    def _gradient(self, z: Tensor, target: Tensor) -> Tensor:
        """Of 1/2 |LN(z) - target|^2 with respect to z."""
        normed, deviation = _normed(z)
        outer = (normed * self.inner_scale + self.inner_shift - target) * self.inner_scale
        along = (outer * normed).mean(-1, keepdim=True)
        return (outer - outer.mean(-1, keepdim=True) - normed * along) / deviation


def _normed(z: Tensor) -> tuple[Tensor, Tensor]:
    """Values at mean 0 and deviation 1, and the deviation they had."""
    z = z - z.mean(-1, keepdim=True)
    deviation = (z.square().mean(-1, keepdim=True) + _EPSILON).sqrt()
    return z / deviation, deviation


def _rotate(x_BHNPK: Tensor) -> Tensor:
    """Rotary positions of the places in a mini-batch."""
    half = x_BHNPK.shape[-1] // 2
    place_P = torch.arange(x_BHNPK.shape[-2], device=x_BHNPK.device)
    pair_F = torch.arange(half, device=x_BHNPK.device)
    angle_PF = place_P[:, None] * _ROTATION ** (-pair_F / half)
    a, b = x_BHNPK.chunk(2, dim=-1)
    cos, sin = angle_PF.cos(), angle_PF.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class TTT(Causal):
    """Test-time training with a constant-size state. Knows the order of events, not their times.

    Args:
        num_items: V, from the data.
        width: D.
        num_layers: L.
        num_heads: H; the width is a multiple of 2 H.
        mini_batch: Events per step of the inner training, P.
        rate: Largest inner learning rate, times the head width (eta).
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
        mini_batch: int = 16,
        rate: float = 1.0,
        dropout: float = 0.2,
        repeats: bool = False,
        temperature: float = 0.05,
        negatives: int = 0,
    ) -> None:
        if width % (2 * num_heads):
            raise ConfigError(
                f"ttt: width {width} is not a multiple of 2 * num_heads {2 * num_heads}: heads are "
                "rotated in pairs of numbers"
            )
        if mini_batch < 1 or not rate > 0:
            raise ConfigError(
                f"ttt takes a mini_batch of 1 or more events and a rate above 0, given "
                f"{mini_batch} and {rate}"
            )
        super().__init__(
            num_items,
            width=width,
            num_heads=num_heads,
            layers=[
                _TTTLayer(width, num_heads, mini_batch, rate, dropout) for _ in range(num_layers)
            ],
            dropout=dropout,
            temperature=temperature,
            negatives=negatives,
            repeats=repeats,
            uses_time=False,
            request_time=False,
        )
