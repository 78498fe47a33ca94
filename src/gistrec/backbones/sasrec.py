"""SASRec: causal softmax self-attention and a pointwise feed-forward network.

    Y = X + W_o softmax(Q K^T / sqrt(K) + b_position) V,   Q, K, V from LN(X)
    X' = Y + W_2 GELU(W_1 LN(Y))

Level: architecture
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
from gistrec.backbones._causal import Causal
from gistrec.backbones._layer import MemoryLayer, Step, StepReader
from gistrec.errors import ConfigError
from gistrec.kernels import step as kernel
from gistrec.kernels.dropout import Dropout
from gistrec.memories import Held, Size
from gistrec.registry import Spec


class _Reader(StepReader):
    """Means weighted by softmax."""

    softmax = True

    def read_eagerly(
        self, q_BHQK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, visible: Tensor | None
    ) -> Tensor:
        bias_BHQT = self._hide(self.bias_BHQT, self.seen(visible))
        if self.step.received_BST is None:
            each = (-1, q_BHQK.shape[1], -1, -1)
            return F.scaled_dot_product_attention(
                q_BHQK, k_BHTK.expand(each), v_BHTV.expand(each), bias_BHQT, scale=self.scale
            )
        score_BHQT = q_BHQK @ k_BHTK.transpose(-1, -2) * self.scale + bias_BHQT
        a_BHQT: Tensor = score_BHQT.softmax(-1)
        self.step.note(a_BHQT)
        return a_BHQT @ v_BHTV

    def weigh(self, score: Tensor, visible: Tensor | None = None) -> Tensor:
        score = score * self.scale
        weight: Tensor = (score if visible is None else self._hide(score, visible)).softmax(-1)
        return weight

    def _hide(self, score: Tensor, visible: Tensor) -> Tensor:
        return score.masked_fill(~visible, torch.finfo(score.dtype).min)


class _SASRecLayer(MemoryLayer):
    def __init__(self, memory: Spec, size: Size, dropout: float) -> None:
        super().__init__()
        width = size.width
        self.norm_in, self.norm_mid = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.memory = memories.build(memory, size)
        self.position = RelativeBias(size.num_heads, POSITION_BUCKETS)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = Dropout(dropout)

    def packed(self) -> kernel.Layer | None:
        """With a memory of whole rows."""
        if (rows := self.memory.rows()) is None:
            return None
        groups, project = rows
        parts = kernel.norm(self.norm_in) + kernel.linear(self.query, project)
        parts += kernel.linear(self.out) + kernel.norm(self.norm_mid)
        parts += kernel.linear(self.up) + kernel.linear(self.down)
        parts += kernel.table(self.position.table)
        return kernel.Layer("softmax", groups, 1, parts)

    def forward(self, x_BQD: Tensor, held: Held | None, step: Step) -> tuple[Tensor, Held]:
        size = self.memory.size
        n_BQD = self.norm_in(x_BQD)
        q_BHQK = memories.heads(self.query(n_BQD), size.num_heads)
        reader = _Reader(step, self.position, scale=size.head_dim**-0.5)
        y_BHQK, held = self.memory.attend(n_BQD, q_BHQK, held, reader)
        x_BQD = x_BQD + self.dropout(self.out(y_BHQK.transpose(1, 2).flatten(2)))
        hidden = self.dropout(F.gelu(self.up(self.norm_mid(x_BQD))))
        return x_BQD + self.dropout(self.down(hidden)), held


class SASRec(Causal):
    """Self-attentive sequential recommendation. Knows the order of events, not their times.

    Args:
        num_items: V, from the data.
        width: D.
        num_layers: L.
        num_heads: H; divides the width.
        memory: Spec of what layers write and read: one for all, or one each, lowest first.
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
        size = Size(width, num_heads, num_items, silu=False)
        parts = memories.each_layer(memory, num_layers)
        super().__init__(
            num_items,
            width=width,
            num_heads=num_heads,
            layers=[_SASRecLayer(part, size, dropout) for part in parts],
            dropout=dropout,
            temperature=temperature,
            negatives=negatives,
            repeats=False,
            uses_time=False,
            request_time=False,
        )
