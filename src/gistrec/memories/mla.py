"""An event leaves one short latent, from which the keys and values of all heads are linear maps.

    c_t = RMSNorm(W_d x_t)                     r numbers, all that is kept
    k_t = W_uk c_t,  v_t = W_uv c_t            heads of width K, never computed when reading:
    q_h (W_uk,h c_t) = (q_h W_uk,h) c_t        so queries go down to the latents, one shared head,
    sum_t a_t W_uv,h c_t = W_uv,h sum_t a_t c_t    and outputs come up from them

Shapes: r numbers of a latent.

Level: head and latent
Source: DeepSeek-AI 2024, "DeepSeek-V2", arXiv 2405.04434, section 2.1.2 (low-rank joint
compression and the absorbed up-projections); its section 3.1.2 for the norm of the latent.
Differs: no decoupled rotary key, because these backbones add position and time to the score, after
the dot product, which leaves the read exact; HSTU's SiLU on keys and values is left out, since with
it W_uk and W_uv could not be moved to the queries and outputs (what is not linear is the norm,
before the latent is stored); queries are not compressed; the norm has no gain, W_uk and W_uv have
one. Training reads in the same absorbed way, so that there is one path.
Cost: r numbers per event and layer; scores and sums are r wide per head in place of K, so reading
is cheaper than full heads for r < K; 2 * r * width weights.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from gistrec.errors import ConfigError
from gistrec.memories import Context, Held, Memory, Reader, Size, heads


class MLA(Memory):
    """Multi-head latent attention.

    Args:
        rank: Numbers of a latent (r); from 2 to the width.
    """

    def __init__(self, size: Size, *, rank: int = 16) -> None:
        super().__init__(size)
        if not 2 <= rank <= size.width:
            raise ConfigError(
                f"mla(rank=...) takes 2 (the norm leaves but a sign of 1 number) to {size.width} "
                f"(the width of what it compresses), given {rank}"
            )
        self.down = nn.Linear(size.width, rank)
        # biases would be absorbed by a softmax at best, and by SiLU attention not at all
        self.up = nn.Linear(rank, 2 * size.width, bias=False)

    def write(self, x_BSD: Tensor) -> Held:
        """The latent `c`, (B, 1, S, r)."""
        c_BSr = self.down(x_BSD)
        return {"c": heads(F.rms_norm(c_BSr, c_BSr.shape[-1:], eps=1e-6), 1)}

    def keys_values(self, held: Mapping[str, Tensor], context: Context) -> tuple[Tensor, Tensor]:
        """Keys and values decoded from the latents, for a layer above that reads them too."""
        k_BTD, v_BTD = self.up(held["c"][:, 0]).chunk(2, dim=-1)
        return heads(k_BTD, self.size.num_heads), heads(v_BTD, self.size.num_heads)

    def attend(
        self, x_BQD: Tensor, q_BHQK: Tensor, held: Held | None, reader: Reader
    ) -> tuple[Tensor, Held]:
        """Read the latents themselves; equals reading the decoded keys and values."""
        context = reader.context
        after = self.append(held, x_BQD[:, : context.num_events])
        up_k_HKr, up_v_HKr = self.up.weight.view(2, self.size.num_heads, self.size.head_dim, -1)
        context.below.append(lambda: (*self.keys_values(after, context), None))
        y_BHQr = reader.read(q_BHQK @ up_k_HKr, after["c"], after["c"])
        return y_BHQr @ up_v_HKr.transpose(-1, -2), after
