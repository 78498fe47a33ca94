"""Every chunk of events is summed up in one row, written by its last event.

    raw event:        k_s = f(W_k x_s),  v_s = f(W_v x_s)
    last of a chunk:  k = f(B_k x_s) + sum_j a_j k_j,  v = f(B_v x_s) + sum_j a_j v_j
                      a = softmax over the chunk's events j of (u . k_j) / sqrt(K)
    query t sees the raw events of its own chunk and the last events of all chunks before

Shapes: E chunks that end among the S new events, at most.

Level: token merging
Source: Activation Beacon, Zhang et al. 2024, arXiv 2401.03462, section 3.
Differs: the paper inserts beacon tokens; here the chunk's last event is the beacon, with the
position and time of that event, so that histories keep their positions and a beacon is written as
soon as its chunk is complete. One beacon per chunk: the ratio is the chunk's length, and fixed
(the paper samples ratios in training, to serve several with one model). A beacon has its own key
and value projections as there, but the layer's query; its input has attended to the chunk in the
layers below, which the lowest layer can't give: hence the pooling of the chunk's raw keys and
values with a learned vector u.
Cost: 2 * width numbers per event and layer, for one event of each finished chunk and those of the
unfinished one; an append or score reads these, training computes all pairs and masks them.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gistrec.errors import ConfigError
from gistrec.memories import Context, Held, Memory, Reader, Size, heads


class Beacon(Memory):
    """Rows of the chunks' last events, which sum up their chunks, and of the unfinished chunk.

    Args:
        chunk: Events that one row sums up.
    """

    def __init__(self, size: Size, *, chunk: int = 8) -> None:
        super().__init__(size)
        if chunk < 2:
            raise ConfigError(f"beacon(chunk=...) takes 2 events or more, given {chunk}")
        self.chunk = chunk
        self.project = nn.Linear(size.width, 2 * size.width)
        self.beacon = nn.Linear(size.width, 2 * size.width)
        self.pool = nn.Parameter(torch.randn(size.num_heads, 1, size.head_dim))

    def write(self, x_BSD: Tensor) -> Held:
        """Raw `k` and `v`, each (B, H, S, K); those of beacons need the chunk's other events."""
        return self._rows(self.project, x_BSD)

    def _rows(self, project: nn.Linear, x_BSD: Tensor) -> Held:
        k_BSD, v_BSD = self.activation(project(x_BSD)).chunk(2, dim=-1)
        return {"k": heads(k_BSD, self.size.num_heads), "v": heads(v_BSD, self.size.num_heads)}

    def keys_values(self, held: Mapping[str, Tensor], context: Context) -> tuple[Tensor, Tensor]:
        """What is held."""
        return held["k"], held["v"]

    def visible(self, q_BHQK: Tensor, k_BHTK: Tensor, context: Context) -> Tensor:
        """The query's own chunk and the beacons: (B, 1, Q, T)."""
        slot_B1T, query_BQ1 = context.slot_BT[:, None], context.query_BQ[:, :, None]
        same_BQT = slot_B1T // self.chunk == query_BQ1 // self.chunk
        return (context.visible_BQT & (same_BQT | self._ends(slot_B1T)))[:, None]

    def reach(self, position_M: Tensor, following: int) -> Tensor:
        """The chunk of a query at `following`, and the beacons."""
        return (position_M // self.chunk == following // self.chunk) | self._ends(position_M)

    def _ends(self, position: Tensor) -> Tensor:
        """Where a chunk's last event is."""
        return position % self.chunk == self.chunk - 1

    def attend(
        self, x_BQD: Tensor, q_BHQK: Tensor, held: Held | None, reader: Reader
    ) -> tuple[Tensor, Held]:
        """As of any memory of rows, with beacons written over their events' raw rows."""
        context = reader.context
        x_BSD = x_BQD[:, : context.num_events]
        held = self.append(held, x_BSD)
        if context.num_events:
            held = self._summed_up(held, x_BSD, context)
        k_BHTK, v_BHTK = held["k"], held["v"]
        visible = self.visible(q_BHQK, k_BHTK, context)
        context.below.append(lambda: (k_BHTK, v_BHTK, visible))
        return reader.read(q_BHQK, k_BHTK, v_BHTK, visible), held

    def _summed_up(self, held: Held, x_BSD: Tensor, context: Context) -> Held:
        """Raw rows of the new events replaced where they end a chunk."""
        size = context.num_events
        position_BS = context.query_BQ[:, :size]
        number_S = torch.arange(size, device=x_BSD.device)
        first_B1 = (self.chunk - 1 - position_BS[:, :1]) % self.chunk
        end_BE = (first_B1 + number_S[:: self.chunk]).clamp(max=size - 1)

        # held rows of a shorter user are followed by padding, and a codec may have dropped some:
        # so a chunk's rows are found by their positions
        whole_BS, whole_BT = position_BS // self.chunk, context.slot_BT // self.chunk
        same_BET = whole_BS.take_along_dim(end_BE, 1)[:, :, None] == whole_BT[:, None]
        seen_BET = context.visible_BQT.take_along_dim(end_BE[:, :, None], 1) & same_BET
        score_BH1T = self.pool @ held["k"].transpose(-1, -2) * self.size.head_dim**-0.5
        hidden = torch.finfo(score_BH1T.dtype).min
        a_BHET = score_BH1T.masked_fill(~seen_BET[:, None], hidden).softmax(-1)

        own = self._rows(self.beacon, x_BSD.take_along_dim(end_BE[:, :, None], 1))
        which_BS = ((number_S - first_B1) // self.chunk).clamp(min=0)
        ends_BS = self._ends(position_BS)
        out = {}
        for name, rows_BHTK in held.items():
            beacon_BHEK = own[name] + a_BHET @ rows_BHTK
            before = rows_BHTK.shape[2] - size
            new_BHSK = torch.where(
                ends_BS[:, None, :, None],
                beacon_BHEK.take_along_dim(which_BS[:, None, :, None], 2),
                rows_BHTK[:, :, before:],
            )
            out[name] = torch.cat([rows_BHTK[:, :, :before], new_BHSK], dim=2)
        return out
