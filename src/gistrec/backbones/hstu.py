"""HSTU: pointwise SiLU attention with relative position and time bias, gated by the event itself.

    U, Q, K, V = SiLU(W LN(X))
    A = SiLU(Q K^T + b_position + b_time) * causal / n
    X' = X + W_o (LN(A V) * U)

Level: architecture
Source: Zhai et al. 2024, arXiv 2402.17152, section 3; time bias as in its public code.
Differs: the time bias is a function of (request time - event time), where the request of event i
is event i+1 and, when serving, the request itself (`request_time=True`, what the public code does
implicitly), or of (own time - event time). Position buckets are logarithmic beyond 63 events, so
histories have no longest length. n is a constant (128); the layer norm makes it immaterial.
Scores are cosines over a temperature; cross-entropy over the whole catalogue or an unbiased
sample of it. `repeats` adds the counting term of `_blocks.Repeats`.
Cost: 2 * width numbers per event and layer with the full memory, plus 8 bytes for its time.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from gistrec import memories
from gistrec.backbones._blocks import POSITION_BUCKETS, TIME_BUCKETS, RelativeBias
from gistrec.backbones._causal import Causal
from gistrec.backbones._layer import MemoryLayer, Step, StepReader
from gistrec.errors import ConfigError
from gistrec.kernels import step as kernel
from gistrec.kernels.dropout import Dropout
from gistrec.memories import Held, Size
from gistrec.registry import Spec

_N = 128.0


class _Reader(StepReader):
    """Sums weighted by SiLU."""

    softmax = False

    def read_eagerly(
        self, q_BHQK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, visible: Tensor | None
    ) -> Tensor:
        score_BHQT = q_BHQK @ k_BHTK.transpose(-1, -2) + self.bias_BHQT
        a_BHQT = F.silu(score_BHQT) * self.seen(visible)
        self.step.note(a_BHQT)
        return a_BHQT @ v_BHTV / _N

    def weigh(self, score: Tensor, visible: Tensor | None = None) -> Tensor:
        weight = F.silu(score) / _N
        return weight if visible is None else weight * visible


class _HSTULayer(MemoryLayer):
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
        return kernel.Layer("silu", groups, _N, parts)

    def forward(self, x_BQD: Tensor, held: Held | None, step: Step) -> tuple[Tensor, Held]:
        n_BQD = self.norm_in(x_BQD)
        u_BQD, q_BQD = F.silu(self.gate_query(n_BQD)).chunk(2, dim=-1)
        q_BHQK = memories.heads(q_BQD, self.memory.size.num_heads)
        reader = _Reader(step, self.position, self.time, after=1 / _N)
        y_BHQK, held = self.memory.attend(n_BQD, q_BHQK, held, reader)
        y_BQD = y_BHQK.transpose(1, 2).flatten(2)
        return x_BQD + self.out(self.dropout(self.norm_out(y_BQD) * u_BQD)), held


class HSTU(Causal):
    """Hierarchical sequential transduction unit, decoder only.

    Args:
        num_items: V, from the data.
        width: D.
        num_layers: L.
        num_heads: H; divides the width.
        memory: Spec of what layers write and read: one for all, or one each, lowest first.
        dropout: Share of units dropped in training.
        request_time: Whether a query knows the time of the request it answers.
        repeats: Whether the user's own past events of an item raise its score (repeat purchase).
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
        request_time: bool = True,
        repeats: bool = False,
        temperature: float = 0.05,
        negatives: int = 0,
    ) -> None:
        if width % num_heads:
            raise ConfigError(f"hstu: width {width} is not a multiple of num_heads {num_heads}")
        size = Size(width, num_heads, num_items, silu=True)
        parts = memories.each_layer(memory, num_layers)
        super().__init__(
            num_items,
            width=width,
            num_heads=num_heads,
            layers=[_HSTULayer(part, size, dropout) for part in parts],
            dropout=dropout,
            temperature=temperature,
            negatives=negatives,
            repeats=repeats,
            uses_time=True,
            request_time=request_time,
        )
