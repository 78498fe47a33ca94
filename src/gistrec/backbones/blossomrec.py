"""BlossomRec: two sparse attentions per layer, far blocks by content and near events by distance.

    block b = events 16 b .. 16 b + 15;   w_b = [keys of block b - 1 ; keys of block b] + P
    long:  c_b = W_2 ReLU(W_1 w_b),   I_ib = mean over the heads of a group of q_i c_b / sqrt(K)
           i reads the 4 complete blocks with the largest I_ib, and its own block up to itself
    short: i reads j if i - j < 8 or i - j is a power of two
    y = sigmoid(g_1) A_long v + sigmoid(g_2) A_short v,   g = W_g LN(X), two gates per head
    A = softmax(q k / sqrt(K) + b_position) over what the path reads;  q, k, v are the same for both
    Y = X + W_o y;   X' = Y + W_4 GELU(W_3 LN(Y))

Shapes: G key/value heads, R = H / G query heads of each, J blocks, W = 2 * block window events.

Level: architecture
Source: BlossomRec, arXiv 2512.13368 (WWW 2026), LTIS and STIS; sizes, masks and order of steps as
in its public code.
Differs: a relative position bias in place of rotary keys, and pre-norm in place of post-norm, as in
`sasrec`. The public code takes the top blocks without a gradient, so its compression stays as it
was drawn; here the logits of a block get p - stop(p), p = softmax(I), which is 0 but for its
gradient. Its learned memory key never reaches the choice of blocks and is left out. Gates start at
sigmoid(-2) and sigmoid(2), which that code sets and then overwrites. It cannot append; here
compressed keys are made anew at each step from the held keys. Blocks that score alike up to
rounding would be chosen by a batch's shape: 1e-5 per block is added for the choice, so the newer
one wins. Blocks lie where their events were in the history: an evicted event is a zero in its
windows, and a block that has lost all of them is none.
Cost: 2 * kv_heads * K numbers per event and layer: it saves reading, not storing. A query needs
N / 16 coarse scores and 88 + log2 N fine ones of N events (this file masks all N), a step N / 16
passes through an MLP of width 32 K.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gistrec.backbones._blocks import POSITION_BUCKETS, RelativeBias
from gistrec.backbones._causal import Causal
from gistrec.backbones._layer import Layer, Step
from gistrec.errors import ConfigError
from gistrec.kernels.dropout import Dropout
from gistrec.memories import Held, heads

_NEWER = 1e-5
_NO_BLOCK = 1 << 40


class _BlossomLayer(Layer):
    def __init__(
        self, width: int, num_heads: int, kv_heads: int, reads: tuple[int, int, int], dropout: float
    ) -> None:
        super().__init__()
        self.num_heads, self.kv_heads, head_dim = num_heads, kv_heads, width // num_heads
        self.block, self.top, self.window = reads
        both = 2 * self.block * head_dim
        self.place_GWK = nn.Parameter(torch.zeros(kv_heads, 2 * self.block, head_dim))
        self.compress = nn.Sequential(nn.Linear(both, both), nn.ReLU(), nn.Linear(both, head_dim))
        self.norm_in, self.norm_mid = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * kv_heads * head_dim)
        self.gate = nn.Linear(width, 2 * num_heads)
        nn.init.zeros_(self.gate.weight)
        self.gate.bias.data = torch.tensor([-2.0, 2.0] * num_heads)
        self.position = RelativeBias(num_heads, POSITION_BUCKETS)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x_BQD: Tensor, held: Held | None, step: Step) -> tuple[Tensor, Held]:
        n_BQD = self.norm_in(x_BQD)
        held = self.append(held, n_BQD)
        groups = (self.kv_heads, -1)
        q_BGRQK = heads(self.query(n_BQD), self.num_heads).unflatten(1, groups)
        bias_BGRQT = self.position(step.position_BQT).unflatten(1, groups)
        paths = self.weights(q_BGRQK, held["k"], bias_BGRQT, step)
        gates = heads(self.gate(n_BQD).sigmoid(), self.num_heads).split(1, dim=-1)
        y_BHQK = torch.zeros_like(gates[0])
        for gate_BHQ1, a_BGRQT in zip(gates, paths, strict=True):
            read_BGQK = a_BGRQT.flatten(2, 3) @ held["v"]
            y_BHQK = y_BHQK + gate_BHQ1 * read_BGQK.view(*gate_BHQ1.shape[:3], -1)
            if step.received_BST is not None:
                step.note(gate_BHQ1 * a_BGRQT.flatten(1, 2))
        x_BQD = x_BQD + self.dropout(self.out(y_BHQK.transpose(1, 2).flatten(2)))
        hidden = self.dropout(F.gelu(self.up(self.norm_mid(x_BQD))))
        return x_BQD + self.dropout(self.down(hidden)), held

    def append(self, held: Held | None, n_BSD: Tensor) -> Held:
        """Held rows followed by the keys and values of new events."""
        new = [heads(rows, self.kv_heads) for rows in self.key_value(n_BSD).chunk(2, dim=-1)]
        if held is not None:
            new = [torch.cat([held[n], rows], dim=2) for n, rows in zip("kv", new, strict=True)]
        return {"k": new[0], "v": new[1]}

    def empty(self) -> Held:
        """No keys and values."""
        return self.append(None, self.out.weight.new_zeros(1, 0, self.out.in_features))

    def weights(
        self, q_BGRQK: Tensor, k_BGTK: Tensor, bias_BGRQT: Tensor, step: Step
    ) -> list[Tensor]:
        """Weights of the slots on the long- and the short-term path, each (B, G, R, Q, T)."""
        q_BGRQK = q_BGRQK * q_BGRQK.shape[-1] ** -0.5
        distance_BQT = step.query_BQ[:, :, None] - step.slot_BT[:, None, :]
        near_BQT = (distance_BQT < self.window) | (distance_BQT & (distance_BQT - 1) == 0)
        near = (near_BQT & step.visible_BQT)[:, None, None]
        far_BGQT, nudge_BGQT = self.far(q_BGRQK.mean(2), k_BGTK, step)
        score = (q_BGRQK.flatten(2, 3) @ k_BGTK.mT).view(*q_BGRQK.shape[:-1], -1) + bias_BGRQT
        long = score if nudge_BGQT is None else score + nudge_BGQT[:, :, None]
        least = torch.finfo(score.dtype).min
        both = ((long, far_BGQT[:, :, None]), (score, near))
        return [logits.masked_fill(~seen, least).softmax(-1) for logits, seen in both]

    def far(self, q_BGQK: Tensor, k_BGTK: Tensor, step: Step) -> tuple[Tensor, Tensor | None]:
        """Where the long-term path reads, (B, G, Q, T), and in training what logits are given."""
        c_BGJK, block_BJ, rank_BT = self.blocks(k_BGTK, step)
        i_BGQJ = q_BGQK @ c_BGJK.mT
        own_BQ1, of_BT = (step.query_BQ // self.block)[:, :, None], step.slot_BT // self.block
        done_BGQJ = (block_BJ[:, None] < own_BQ1)[:, None]
        newer_J = _NEWER * torch.arange(block_BJ.shape[1], device=q_BGQK.device)
        hidden_BGQJ = i_BGQJ.masked_fill(~done_BGQJ, -torch.inf)
        best = (hidden_BGQJ + newer_J).topk(min(self.top, len(newer_J))).indices
        chosen_BGQJ = torch.zeros_like(i_BGQJ, dtype=torch.bool).scatter_(-1, best, value=True)
        rank_BGQT = rank_BT[:, None, None].expand(*i_BGQJ.shape[:-1], -1)
        # where fewer are complete, the rest chosen are the own one and later ones, out of sight
        far_BGQT = chosen_BGQJ.gather(-1, rank_BGQT) | (own_BQ1 == of_BT[:, None])[:, None]
        far_BGQT &= step.visible_BQT[:, None]
        if not self.training:
            return far_BGQT, None
        # one more place with a low score, for queries without any complete block
        p_BGQJ = F.pad(hidden_BGQJ, (1, 0), value=-1e3).softmax(-1)[..., 1:]
        return far_BGQT, (p_BGQJ - p_BGQJ.detach()).gather(-1, rank_BGQT)

    def blocks(self, k_BGTK: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """Blocks with events, J of them: keys (B, G, J, K), numbers (B, J), each slot's (B, T)."""
        users, groups, _, width = k_BGTK.shape
        slot_BT = step.slot_BT.expand(users, -1)
        # slots that fill up the batch, all zeros, lie between real ones: they go with those before
        number_BT = (slot_BT // self.block).cummax(-1).values
        rank_BT = F.pad(number_BT.diff(dim=-1) > 0, (1, 0)).cumsum(-1)
        block_BJ = number_BT.new_full((users, int(rank_BT.max()) + 1), _NO_BLOCK)
        block_BJ.scatter_(1, rank_BT, number_BT)
        place_BT = rank_BT * self.block + slot_BT % self.block
        side_by_side = k_BGTK.new_zeros(users, groups, block_BJ.shape[1] * self.block, width)
        side_by_side.scatter_add_(2, place_BT[:, None, :, None].expand_as(k_BGTK), k_BGTK)
        this = side_by_side.unflatten(2, (-1, self.block))
        adjacent_BJ = F.pad(block_BJ.diff(dim=-1) == 1, (1, 0))
        before = F.pad(this[:, :, :-1], (0, 0, 0, 0, 1, 0)) * adjacent_BJ[:, None, :, None, None]
        window = torch.cat([before, this], dim=3) + self.place_GWK[:, None]
        return self.compress(window.flatten(3)), block_BJ, rank_BT


class BlossomRec(Causal):
    """Long- and short-term sparse attention with gates. Knows the order of events, not their times.

    Args:
        num_items: V, from the data.
        width: D.
        num_layers: L.
        num_heads: H; divides the width.
        kv_heads: Heads of keys and values (G), the only ones held; divides num_heads.
        block: Events of a block; its compressed key sees the block before, too.
        top: Blocks that the long-term path selects.
        window: Newest events that the short-term path reads.
        dropout: Share of units dropped in training.
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
        num_heads: int = 4,
        kv_heads: int = 1,
        block: int = 16,
        top: int = 4,
        window: int = 8,
        dropout: float = 0.2,
        repeats: bool = False,
        temperature: float = 0.05,
        negatives: int = 0,
    ) -> None:
        least = min(num_heads, kv_heads, block, top, window)
        if least < 1 or num_heads % kv_heads or width % num_heads:
            raise ConfigError(
                "blossomrec takes kv_heads that divide num_heads, num_heads that divide width, and "
                f"block, top and window of 1 or more; given kv_heads={kv_heads}, num_heads="
                f"{num_heads}, width={width}, block={block}, top={top}, window={window}"
            )
        sizes = (width, num_heads, kv_heads, (block, top, window), dropout)
        super().__init__(
            num_items,
            width=width,
            num_heads=num_heads,
            layers=[_BlossomLayer(*sizes) for _ in range(num_layers)],
            dropout=dropout,
            temperature=temperature,
            negatives=negatives,
            repeats=repeats,
            uses_time=False,
            request_time=False,
        )
