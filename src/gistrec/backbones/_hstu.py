"""The layer of HSTU, for all backbones that are made of it.

Shapes: as in `_layer`.

    U, Q, K, V = SiLU(W LN(X))
    A = SiLU(Q K^T + b_position + b_time) * causal / n
    X' = X + W_o (LN(A V) * U)
"""

import torch.nn.functional as F
from torch import Tensor, nn

from gistrec import memories
from gistrec.backbones._blocks import POSITION_BUCKETS, TIME_BUCKETS, RelativeBias
from gistrec.backbones._layer import MemoryLayer, Step, StepReader
from gistrec.kernels import step as kernel
from gistrec.kernels.dropout import Dropout
from gistrec.memories import Held, Size
from gistrec.registry import Spec

N = 128.0
"""What sums are divided by."""


class HSTUReader(StepReader):
    """Sums weighted by SiLU."""

    softmax = False

    def read_eagerly(
        self, q_BHQK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, visible: Tensor | None
    ) -> Tensor:
        score_BHQT = q_BHQK @ k_BHTK.transpose(-1, -2) + self.bias_BHQT
        a_BHQT = F.silu(score_BHQT) * self.seen(visible)
        self.step.note(a_BHQT)
        return a_BHQT @ v_BHTV / N

    def weigh(self, score: Tensor, visible: Tensor | None = None) -> Tensor:
        weight = F.silu(score) / N
        return weight if visible is None else weight * visible


class HSTULayer(MemoryLayer):
    """Gated attention over a memory."""

    def __init__(self, memory: Spec, size: Size, dropout: float) -> None:
        super().__init__()
        width, num_heads = size.width, size.num_heads
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.gate_query = nn.Linear(width, 2 * width)
        self.memory = memories.build(memory, size)
        self.position = RelativeBias(num_heads, POSITION_BUCKETS)
        self.time = RelativeBias(num_heads, TIME_BUCKETS)
        self.out = nn.Linear(width, width)
        self.dropout = Dropout(dropout)

    def packed(self) -> kernel.Layer | None:
        """With a memory of whole rows."""
        if (rows := self.memory.rows()) is None:
            return None
        groups, project = rows
        parts = kernel.norm(self.norm_in) + kernel.linear(self.gate_query, project)
        parts += kernel.norm(self.norm_out) + kernel.linear(self.out)
        parts += kernel.table(self.position.table) + kernel.table(self.time.table)
        return kernel.Layer("silu", groups, N, parts)

    def forward(self, x_BQD: Tensor, held: Held | None, step: Step) -> tuple[Tensor, Held]:
        n_BQD = self.norm_in(x_BQD)
        u_BQD, q_BQD = F.silu(self.gate_query(n_BQD)).chunk(2, dim=-1)
        q_BHQK = memories.heads(q_BQD, self.memory.size.num_heads)
        reader = HSTUReader(step, self.position, self.time, after=1 / N)
        y_BHQK, held = self.memory.attend(n_BQD, q_BHQK, held, reader)
        y_BQD = y_BHQK.transpose(1, 2).flatten(2)
        return x_BQD + self.out(self.dropout(self.norm_out(y_BQD) * u_BQD)), held
