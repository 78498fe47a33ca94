"""Tensors of several users as one batch.

Shapes: M slots.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gistrec.state import UserState


def pad(rows: Sequence[Tensor], slots: int, *, fill: int = 0) -> Tensor:
    """Stack one user's tensors, filled up to the same number of slots."""
    if len(rows) == 1 and rows[0].shape[-1 if rows[0].ndim == 1 else -2] == slots:
        return rows[0][None]
    axis = -1 if rows[0].ndim == 1 else -2
    shape = list(rows[0].shape)
    shape[axis] = slots
    out = rows[0].new_full((len(rows), *shape), fill)
    for into, row in zip(out, rows, strict=True):
        into.narrow(axis, 0, row.shape[axis]).copy_(row)
    return out


def batched(name: str, rows: Sequence[Tensor], slots: int) -> Tensor:
    """One tensor of several users."""
    return torch.stack(list(rows)) if name.startswith("fixed.") else pad(rows, slots)


def next_position(state: UserState) -> int:
    """Where the event behind the slots stands in the history, evicted slots counted."""
    if "fixed.count" in state.tensors:
        return int(state.tensors["fixed.count"])
    pos = state.tensors.get("pos")
    return state.num_slots if pos is None or not len(pos) else int(pos[-1]) + 1


def joined(tail: Tensor, new: np.ndarray) -> Tensor:
    """A state's tail followed by new events."""
    return torch.cat([tail, torch.from_numpy(np.ascontiguousarray(new, dtype=np.int64))])
