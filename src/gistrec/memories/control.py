"""Whole keys and values with another memory's parameters added: the equal-parameter control.

    [k_t ; v_t] = f(W x_t + W_2 SiLU(W_1 x_t) + s_t P[j_t]) * (1 + W_g E[item_t])
    j_t = argmax_j (W_r x_t)_j,   s_t = sigmoid of that logit

A memory that adds parameters may be more accurate for having them. What this control gains over
`full()` has nothing to do with compression.

Level: reference
Source: our own control; pool and router as in CollectiveKV (arXiv 2601.19178), gate as in EG-MLA
(arXiv 2509.16686).
Differs: nothing is compressed: pools and gates add to whole keys and values.
Cost: that of `full()`, and the slot's item with `gate`. Parameters per layer, D the width:
2 pool (D + D) for `pool`, (items + 1) gate + 2 D gate for `gate`, 3 D hidden for `hidden`.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gistrec.errors import ConfigError
from gistrec.memories import Context, Held, Memory, Size, heads


class Control(Memory):
    """The uncompressed memory with more parameters.

    Args:
        pool: Rows of a pool for keys and of one for values, like `collective`'s; 0 for none.
        gate: Columns of a table of item gates, like `egmla`'s; 0 for none.
        hidden: Units of a further layer behind the projection; 0 for none.
    """

    def __init__(self, size: Size, *, pool: int = 0, gate: int = 0, hidden: int = 0) -> None:
        super().__init__(size)
        if min(pool, gate, hidden) < 0 or not pool + gate + hidden:
            raise ConfigError(
                f"control takes a positive pool, gate or hidden, given {pool}, {gate} and {hidden}"
            )
        width = size.width
        self.project = nn.Linear(width, 2 * width)
        self.more = nn.Sequential(
            *([nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, 2 * width)] if hidden else [])
        )
        self.route = nn.Linear(width, 2 * pool) if pool else None
        self.pool = nn.Parameter(torch.randn(2 * pool, width) * width**-0.5)
        self.gate = nn.Embedding(size.num_items + 1, gate, padding_idx=size.num_items)
        nn.init.normal_(self.gate.weight, std=0.02)
        self.open = nn.Linear(gate, 2 * width, bias=False) if gate else None
        self.reads_items = bool(gate)
        if not pool:
            del self.pool
        if not gate:
            del self.gate

    def write(self, x_BSD: Tensor) -> Held:
        """`k` and `v`, each (B, H, S, K)."""
        y = self.project(x_BSD)
        if len(self.more):
            y = y + self.more(x_BSD)
        if self.route is not None:
            logit, row = self.route(x_BSD).unflatten(-1, (2, -1)).max(-1)  # (B, S, 2)
            row = row + torch.tensor([0, len(self.pool) // 2], device=row.device)
            y = y + (F.embedding(row, self.pool) * logit.sigmoid()[..., None]).flatten(-2)
        k_BSD, v_BSD = self.activation(y).chunk(2, dim=-1)
        return {"k": heads(k_BSD, self.size.num_heads), "v": heads(v_BSD, self.size.num_heads)}

    def keys_values(self, held: Mapping[str, Tensor], context: Context) -> tuple[Tensor, Tensor]:
        """What was written, through the gate if there is one."""
        if self.open is None or context.item_BT is None:
            return held["k"], held["v"]
        gates = (1 + self.open(self.gate(context.item_BT))).chunk(2, dim=-1)
        k_gate, v_gate = (heads(gate, self.size.num_heads) for gate in gates)
        return held["k"] * k_gate, held["v"] * v_gate
