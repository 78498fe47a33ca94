"""Groups of query heads share a key and value head: between one head for all and one for each.

    k_t = f(W_k x_t),  v_t = f(W_v x_t)        G heads of width K = width / heads
    query head h reads head floor(h G / H)

Shapes: G groups.

Level: head and latent
Source: Ainslie et al. 2023, "GQA: Training Generalized Multi-Query Transformer Models from
Multi-Head Checkpoints", arXiv 2305.13245, section 2.2.
Differs: trained from the start, not pooled from a trained model's heads and trained on; the
backbone says whether f is the identity (SASRec) or SiLU (HSTU). groups=1 is mqa() and groups=H is
full(), so with the backbones' two heads there is nothing between: use it with num_heads=4 or more.
Cost: 2 * width * groups / heads numbers per event and layer; reading computes what full heads do.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from gistrec.errors import ConfigError
from gistrec.memories import Context, Held, Memory, Size, heads


class GQA(Memory):
    """Fewer key and value heads than query heads.

    Args:
        groups: Key and value heads kept (G); divides the backbone's heads.
    """

    def __init__(self, size: Size, *, groups: int = 2) -> None:
        super().__init__(size)
        if groups < 1 or size.num_heads % groups:
            allowed = [n for n in range(1, size.num_heads + 1) if size.num_heads % n == 0]
            raise ConfigError(
                f"gqa(groups=...) takes a divisor of the {size.num_heads} heads, given {groups}; "
                f"allowed: {', '.join(map(str, allowed))}, or give the backbone more num_heads"
            )
        self.groups = groups
        self.project = nn.Linear(size.width, 2 * groups * size.head_dim)

    def rows(self) -> tuple[int, nn.Linear]:
        """All that there is."""
        return self.groups, self.project

    def write(self, x_BSD: Tensor) -> Held:
        """`k` and `v`, each (B, G, S, K)."""
        k_BSE, v_BSE = self.activation(self.project(x_BSD)).chunk(2, dim=-1)
        return {"k": heads(k_BSE, self.groups), "v": heads(v_BSE, self.groups)}

    def keys_values(self, held: Mapping[str, Tensor], context: Context) -> tuple[Tensor, Tensor]:
        """Each head repeated for the query heads of its group: (B, H, T, K)."""
        each = self.size.num_heads // self.groups
        return held["k"].repeat_interleave(each, dim=1), held["v"].repeat_interleave(each, dim=1)
