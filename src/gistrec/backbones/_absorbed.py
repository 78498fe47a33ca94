"""What absorbed events leave in a state: rows, and the attention that slots received.

Shapes: S new events, M held slots, T = M + S, D width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gistrec.backbones._batch import next_position
from gistrec.memories import Held
from gistrec.state import UserState

_FORGET = 2 ** (-1 / 16)
"""Share of `hint.recent` that an event leaves."""
HINTS = {"hint.total": 1.0, "hint.recent": _FORGET, "hint.last": 0.0}
"""Attention that a slot received, by the share of it that every further event leaves."""


class Ran(NamedTuple):
    """What running one user's new events found."""

    out_D: Tensor
    """The last event's output, where the weights are."""
    rows: Held
    """Rows that the events add to the state's tensors; `fixed.*` as a whole."""
    received_ST: Tensor | None
    """What each event's queries paid to each slot, if it was noted."""


def grow(state: UserState, item_S: Tensor, time_S: Tensor, ran: Ran) -> UserState:
    """A state with what S events left; its tail and length are still those before."""
    tensors = dict(state.tensors)
    fresh = {"item": item_S, "hint.item": item_S, "time": time_S}
    fresh["pos"] = next_position(state) + torch.arange(len(item_S))
    for name in fresh.keys() & tensors.keys():
        tensors[name] = torch.cat([tensors[name], fresh[name]])
    if ran.received_ST is not None:
        tensors |= _received(state, ran.received_ST)
    for name, rows in ran.rows.items():
        if name.startswith("fixed."):
            tensors[name] = rows
        else:
            tensors[name] = torch.cat([tensors[name], rows], dim=-2 if rows.ndim > 1 else -1)
    if "fixed.count" in tensors:
        tensors["fixed.count"] = tensors["fixed.count"] + len(item_S)
    return state.replace(tensors)


def _received(state: UserState, received_ST: Tensor) -> dict[str, Tensor]:
    """A state's hints of attention after S new events.

    Args:
        state: Before them.
        received_ST: What each event's queries paid to each slot, S at least 1.
    """
    age_S = torch.arange(len(received_ST) - 1, -1, -1)
    out = {}
    for name, left in HINTS.items():
        if name in state.tensors:
            paid_T = (left ** age_S.float()) @ received_ST
            before_M = state.hint(name) * left ** len(received_ST)
            paid_T[: len(before_M)] += before_M
            out[name] = paid_T
    return out
