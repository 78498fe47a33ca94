"""New events of users through a whole stack of layers, in one call, over the rows they hold.

One event of one user is a hundred calls of PyTorch, which take longer than what they compute; a
batch of users is padded and joined, which takes longer still. Here rows are read where they stand,
by the queries of all of a user's new events at once.

The backbone's own layers in PyTorch are the reference.

Shapes: S new events, M held slots, H heads, G heads of keys and values, K head width, D width,
V items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_VECTOR = 16
"""Numbers of the widest register: matrices' columns are filled up to a multiple."""
_TABLE = 128
_FAR = 1 << 16


def norm(layer: nn.LayerNorm) -> list[Tensor]:
    """Gain and offset."""
    return [_filled(layer.weight), _filled(layer.bias)]


def linear(*layers: nn.Linear) -> list[Tensor]:
    """Matrices of one input side by side, and their offsets."""
    weight_ID = torch.cat([layer.weight for layer in layers]).T
    return [_filled(weight_ID), _filled(torch.cat([layer.bias for layer in layers]))]


def table(number_HN: Tensor) -> list[Tensor]:
    """Biases per head and bucket."""
    return [F.pad(number_HN, (0, _TABLE - number_HN.shape[1]))]


def _filled(x: Tensor) -> Tensor:
    return F.pad(x, (0, -x.shape[-1] % _VECTOR))


@dataclass(frozen=True)
class Layer:
    """One layer's weights."""

    kind: Literal["silu", "softmax"]
    """How scores become weights, and what surrounds attention: HSTU's layer or SASRec's."""
    groups: int
    """G."""
    count: float
    """SiLU weights are divided by it."""
    parts: Sequence[Tensor]
    """Weights in the order of `native/step.h`, made by `norm`, `linear` and `table`."""


class Events(NamedTuple):
    """New events of one user, and what is held of the ones before."""

    item_S: Tensor
    time_S: Tensor
    at_S: Tensor
    """When each event's query is asked."""
    position: int
    """Where the first one stands in the history."""
    rows: Sequence[Tensor]
    """Keys (G, M, K), then values, of each layer; fp32."""
    time_M: Tensor | None
    position_M: Tensor | None
    """None: 0 ... M - 1."""


class Stepped(NamedTuple):
    """What a user's new events leave."""

    out_D: Tensor
    """The last event's output; not defined unless asked for."""
    rows: Sequence[Tensor]
    """Keys (G, S, K), then values, of each layer."""
    received_ST: Tensor | None
    """The attention that each event paid to slots: absolute weights, mean of heads, summed over
    layers."""


class Stack:
    """Layers, packed.

    Args:
        layers: Lowest first, all of one kind.
        num_heads: H.
        item_VD: Items' vectors; kept, not copied.
        scale: What they are multiplied by.
        position_bucket: Buckets of the distances 0 ... 65,535.
        least_time: The least elapsed seconds of each time bucket from 1 on, ascending; empty if
            layers know no times.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        num_heads: int,
        item_VD: Tensor,
        scale: float,
        position_bucket: Tensor,
        least_time: Tensor,
    ) -> None:
        self.groups = torch.tensor([layer.groups for layer in layers])
        width = item_VD.shape[1]
        self.head_dim = width // num_heads
        self.weights = torch.cat([p.reshape(-1).float() for layer in layers for p in layer.parts])
        self.item_VD = item_VD.contiguous()
        self.near = position_bucket[:_FAR].flip(0).to(torch.uint8).contiguous()
        self.least_time = least_time.long().contiguous()
        given = (self.weights, self.item_VD, self.near, self.least_time, self.groups)
        address = [t.data_ptr() for t in given]
        pointwise = int(layers[0].kind == "silu")
        shape = (len(layers), num_heads, width, pointwise, len(self.least_time))
        self.numbers = address, shape, scale, layers[0].count
        """What kernels are told of it."""
        self._kept = [(int(g), self.head_dim) for g in self.groups for _ in "kv"]

    def run(
        self, users: Sequence[Events], *, outputs: bool = True, note: bool = False
    ) -> list[Stepped]:
        """New events of users, at least one each.

        Args:
            users: Rows of a user all hold the same slots.
            outputs: Whether the last events' outputs are wanted; without, the highest layer's
                attention is not computed.
            note: Whether to count the attention that slots receive.
        """
        from gistrec._native import step

        numbers: list[int] = []
        out: list[Stepped] = []
        for user in users:
            size, held = len(user.item_S), user.rows[0].shape[1]
            counts = [groups * size * width for groups, width in self._kept]
            flat = torch.empty(self.item_VD.shape[1] + sum(counts))
            out_D, *rows = flat.split([self.item_VD.shape[1], *counts])
            received = torch.zeros(size, held + size) if note else None
            numbers += [
                user.item_S.data_ptr(),
                user.at_S.data_ptr(),
                user.time_S.data_ptr(),
                0 if user.time_M is None else user.time_M.data_ptr(),
                0 if user.position_M is None else user.position_M.data_ptr(),
                size,
                held,
                user.position,
                out_D.data_ptr() if outputs else 0,
                rows[0].data_ptr(),
                0 if received is None else received.data_ptr(),
            ]
            for held_GMK in user.rows:
                numbers += (held_GMK.data_ptr(), *held_GMK.stride()[:2])
            shaped = [
                r.view(groups, size, width)
                for r, (groups, width) in zip(rows, self._kept, strict=True)
            ]
            out.append(Stepped(out_D, shaped, received))
        step(*self.numbers, numbers)
        return out
