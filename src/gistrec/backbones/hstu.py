"""HSTU: pointwise SiLU attention with relative position and time bias, gated by the event itself.

    U, Q, K, V = SiLU(W LN(X))
    A = SiLU(Q K^T + b_position + b_time) * causal / n
    X' = X + W_o (LN(A V) * U)

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
from gistrec.backbones._causal import Causal, Geometry, Held, Layer
from gistrec.errors import ConfigError

_N = 128.0


class _HSTULayer(Layer):
    def __init__(self, width: int, num_heads: int, memory: str, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.gate_query = nn.Linear(width, 2 * width)
        self.memory = memories.build(memory, width=width, num_heads=num_heads, silu=True)
        self.position = RelativeBias(num_heads, POSITION_BUCKETS)
        self.time = RelativeBias(num_heads, TIME_BUCKETS)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BSD: Tensor, held: Held | None, geometry: Geometry) -> tuple[Tensor, Held]:
        n_BSD = self.norm_in(x_BSD)
        u_BSD, q_BSD = F.silu(self.gate_query(n_BSD)).chunk(2, dim=-1)
        held = self.hold(held, n_BSD)
        k_BHTK, v_BHTK = self.memory.keys_values(held)
        q_BHSK = memories.heads(q_BSD, self.num_heads)
        a_BHST = q_BHSK @ k_BHTK.transpose(-1, -2) + self.position(geometry.position_BST)
        if geometry.time_BST is not None:
            a_BHST = a_BHST + self.time(geometry.time_BST)
        a_BHST = F.silu(a_BHST) * geometry.visible_BST[:, None]
        y_BSD = (a_BHST @ v_BHTK).transpose(1, 2).flatten(2) / _N
        return x_BSD + self.out(self.dropout(self.norm_out(y_BSD) * u_BSD)), held


class HSTU(Causal):
    """Hierarchical sequential transduction unit, decoder only.

    Args:
        num_items: V, from the data.
        width: D.
        num_layers: L.
        num_heads: H; divides the width.
        memory: Spec of what a layer writes and reads.
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
        super().__init__(
            num_items,
            width=width,
            num_heads=num_heads,
            layers=[_HSTULayer(width, num_heads, memory, dropout) for _ in range(num_layers)],
            dropout=dropout,
            temperature=temperature,
            negatives=negatives,
            repeats=repeats,
            uses_time=True,
            request_time=request_time,
        )
