"""What became of every event of a history in a state: kept, merged with others, or forgotten.

It is found by looking at states, not by asking methods: a slot that an event no longer has was
merged if the slot that is left behind it holds other numbers than before, and else let go.

Shapes: M slots, R events of the log.
"""

from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gistrec.codecs import SLOTS, Chain, is_row_tensor
from gistrec.state import UserState, positions

Fate = Literal["kept", "merged", "forgotten", "summed", "waiting", "unknown"]
"""
- kept: it has a slot of its own
- merged: a codec joined its slot with that of a later event
- forgotten: a codec dropped its slot
- summed: the model's own memory has no slot for it; it sums up or leaves behind what is old
- waiting: the newest event, which the layers have not absorbed yet, held as it is
- unknown: its item was not in the model's training; it is in the log only
"""


class Run(NamedTuple):
    """Neighbouring events of one fate."""

    fate: Fate
    events: int


def fates(held: UserState, full: UserState, chain: Chain, known_R: NDArray[np.bool_]) -> list[Run]:
    """The fate of every event, oldest first.

    Args:
        held: The state as a backbone reads it, decoded.
        full: The uncompressed state of the same history, with hints.
        chain: The codecs that are between both.
        known_R: Of every event of the log whether the model knows its item.
    """
    tail = len(held.tensors["tail.item"])
    absorbed = int(known_R.sum()) - tail
    stands_R = _stands_for(full, chain, absorbed)
    merges = bool(((stands_R >= 0) & (stands_R != np.arange(absorbed))).any())
    fate_R = np.full(absorbed, "summed", dtype=object)
    own = positions(full).numpy()
    fate_R[own] = "forgotten"
    if merges:
        fate_R[own[stands_R[own] >= 0]] = "merged"
    fate_R[positions(held).numpy()] = "kept"
    all_R = np.full(len(known_R), "unknown", dtype=object)
    all_R[known_R] = [*fate_R, *["waiting"] * tail]
    return [Run(fate, sum(1 for _ in run)) for fate, run in groupby(all_R.tolist())]


def _stands_for(full: UserState, chain: Chain, absorbed: int) -> NDArray[np.int64]:
    """By event, the position of the slot that stands for it behind the chain; -1 if none does."""
    stands_R = np.full(absorbed, -1)
    stands_R[positions(full).numpy()] = positions(full).numpy()
    before = full
    for codec in chain.codecs:
        if codec.stage != SLOTS:
            continue
        after = codec.encode(before)
        was, now = positions(before), positions(after)
        if len(now) < len(was):
            changed = _changed(before, after, torch.searchsorted(was, now))
            heir = torch.searchsorted(now, was)  # the slot itself, or the next one that is left
            safe = heir.clamp(max=max(len(now) - 1, 0))
            taken = (heir < len(now)) & ((now[safe] == was) | changed[safe]) if len(now) else None
            becomes = np.full(absorbed, -1)
            if taken is not None:
                becomes[was[taken].numpy()] = now[heir[taken]].numpy()
            stands_R = np.where(stands_R >= 0, becomes[stands_R], -1)
        before = after
    return stands_R


def _changed(before: UserState, after: UserState, place_M: Tensor) -> Tensor:
    """Which slots hold other rows than the slot at the same position did, (M,)."""
    changed_M = torch.zeros(len(place_M), dtype=torch.bool)
    for name, rows in after.slots():
        if is_row_tensor(name, rows) and name in before.tensors:
            was = before.tensors[name].index_select(-2, place_M)
            differs = (rows != was).any(-1)
            changed_M |= differs.reshape(-1, len(place_M)).any(0)
    return changed_M
