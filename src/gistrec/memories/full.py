"""Every event leaves its whole key and value: the uncompressed reference.

    k_t = f(W_k x_t),  v_t = f(W_v x_t)

Level: reference
Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.2.
Differs: the backbone says whether f is the identity (SASRec) or SiLU (HSTU).
Cost: 2 * width numbers per event and layer.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from gistrec.memories import Context, Held, Memory, Size, heads


class Full(Memory):
    """Keys and values of all heads, as they are."""

    def __init__(self, size: Size) -> None:
        super().__init__(size)
        self.project = nn.Linear(size.width, 2 * size.width)

    def rows(self) -> tuple[int, nn.Linear]:
        """All that there is."""
        return self.size.num_heads, self.project

    def write(self, x_BSD: Tensor) -> Held:
        """`k` and `v`, each (B, H, S, K)."""
        k_BSD, v_BSD = self.activation(self.project(x_BSD)).chunk(2, dim=-1)
        return {"k": heads(k_BSD, self.size.num_heads), "v": heads(v_BSD, self.size.num_heads)}

    def keys_values(self, held: Mapping[str, Tensor], context: Context) -> tuple[Tensor, Tensor]:
        """What was written."""
        return held["k"], held["v"]
