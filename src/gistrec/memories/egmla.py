"""A short latent of the event's context; the item's own part comes from a table, as a gate on it.

    c_t = W_d x_t                                  r numbers, all that is kept beside the item id
    g_t = 1 + W_g E[item_t]                        E: a table of the layer's own
    [k_t ; v_t] = f(LayerNorm((W_u c_t) * g_t))    of all heads

What all events of an item have in common needs no place in the user's state: the item's id, which
the state keeps once for all layers, finds it again.

Shapes: r numbers of a latent, g columns of the table.

Level: head and latent
Source: Cai and Hou 2025, "EG-MLA: Embedding-Gated Multi-head Latent Attention for Scalable and
Efficient LLMs", arXiv 2509.16686; written from the formulas, in the notation of mla().
Differs: the token's id is the item's; the gate is 1 + ..., so that training starts near ungated
latents; one norm over keys and values together, as the split is not spelled out; no decoupled
rotary key, because position and time are added to the score; f follows the backbone (SiLU in HSTU).
The product and the norm differ from slot to slot, so the up-projection can't be moved to queries
and outputs: keys and values are decoded at each read. The latent has no norm: it would cancel in
the one that follows.
Cost: r numbers per event and layer, and 8 bytes for the item (once, not per layer); items * g
shared numbers per layer; a read decodes T slots, (r + g) * 2 * width multiplications each.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gistrec.errors import ConfigError
from gistrec.memories import Context, Held, Memory, Size, heads


class EGMLA(Memory):
    """Latents gated by the event's item.

    Args:
        rank: Numbers of a latent (r); from 2 to the width.
        gate: Columns of the item table (g); from 1 to twice the width.
    """

    reads_items = True

    def __init__(self, size: Size, *, rank: int = 8, gate: int = 16) -> None:
        super().__init__(size)
        if not 2 <= rank <= size.width:
            raise ConfigError(
                f"egmla(rank=...) takes 2 (the norm leaves but a sign of 1 number) to {size.width} "
                f"(the width of what it compresses), given {rank}"
            )
        if not 1 <= gate <= 2 * size.width:
            raise ConfigError(
                f"egmla(gate=...) takes 1 to {2 * size.width} columns (the gated numbers of keys "
                f"and values), given {gate}"
            )
        self.down = nn.Linear(size.width, rank)
        self.up = nn.Linear(rank, 2 * size.width, bias=False)
        self.table = nn.Embedding(size.num_items + 1, gate, padding_idx=size.num_items)
        nn.init.normal_(self.table.weight, std=0.02)
        with torch.no_grad():
            self.table.weight[size.num_items] = 0
        self.gate = nn.Linear(gate, 2 * size.width, bias=False)
        self.norm = nn.LayerNorm(2 * size.width)

    def write(self, x_BSD: Tensor) -> Held:
        """The latent `c`, (B, 1, S, r)."""
        return {"c": heads(self.down(x_BSD), 1)}

    def keys_values(self, held: Mapping[str, Tensor], context: Context) -> tuple[Tensor, Tensor]:
        """Latents brought up, gated by their items and normed."""
        if context.item_BT is None:
            raise ConfigError("egmla reads items; the backbone must give them (Layer.reads_items)")
        # scaled as item vectors are, so that one step of the optimiser moves both alike
        e_BTg = self.table(context.item_BT) * self.table.embedding_dim**0.5
        u_BTE = self.up(held["c"][:, 0]) * (1 + self.gate(e_BTg))
        k_BTD, v_BTD = self.activation(self.norm(u_BTE)).chunk(2, dim=-1)
        return heads(k_BTD, self.size.num_heads), heads(v_BTD, self.size.num_heads)
