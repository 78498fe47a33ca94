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

from gistrec import memories
from gistrec.backbones._causal import Causal
from gistrec.backbones._hstu import HSTULayer
from gistrec.errors import ConfigError
from gistrec.memories import Size


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
            layers=[HSTULayer(part, size, dropout) for part in parts],
            dropout=dropout,
            temperature=temperature,
            negatives=negatives,
            repeats=repeats,
            uses_time=True,
            request_time=request_time,
        )
