"""Every event leaves its whole key and value: the uncompressed reference.

    k_t = f(W_k x_t),  v_t = f(W_v x_t)

Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.2.
Differs: the backbone says whether f is the identity (SASRec) or SiLU (HSTU).
Cost: 2 * width numbers per event and layer.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from gistrec.memories import Memory, heads


class Full(Memory):
    """Keys and values of all heads, as they are."""

    def __init__(self, *, width: int, num_heads: int, silu: bool) -> None:
        super().__init__(width=width, num_heads=num_heads, silu=silu)
        self.project = nn.Linear(width, 2 * width)

    def write(self, x_BSD: Tensor) -> dict[str, Tensor]:
        """`k` and `v`, each (B, H, S, K)."""
        k_BSD, v_BSD = self.activation(self.project(x_BSD)).chunk(2, dim=-1)
        return {"k": heads(k_BSD, self.num_heads), "v": heads(v_BSD, self.num_heads)}

    def keys_values(self, held: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What was written."""
        return held["k"], held["v"]
