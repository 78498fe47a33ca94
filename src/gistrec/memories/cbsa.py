"""A few representatives gather the history, settle among each other and are read by the query.

    z_s = f(W x_s)                                                         (per head)
    R_t = Q0 + eta * A_t Z_{s<=t}     A_t = softmax over s <= t of g(Q0 z_s)     extract
    D_t = softmax(R_t R_t^T / sqrt(K)) R_t                                       contract
    query t reads D_t with the weights of q_t . R_t                              broadcast
    g(a) = 8 tanh(a / (8 sqrt(K)))    Q0, eta learned

Shapes: m representatives (the option `slots`), C events of a block, R queries per event (with
registers).

Level: sequence
Source: contract-and-broadcast self-attention (CBSA), arXiv 2509.16875 (NeurIPS 2025).
Differs: the paper's first representatives are an average pooling of all tokens, which is neither
causal nor possible to append to; here they are learned constants, so numerator and denominator of
A Z are running sums. The scores are bounded by g, so that these need no running maximum. The
paper makes queries, keys and values with one projection and broadcasts with the transpose of A,
a softmax over tokens; here the query is the layer's own and its weights run over representatives.
The step of the broadcast is left to the layer's output projection. No position or time bias: a
representative is no event, and nothing is forgotten.
Cost: slots * (width + num_heads) numbers per layer, whatever the history's length. Time per event
is constant: slots * width to gather and slots**2 * width / num_heads per head to contract.
"""

from collections.abc import Mapping
from typing import NoReturn

import torch
from torch import Tensor, nn

from gistrec.errors import ConfigError
from gistrec.memories import Context, Held, Memory, Reader, Size, heads

_BLOCK = 64
_BOUND = 8.0


class CBSA(Memory):
    """Representatives of the whole history.

    Args:
        slots: Representatives per head.
    """

    def __init__(self, size: Size, *, slots: int = 16) -> None:
        super().__init__(size)
        if slots < 1:
            raise ConfigError(f"cbsa(slots=...) takes 1 representative or more, given {slots}")
        self.slots = slots
        self.project = nn.Linear(size.width, size.width)
        self.first = nn.Parameter(torch.randn(size.num_heads, slots, size.head_dim))
        self.eta = nn.Parameter(torch.ones(size.num_heads, 1, 1))

    def write(self, x_BSD: Tensor) -> Held:
        """`z` (B, H, S, K)."""
        return {"z": heads(self.activation(self.project(x_BSD)), self.size.num_heads)}

    def keys_values(self, held: Mapping[str, Tensor], context: Context) -> NoReturn:
        """None to share."""
        raise ConfigError("cbsa keeps no rows of events that another layer could read")

    def empty(self) -> Held:
        """Sums of nothing: `fixed.num` (1, H, m, K) and `fixed.den` (1, H, m, 1)."""
        rows = self.first.new_zeros(1, *self.first.shape)
        return {"fixed.num": rows, "fixed.den": rows[..., :1]}

    def attend(
        self, x_BQD: Tensor, q_BHQK: Tensor, held: Held | None, reader: Reader
    ) -> tuple[Tensor, Held]:
        """Block by block, which bounds the memory of an append."""
        context = reader.context
        context.below.append(lambda: self.keys_values({}, context))
        size = context.num_events
        z_BHSK = self.write(x_BQD[:, :size])["z"]
        q_BHRSK = q_BHQK.unflatten(2, (q_BHQK.shape[2] // max(size, 1), size))
        held = self.empty() if held is None else held
        read = []
        for start in range(0, size, _BLOCK):
            part = slice(start, start + _BLOCK)
            r_BHCmK, held = self._extract(z_BHSK[:, :, part], held, context.real_BS[:, part])
            near = r_BHCmK @ r_BHCmK.transpose(-1, -2) * self.size.head_dim**-0.5
            d_BHCmK = near.softmax(-1) @ r_BHCmK
            q_BHCRK = q_BHRSK[:, :, :, part].transpose(2, 3)
            a_BHCRm = reader.weigh(q_BHCRK @ r_BHCmK.transpose(-1, -2))
            read.append((a_BHCRm @ d_BHCmK).transpose(2, 3))
        return (torch.cat(read, dim=3).flatten(2, 3) if read else q_BHQK), held

    def _extract(self, z_BHCK: Tensor, held: Held, real_BC: Tensor) -> tuple[Tensor, Held]:
        """R of every event in a block (B, H, C, m, K), and the sums after it."""
        score_BHCm = z_BHCK @ self.first.transpose(-1, -2) * self.size.head_dim**-0.5
        e_BHCm = (_BOUND * (score_BHCm / _BOUND).tanh()).exp()
        e_BHCm = e_BHCm.masked_fill(~real_BC[:, None, :, None], 0)
        den_BHCm1 = held["fixed.den"][:, :, None] + e_BHCm.cumsum(2)[..., None]
        num_BHCmK = (e_BHCm[..., None] * z_BHCK[..., None, :]).cumsum(2)
        num_BHCmK = held["fixed.num"][:, :, None] + num_BHCmK
        # a user who only fills up the batch has summed up nothing
        mean_BHCmK = num_BHCmK / den_BHCm1.clamp(min=torch.finfo(den_BHCm1.dtype).tiny)
        after = {"fixed.num": num_BHCmK[:, :, -1], "fixed.den": den_BHCm1[:, :, -1]}
        return self.first[:, None] + self.eta[..., None] * mean_BHCmK, after
