"""Upper layers read registers in place of events: only the layers below keep the history.

    event i brings suffix registers r_i1, r_i2, ...: learned inputs behind the events, which in the
    layers below read all events up to i and are read by none
    tokens of i:  t in {x_i, r_i1, r_i2, ...},   k_t = f(W_k t),  v_t = f(W_v t)
    each of them reads:  sum_p a_p v_p + sum_t a_t v_t,   a = A(q k_p + c, q k_t + c)
    p: prefix registers, learned keys and values of the layer;  c: a number per head and kind of key
    A: the layer's weights without biases (softmax, or SiLU / N)

`full() | register()`: a layer of events, and above it one of registers. Without a layer of events
below there is nothing that registers could sum up.

Shapes: R = 1 + suffix tokens of an event, P prefix registers, T = P + R keys, C = 3 kinds of key.

Level: register
Source: EARN, arXiv 2507.00715 (KDD 2025); written from the formulas.
Differs: the paper sets one suffix behind a prompt; here every event has its own, so that training
is serving, at every cut. The paper has no rule for an append. Here none is needed: registers are
not state but run anew at each request, over the rows that the layers below hold. A prefix at the
head of a causal sequence sees only itself, so it is a constant: its keys and values are learned
per layer directly, and read in these layers only. Its prompt's last token reads on as a generated
token does: here the event itself. No position or time bias between registers; `c` in its place.
Layers that ask for different numbers of suffix registers all get the largest.
Cost: 0 bytes per event and layer: of L layers the k below are stored. 2 * prefix * width shared
numbers per layer. Time: `suffix` more queries per new event, over k layers of N slots each,
O(suffix k N) per request, and no slots to read in the L - k layers above.
"""

from collections.abc import Mapping
from typing import NoReturn

import torch
from torch import Tensor, nn

from gistrec.errors import ConfigError
from gistrec.memories import Context, Held, Memory, Reader, Size, heads

_PREFIX, _EVENT, _SUFFIX = range(3)


class Register(Memory):
    """Nothing per event: learned registers, the event's own ones, and the event itself.

    Args:
        prefix: Learned keys and values that all users share (P).
        suffix: Registers of each event, further queries of the layers below.
    """

    def __init__(self, size: Size, *, prefix: int = 1, suffix: int = 1) -> None:
        super().__init__(size)
        for name, number in (("prefix", prefix), ("suffix", suffix)):
            if not 0 <= number <= 64:
                raise ConfigError(f"register({name}=...) takes 0 to 64 registers, given {number}")
        self.suffix = suffix
        self.project = nn.Linear(size.width, 2 * size.width)
        own = (2, size.num_heads, prefix, size.head_dim)
        self.prefix_2HPK = nn.Parameter(torch.randn(own) * size.width**-0.5)
        self.kind_HC = nn.Parameter(torch.zeros(size.num_heads, 3))

    def write(self, x_BSD: Tensor) -> Held:
        """Nothing."""
        return {}

    def keys_values(self, held: Mapping[str, Tensor], context: Context) -> NoReturn:
        """There are none."""
        raise ConfigError("register() keeps no rows of events that another layer could read")

    def attend(
        self, x_BQD: Tensor, q_BHQK: Tensor, held: Held | None, reader: Reader
    ) -> tuple[Tensor, Held]:
        """Read the prefix and the tokens of each query's own event; hold nothing."""
        reader.context.below.append(lambda: self.keys_values({}, reader.context))
        events = reader.context.num_events
        tokens = x_BQD.shape[1] // max(events, 1)  # more than 1 + suffix if another layer has more
        by_event = (tokens, events)
        k_BQD, v_BQD = self.activation(self.project(x_BQD)).chunk(2, dim=-1)
        k_BHRSK, v_BHRSK, q_BHRSK = (
            rows.unflatten(2, by_event)
            for rows in (heads(k_BQD, len(self.kind_HC)), heads(v_BQD, len(self.kind_HC)), q_BHQK)
        )
        k_HPK, v_HPK = self.activation(self.prefix_2HPK)
        prefix = k_HPK.shape[1]
        to_prefix = torch.einsum("bhrsk,hpk->bhrsp", q_BHRSK, k_HPK)
        to_event = torch.einsum("bhrsk,bhtsk->bhrst", q_BHRSK, k_BHRSK)
        kind_T = [_PREFIX] * prefix + [_EVENT] * min(tokens, 1) + [_SUFFIX] * (tokens - 1)
        score_BHRST = torch.cat([to_prefix, to_event], dim=-1)
        a_BHRST = reader.weigh(score_BHRST + self.kind_HC[:, None, None, kind_T])
        y_BHRSK = torch.einsum("bhrsp,hpk->bhrsk", a_BHRST[..., :prefix], v_HPK)
        y_BHRSK = y_BHRSK + torch.einsum("bhrst,bhtsk->bhrsk", a_BHRST[..., prefix:], v_BHRSK)
        return y_BHRSK.flatten(2, 3), {}
