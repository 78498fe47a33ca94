"""SASRec: causal softmax self-attention and a pointwise feed-forward network.

    Y = X + W_o softmax(Q K^T / sqrt(K) + b_position) V,   Q, K, V from LN(X)
    X' = Y + W_2 GELU(W_1 LN(Y))

Source: Kang and McAuley 2018, arXiv 1808.09781.
Differs: a relative position bias in place of absolute learned positions, which would bound the
history's length (and, counted from the newest event, would move every stored key at each append);
pre-norm; GELU; scores are cosines over a temperature with cross-entropy over the whole catalogue
or an unbiased sample of it, in place of one binary negative.
Cost: 2 * width numbers per event and layer with the full memory.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gistrec import memories
from gistrec.backbones._blocks import POSITION_BUCKETS, RelativeBias
from gistrec.backbones._causal import Causal, Geometry, Held, Layer
from gistrec.errors import ConfigError


class _SASRecLayer(Layer):
    def __init__(self, width: int, num_heads: int, memory: str, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_in, self.norm_mid = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.memory = memories.build(memory, width=width, num_heads=num_heads, silu=False)
        self.position = RelativeBias(num_heads, POSITION_BUCKETS)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BSD: Tensor, held: Held | None, geometry: Geometry) -> tuple[Tensor, Held]:
        n_BSD = self.norm_in(x_BSD)
        held = self.hold(held, n_BSD)
        k_BHTK, v_BHTK = self.memory.keys_values(held)
        q_BHSK = memories.heads(self.query(n_BSD), self.num_heads)
        bias_BHST = self.position(geometry.position_BST).masked_fill(
            ~geometry.visible_BST[:, None], torch.finfo(q_BHSK.dtype).min
        )
        y_BHSK = F.scaled_dot_product_attention(q_BHSK, k_BHTK, v_BHTK, attn_mask=bias_BHST)
        x_BSD = x_BSD + self.dropout(self.out(y_BHSK.transpose(1, 2).flatten(2)))
        hidden = self.dropout(F.gelu(self.up(self.norm_mid(x_BSD))))
        return x_BSD + self.dropout(self.down(hidden)), held


class SASRec(Causal):
    """Self-attentive sequential recommendation. Knows the order of events, not their times.

    Args:
        num_items: V, from the data.
        width: D.
        num_layers: L.
        num_heads: H; divides the width.
        memory: Spec of what a layer writes and reads.
        dropout: Share of units dropped in training.
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
        memory: str = "full()",
        dropout: float = 0.2,
        temperature: float = 0.05,
        negatives: int = 0,
    ) -> None:
        if width % num_heads:
            raise ConfigError(f"sasrec: width {width} is not a multiple of num_heads {num_heads}")
        super().__init__(
            num_items,
            width=width,
            num_heads=num_heads,
            layers=[_SASRecLayer(width, num_heads, memory, dropout) for _ in range(num_layers)],
            dropout=dropout,
            temperature=temperature,
            negatives=negatives,
            repeats=False,
            uses_time=False,
            request_time=False,
        )
