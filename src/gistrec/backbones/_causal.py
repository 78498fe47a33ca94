"""What causal attention backbones share: running layers over held states, loss, append, score.

Shapes: B users, S new events, M held slots, T = M + S slots a query may see, H heads, D width.

The newest event of a state is held raw, in `tail.item` and `tail.time`. With the request's own
time as an input of the query, an event's output (and so its keys and values in the layers above)
is final only when the next event's time is known; and scoring needs its output anyway. So an
append absorbs the tail and all new events but the last, and a score runs the tail's step without
keeping it. The append law then holds exactly, whatever the bias is a function of.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gistrec.backbones import Backbone
from gistrec.backbones._blocks import ItemHead, position_bucket, time_bucket
from gistrec.dataset import Batch, History
from gistrec.memories import Memory
from gistrec.state import UserState, positions

Held = dict[str, Tensor]
"""One layer's rows of a batch of users, by name."""

_CHUNK = 256
"""Events absorbed at once by an append: bounds the S x T attention matrix."""
_CELLS = 24_000_000
"""Attention cells (B * H * S * T) computed at once by an append or score."""


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Where queries stand in relation to slots; B may be 1 where all users are alike."""

    visible_BST: Tensor
    """True where a query may see a slot."""
    position_BST: Tensor
    """Bucket of the distance in events."""
    time_BST: Tensor | None
    """Bucket of the seconds between a slot's event and the query's request."""


class Layer(nn.Module):
    """One layer: reads and writes its memory."""

    memory: Memory

    @abstractmethod
    def forward(self, x_BSD: Tensor, held: Held | None, geometry: Geometry) -> tuple[Tensor, Held]:
        """Outputs of S events, and the held rows followed by theirs."""

    def hold(self, held: Held | None, x_BSD: Tensor) -> Held:
        """Held rows followed by those of the new events."""
        return self.memory.write(x_BSD) if held is None else self.memory.append(held, x_BSD)


class Causal(Backbone):
    """A stack of causal attention layers over item vectors."""

    def __init__(
        self,
        num_items: int,
        *,
        width: int,
        num_heads: int,
        layers: Sequence[Layer],
        dropout: float,
        temperature: float,
        negatives: int,
        repeats: bool,
        uses_time: bool,
        request_time: bool,
    ) -> None:
        super().__init__(num_items)
        self.num_heads = num_heads
        self.layers = nn.ModuleList(layers)
        self.head = ItemHead(
            num_items, width, temperature=temperature, negatives=negatives, repeats=repeats
        )
        self.dropout = nn.Dropout(dropout)
        self.uses_time, self.request_time = uses_time, request_time
        self.keeps = (("item",) if repeats else ()) + (("time",) if uses_time or repeats else ())

    def set_popularity(self, count_V: Tensor) -> None:
        """Give the event counts by which users without a history are served."""
        self.head.prior.copy_((count_V + 1).log())

    def loss(self, batch: Batch, *, rng: torch.Generator | None = None) -> Tensor:
        """Cross-entropy of the batch's pairs plus the memories' own penalties."""
        span = torch.arange(batch.item_BS.shape[1], device=batch.item_BS.device)
        at_BS = batch.next_time_BS if self.request_time else batch.time_BS
        real = torch.ones(1, 1, dtype=torch.bool, device=span.device)
        geometry = self._geometry(span[None], span[None], at_BS, batch.time_BS, real)
        x_BSD = self.dropout(self.head.embed(batch.item_BS))
        mask_BS = batch.item_BS < self.num_items
        penalty = x_BSD.new_zeros(())
        for layer in self._layers():
            x_BSD, held = layer(x_BSD, None, geometry)
            penalty = penalty + layer.memory.penalty(held, mask_BS)
        total: Tensor = penalty + self.head.loss(x_BSD, batch, at_BS, rng)
        return total

    @torch.no_grad()
    def empty(self) -> UserState:
        """No slots and an empty tail."""
        if self.training:
            self.eval()
        tensors: dict[str, Tensor] = {n: torch.zeros(0, dtype=torch.int64) for n in self.keeps}
        for number, layer in enumerate(self._layers()):
            rows = layer.memory.write(torch.zeros(1, 0, layer.memory.width, device=self.device))
            tensors |= {f"{n}.{number}": t[0].cpu() for n, t in rows.items()}
        nothing = torch.zeros(0, dtype=torch.int64)
        tensors |= {"tail.item": nothing, "tail.time": nothing}
        return UserState(tensors, 0, self.fingerprint())

    @torch.no_grad()
    def append(self, states: Sequence[UserState], events: Sequence[History]) -> list[UserState]:
        """Each state followed by its user's new events.

        Users are batched by length and histories absorbed in chunks, so memory stays bounded.
        """
        if self.training:
            self.eval()
        out = list(states)
        todo = [n for n, e in enumerate(events) if len(e)]
        todo.sort(key=lambda n: states[n].num_slots + len(events[n]))
        for group in self._groups(
            todo, [s.num_slots + len(e) for s, e in zip(states, events, strict=True)]
        ):
            longest = max(len(events[n]) for n in group)
            for start in range(0, longest, _CHUNK):
                part = [n for n in group if len(events[n]) > start]
                chunks = [events[n][start : start + _CHUNK] for n in part]
                for n, state in zip(
                    part, self._absorb([out[n] for n in part], chunks), strict=True
                ):
                    out[n] = state
        return out

    @torch.no_grad()
    def score(
        self,
        states: Sequence[UserState],
        item_index: Tensor | None = None,
        *,
        at: Sequence[int | None] | None = None,
    ) -> Tensor:
        """Score candidates for each state; users without known events get the items' popularity."""
        if self.training:
            self.eval()
        if item_index is not None:  # a candidate given twice is scored once
            item_index, place_N = item_index.unique(return_inverse=True)
            count = len(item_index)
        else:
            count = self.num_items
        prior = self.head.prior.cpu()
        prior = prior if item_index is None else prior[item_index]
        out = prior.expand(len(states), count).clone()
        todo = [n for n, s in enumerate(states) if len(s.tensors["tail.item"])]
        todo.sort(key=lambda n: states[n].num_slots)
        for group in self._groups(todo, [s.num_slots for s in states]):
            times = [None if at is None else at[n] for n in group]
            out[group] = self._score([states[n] for n in group], item_index, times)
        return out if item_index is None else out[:, place_N]

    def state_bytes(self, num_events: int) -> int:
        """Bytes of the uncompressed state after `num_events` events."""
        if not num_events:
            return 0
        row = self.empty().tensors
        per_slot = 0
        for name, tensor in row.items():
            if not name.startswith("tail."):
                wide = (
                    tensor.numel()
                    if tensor.ndim == 1
                    else tensor.shape[-1] * (tensor.shape[0] if tensor.ndim == 3 else 1)
                )
                per_slot += max(wide, 1) * tensor.element_size()
        return (num_events - 1) * per_slot + 16

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.table.weight.device

    # ---- internals ----

    def _layers(self) -> list[Layer]:
        return list(self.layers)  # type: ignore[arg-type]  # a ModuleList is typed as of Modules

    def _groups(self, users: Sequence[int], slots: Sequence[int]) -> list[list[int]]:
        """Users, already sorted by slots, in batches whose attention matrices fit."""
        groups: list[list[int]] = []
        for n in users:
            cells = (slots[n] + 1) * min(slots[n] + 1, _CHUNK) * self.num_heads
            if groups and (len(groups[-1]) + 1) * cells <= _CELLS and len(groups[-1]) < 512:
                groups[-1].append(n)
            else:
                groups.append([n])
        return groups

    def _geometry(
        self, query_BS: Tensor, slot_BT: Tensor, at_BS: Tensor, time_BT: Tensor, real_BT: Tensor
    ) -> Geometry:
        distance_BST = query_BS[:, :, None] - slot_BT[:, None, :]
        elapsed = time_bucket(at_BS[:, :, None] - time_BT[:, None, :]) if self.uses_time else None
        visible = (distance_BST >= 0) & real_BT[:, None, :]
        return Geometry(visible, position_bucket(distance_BST), elapsed)

    def _step(
        self,
        states: Sequence[UserState],
        item_BS: Tensor,
        time_BS: Tensor,
        at_BS: Tensor,
        new_B: Tensor,
    ) -> tuple[Tensor, list[Held], Tensor, Tensor]:
        """Run `new_B` events of each user behind its slots.

        Returns the outputs (B, S, D), what each layer then holds, and the slots' times and which
        of them are real (B, T). States live on the CPU; the outputs are where the weights are.
        """
        size = item_BS.shape[1]
        held_B = torch.tensor([s.num_slots for s in states])
        slots = int(held_B.max())
        first_B = torch.tensor([_next_position(s) for s in states])
        query_BS = first_B[:, None] + torch.arange(size)
        pos_BT = torch.cat([_pad([positions(s) for s in states], slots), query_BS], dim=1)
        held_real, new_real = (
            torch.arange(n) < count_B[:, None] for n, count_B in ((slots, held_B), (size, new_B))
        )
        real_BT = torch.cat([held_real, new_real], dim=1)
        time_BT = time_BS
        if "time" in self.keeps:
            time_BT = torch.cat([_pad([s.tensors["time"] for s in states], slots), time_BS], dim=1)
        alike = bool((pos_BT == pos_BT[:1]).all())  # then one user's distances are everybody's
        some = slice(0, 1 if alike else None)
        where = (query_BS[some], pos_BT[some], at_BS, time_BT, real_BT)
        geometry = self._geometry(*(t.to(self.device) for t in where))
        x_BSD = self.head.embed(item_BS.to(self.device))
        after = []
        for number, layer in enumerate(self._layers()):
            names = [n for n in states[0].tensors if n.endswith(f".{number}")]
            held = {n: _pad([s.tensors[n] for s in states], slots).to(self.device) for n in names}
            held = {n.rpartition(".")[0]: rows for n, rows in held.items()}
            x_BSD, held = layer(x_BSD, held, geometry)
            after.append({n: rows.cpu() for n, rows in held.items()})
        return x_BSD, after, time_BT, real_BT

    def _absorb(self, states: Sequence[UserState], events: Sequence[History]) -> list[UserState]:
        """States with at least one new event each, absorbed in one go."""
        items = [
            _joined(s.tensors["tail.item"], e.item_index)
            for s, e in zip(states, events, strict=True)
        ]
        times = [
            _joined(s.tensors["tail.time"], e.timestamp)
            for s, e in zip(states, events, strict=True)
        ]
        new_B = torch.tensor([len(i) - 1 for i in items])
        size = int(new_B.max())
        item_BS = _pad([i[:-1] for i in items], size, fill=self.num_items)
        time_BS = _pad([t[:-1] for t in times], size)
        at_BS = _pad([t[1:] if self.request_time else t[:-1] for t in times], size)
        after: list[Held] = []
        if size:
            _, after, _, _ = self._step(states, item_BS, time_BS, at_BS, new_B)
        slots = max(s.num_slots for s in states)
        out = []
        for b, (state, item, time, event) in enumerate(
            zip(states, items, times, events, strict=True)
        ):
            old, new = state.num_slots, int(new_B[b])
            tensors = dict(state.tensors)
            fresh = {"item": item[:-1], "time": time[:-1]}
            fresh["pos"] = _next_position(state) + torch.arange(new)
            for name in (*self.keeps, *(("pos",) if "pos" in tensors else ())):
                tensors[name] = torch.cat([tensors[name], fresh[name]])
            for number, held in enumerate(after):
                for name, rows in held.items():
                    axis = -1 if rows.ndim == 2 else -2
                    added = rows[b].narrow(axis, slots, new)
                    tensors[f"{name}.{number}"] = torch.cat(
                        [tensors[f"{name}.{number}"], added], dim=axis
                    )
            tensors["tail.item"], tensors["tail.time"] = item[-1:].clone(), time[-1:].clone()
            out.append(UserState(tensors, state.length + len(event), state.model))
            assert out[-1].num_slots == old + new  # noqa: S101 - the layers' rows line up
        return out

    def _score(
        self, states: Sequence[UserState], item_C: Tensor | None, times: Sequence[int | None]
    ) -> Tensor:
        item_B1 = torch.stack([s.tensors["tail.item"][-1:] for s in states])
        time_B1 = torch.stack([s.tensors["tail.time"][-1:] for s in states])
        at_B1 = time_B1
        if self.request_time:
            known = torch.tensor([[-1 if t is None else t] for t in times])
            at_B1 = torch.maximum(known, time_B1)  # a request is never before the newest event
        one = torch.ones(len(states), dtype=torch.int64)
        x_BSD, _, time_BT, real_BT = self._step(states, item_B1, time_B1, at_B1, one)
        item_C = None if item_C is None else item_C.to(self.device)
        score_BC = self.head.score(x_BSD[:, -1], item_C)
        if self.head.repeats is None:
            return score_BC.cpu()
        slots = real_BT.shape[1] - 1
        item_BT = torch.cat([_pad([s.tensors["item"] for s in states], slots), item_B1], dim=1)
        weight_BT = self.head.repeats.weight(
            (at_B1 - time_BT).to(self.device), real_BT.to(self.device)
        )
        column_BT, prior = item_BT.to(self.device), self.head.prior
        if item_C is None:
            return self.head.repeats.join(score_BC, weight_BT, column_BT, None, prior).cpu()
        # events of items that are not candidates count towards one more column, cut off again
        column_V = torch.full((self.num_items,), len(item_C), device=self.device)
        column_V[item_C] = torch.arange(len(item_C), device=self.device)
        wide_BC, wide_C = F.pad(score_BC, (0, 1)), F.pad(item_C, (0, 1))
        joined = self.head.repeats.join(wide_BC, weight_BT, column_V[column_BT], wide_C, prior)
        return joined[:, :-1].cpu()


def _pad(rows: Sequence[Tensor], slots: int, *, fill: int = 0) -> Tensor:
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


def _next_position(state: UserState) -> int:
    """Where the event behind the slots stands in the history, evicted slots counted."""
    pos = state.tensors.get("pos")
    return state.num_slots if pos is None or not len(pos) else int(pos[-1]) + 1


def _joined(tail: Tensor, new: np.ndarray) -> Tensor:
    return torch.cat([tail, torch.from_numpy(np.ascontiguousarray(new, dtype=np.int64))])
