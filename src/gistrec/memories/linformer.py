"""The history projected to a fixed number of rows, by weights that an event's age and input give.

    K'_t = sum_{s<=t} E_ts k_s / sum_{s<=t} E_ts,   V'_t likewise          (per head, rows j)
    E_ts[j] = exp(-r_j (t - s)) * softmax_j(W_e x_s)
    query t reads V'_t with the weights of q_t . K'_t

Shapes: m rows (the option `slots`), C events of a block, R queries per event (with registers).

Level: sequence
Source: Linformer, Wang et al. 2020, arXiv 2006.04768, section 4 (K' = E K, V' = F V).
Differs: the paper's E is a learned matrix of rows by positions: not causal, as all queries read
the same K', and tied to a longest length. Here the sums run up to the query, and E has a decay by
age (learned r_j, at first from 1/8 to 1/4096 per event) times what the event's input says about
where it belongs, as in ABC (Peng et al., arXiv 2110.02488). A function of the absolute position
alone would need a longest length or repeat itself, and one of the age alone makes rows that are
averages of everything and hardly differ. Divided by the weights' sum, rows stay bounded however
long the history is. One E for keys and values, as in the paper's sharing; per head. No position
or time bias in the read: a row is no event.
Cost: slots * (2 * width + num_heads) numbers per layer, whatever the history's length. Time per
event is constant; training runs in blocks of 64 events, linear in the length.
"""

from collections.abc import Mapping
from typing import NoReturn

import torch
from torch import Tensor, nn

from gistrec.errors import ConfigError
from gistrec.memories import Context, Held, Memory, Reader, Size, heads

_BLOCK = 64
_FASTEST = 0.25
"""Highest decay rate per event: exp(_FASTEST * _BLOCK) is far from overflow."""
_LEAST = 1e-6
"""A row whose weights sum up to less fades instead of being scaled up."""


class Linformer(Memory):
    """Weighted sums of keys and values.

    Args:
        slots: Rows per head.
    """

    def __init__(self, size: Size, *, slots: int = 16) -> None:
        super().__init__(size)
        if slots < 1:
            raise ConfigError(f"linformer(slots=...) takes 1 row or more, given {slots}")
        self.slots = slots
        self.project = nn.Linear(size.width, 2 * size.width)
        self.place = nn.Linear(size.width, size.num_heads * slots)
        span_m = 8 * 512 ** torch.linspace(0, 1, slots)
        self.rate = nn.Parameter((1 / (_FASTEST * span_m)).logit().repeat(size.num_heads, 1))

    def write(self, x_BSD: Tensor) -> Held:
        """`k` and `v`, each (B, H, S, K), and `place` (B, H, S, m): their rows' softmax."""
        k_BSD, v_BSD = self.activation(self.project(x_BSD)).chunk(2, dim=-1)
        num_heads = self.size.num_heads
        place_BHSm = heads(self.place(x_BSD), num_heads).softmax(-1)
        return {"k": heads(k_BSD, num_heads), "v": heads(v_BSD, num_heads), "place": place_BHSm}

    def keys_values(self, held: Mapping[str, Tensor], context: Context) -> NoReturn:
        """None to share."""
        raise ConfigError("linformer keeps no rows of events that another layer could read")

    def empty(self) -> Held:
        """Sums of nothing: `fixed.k`, `fixed.v` (1, H, m, K) and their weights (1, H, m, 1)."""
        rows = self.rate.new_zeros(1, self.size.num_heads, self.slots, self.size.head_dim)
        return {"fixed.k": rows, "fixed.v": rows, "fixed.weight": rows[..., :1]}

    def attend(
        self, x_BQD: Tensor, q_BHQK: Tensor, held: Held | None, reader: Reader
    ) -> tuple[Tensor, Held]:
        """Block by block: sums of the blocks before and of the pairs inside."""
        context = reader.context
        context.below.append(lambda: self.keys_values({}, context))
        size = context.num_events
        new = self.write(x_BQD[:, :size])
        q_BHRSK = q_BHQK.unflatten(2, (q_BHQK.shape[2] // max(size, 1), size))
        held = self.empty() if held is None else held
        read = []
        for start in range(0, size, _BLOCK):
            part = slice(start, start + _BLOCK)
            block = {name: rows[:, :, part] for name, rows in new.items()}
            y_BHRCK, held = self._block(
                q_BHRSK[:, :, :, part], block, held, context.real_BS[:, part], reader
            )
            read.append(y_BHRCK)
        return (torch.cat(read, dim=3).flatten(2, 3) if read else q_BHQK), held

    def _block(
        self, q_BHRCK: Tensor, new: Held, held: Held, real_BC: Tensor, reader: Reader
    ) -> tuple[Tensor, Held]:
        # exp(-r (t - s)) as a product of exp(-r t) and exp(r s), t and s counted in the block, so
        # that no (C, C) matrix per row is needed; padding counts nothing, so it forgets nothing
        rate_H1m = _FASTEST * self.rate.sigmoid()[:, None]
        age_BHCm = rate_H1m * real_BC.cumsum(1)[:, None, :, None]
        grown_BHCm = (new["place"] * age_BHCm.exp()).masked_fill(~real_BC[:, None, :, None], 0)
        decay_BHCm = (-age_BHCm).exp()
        weight_BHCm = held["fixed.weight"].transpose(-1, -2) + grown_BHCm.cumsum(2)
        scale_BH1Cm = (decay_BHCm / (decay_BHCm * weight_BHCm).clamp(min=_LEAST))[:, :, None]

        k_BH1CK, v_BH1CK = new["k"][:, :, None], new["v"][:, :, None]
        grown_BH1Cm = grown_BHCm[:, :, None]
        pairs_BHRCC = (q_BHRCK @ k_BH1CK.transpose(-1, -2)).tril()
        before_BHRCm = q_BHRCK @ held["fixed.k"][:, :, None].transpose(-1, -2)
        score_BHRCm = (pairs_BHRCC @ grown_BH1Cm + before_BHRCm) * scale_BH1Cm
        a_BHRCm = reader.weigh(score_BHRCm) * scale_BH1Cm
        y_BHRCK = (a_BHRCm @ grown_BH1Cm.transpose(-1, -2)).tril() @ v_BH1CK
        y_BHRCK = y_BHRCK + a_BHRCm @ held["fixed.v"][:, :, None]

        left_BHm1, grown_BHmC = decay_BHCm[:, :, -1, :, None], grown_BHCm.transpose(-1, -2)
        return y_BHRCK, {
            "fixed.k": left_BHm1 * (held["fixed.k"] + grown_BHmC @ new["k"]),
            "fixed.v": left_BHm1 * (held["fixed.v"] + grown_BHmC @ new["v"]),
            "fixed.weight": left_BHm1 * weight_BHCm[:, :, -1, :, None],
        }
