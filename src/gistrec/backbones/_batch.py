"""Tensors of several users as one batch.

Shapes: B users, S new events, M slots, T = M + S.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gistrec.dataset import History
from gistrec.memories import Held, slot_axis
from gistrec.state import UserState, positions

CHUNK = 256
"""Events absorbed at once by an append: bounds the S x T attention matrix."""
_CELLS = 24_000_000
"""Attention cells (B * H * S * T) computed at once by an append or score."""


def groups(users: Sequence[int], slots: Sequence[int], rows: int) -> list[list[int]]:
    """Users in batches whose attention matrices fit.

    Args:
        users: Already sorted by their slots.
        slots: Of all users, by number.
        rows: Rows of attention that an event has: heads, and those of registers.
    """
    found: list[list[int]] = []
    for n in users:
        cells = (slots[n] + 1) * min(slots[n] + 1, CHUNK) * rows
        if found and (len(found[-1]) + 1) * cells <= _CELLS and len(found[-1]) < 512:
            found[-1].append(n)
        else:
            found.append([n])
    return found


def absorbed(
    states: Sequence[UserState],
    events: Sequence[History],
    rows: int,
    absorb: Callable[[Sequence[UserState], Sequence[History]], list[UserState]],
) -> list[UserState]:
    """States followed by their users' events, absorbed in chunks so that memory stays bounded.

    Args:
        states: B states.
        events: New events of each, any number.
        rows: Rows of attention that an event has.
        absorb: Takes states with at least one new event each, all at once.
    """
    out = list(states)
    todo = [n for n, e in enumerate(events) if len(e)]
    todo.sort(key=lambda n: states[n].num_slots + len(events[n]))
    after = [s.num_slots + len(e) for s, e in zip(states, events, strict=True)]
    for group in groups(todo, after, rows):
        longest = max(len(events[n]) for n in group)
        for start in range(0, longest, CHUNK):
            part = [n for n in group if len(events[n]) > start]
            chunks = [events[n][start : start + CHUNK] for n in part]
            for n, state in zip(part, absorb([out[n] for n in part], chunks), strict=True):
                out[n] = state
    return out


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


def next_position(state: UserState) -> int:
    """Where the event behind the slots stands in the history, evicted slots counted."""
    if "fixed.count" in state.tensors:
        return int(state.tensors["fixed.count"])
    pos = state.tensors.get("pos")
    return state.num_slots if pos is None or not len(pos) else int(pos[-1]) + 1


def joined(tail: Tensor, new: np.ndarray) -> Tensor:
    """A state's tail followed by new events."""
    return torch.cat([tail, torch.from_numpy(np.ascontiguousarray(new, dtype=np.int64))])


class Joined(NamedTuple):
    """New events of several users behind their slots, filled up to one size."""

    new: list[int]
    """How many new events each user has; they come first."""
    slots: int
    """M: most slots that a user holds."""
    item_BS: Tensor
    time_BS: Tensor
    at_BS: Tensor
    query_BS: Tensor
    """Positions of the new events."""
    real_BS: Tensor
    pos_BT: Tensor
    """Positions of slots and new events."""
    slot_real_BT: Tensor
    time_BT: Tensor
    item_BT: Tensor

    def added(self, after: Sequence[Held]) -> list[Held]:
        """Each user's rows of new events, by name, on the CPU; `fixed.*` as a whole."""
        out: list[Held] = [{} for _ in self.new]
        for number, layer in enumerate(after):
            for name, rows in layer.items():
                rows_cpu, axis = rows.cpu(), slot_axis(rows)
                for own, new, row in zip(out, self.new, rows_cpu, strict=True):
                    whole = name.startswith("fixed.")
                    own[f"{name}.{number}"] = (
                        row.clone() if whole else row.narrow(axis, self.slots, new)
                    )
        return out


def held_rows(states: Sequence[UserState], layers: int, slots: int) -> list[Held]:
    """What each layer holds, filled up to a number of slots."""
    out: list[Held] = []
    for number in range(layers):
        names = [n for n in states[0].tensors if n.endswith(f".{number}")]
        found = {n: [s.tensors[n] for s in states] for n in names}
        out.append(
            {
                n.rpartition(".")[0]: torch.stack(rows)
                if n.startswith("fixed.")
                else pad(rows, slots)
                for n, rows in found.items()
            }
        )
    return out


def joined_batch(
    states: Sequence[UserState],
    items: Sequence[Tensor],
    times: Sequence[Tensor],
    at: Sequence[Tensor],
    *,
    filling: int,
) -> Joined:
    """New events, at least one each, as a batch; `filling` is the item of places without one."""
    new, held_B = [len(i) for i in items], torch.tensor([s.num_slots for s in states])
    size, slots = max(new), int(held_B.max())
    query_BS = torch.tensor([next_position(s) for s in states])[:, None] + torch.arange(size)
    held_real, real_BS = (
        torch.arange(n) < count_B[:, None]
        for n, count_B in ((slots, held_B), (size, torch.tensor(new)))
    )
    item_BS, time_BS = pad(items, size, fill=filling), pad(times, size)

    def behind(name: str, new_BS: Tensor) -> Tensor:
        nothing = torch.zeros(slots, dtype=torch.int64)
        return torch.cat(
            [pad([s.tensors.get(name, nothing) for s in states], slots), new_BS], dim=1
        )

    return Joined(
        new,
        slots,
        item_BS,
        time_BS,
        pad(at, size),
        query_BS,
        real_BS,
        torch.cat([pad([positions(s) for s in states], slots), query_BS], dim=1),
        torch.cat([held_real, real_BS], dim=1),
        behind("time", time_BS),
        behind("item", item_BS),
    )
