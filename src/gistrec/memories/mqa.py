"""All query heads read one key and one value: heads differ in what they ask, not in what is kept.

    k_t = f(W_k x_t),  v_t = f(W_v x_t)        one head of width K = width / heads
    head h reads softmax(q_h k^T) v            (HSTU: SiLU in place of softmax)

Shapes: G = 1 head.

Level: head and latent
Source: Shazeer 2019, "Fast Transformer Decoding: One Write-Head is All You Need",
arXiv 1911.02150, section 3 (multi-query attention).
Differs: the backbone says whether f is the identity (SASRec) or SiLU (HSTU); what the smaller
projections save is not given back as a wider feed-forward network, as the paper does for its
comparison; each query head has position (and time) biases of its own.
Cost: 2 * width / heads numbers per event and layer; reading computes what full heads do.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from gistrec.memories import Context, Held, Memory, Size, heads


class MQA(Memory):
    """One key and value head for all query heads."""

    def __init__(self, size: Size) -> None:
        super().__init__(size)
        self.project = nn.Linear(size.width, 2 * size.head_dim)

    def rows(self) -> tuple[int, nn.Linear]:
        """All that there is."""
        return 1, self.project

    def write(self, x_BSD: Tensor) -> Held:
        """`k` and `v`, each (B, 1, S, K)."""
        k_BSK, v_BSK = self.activation(self.project(x_BSD)).chunk(2, dim=-1)
        return {"k": heads(k_BSK, 1), "v": heads(v_BSK, 1)}

    def keys_values(self, held: Mapping[str, Tensor], context: Context) -> tuple[Tensor, Tensor]:
        """What was written: one head, which the reader repeats."""
        return held["k"], held["v"]
