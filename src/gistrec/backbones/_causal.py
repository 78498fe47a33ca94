"""What causal attention backbones share: running layers over held states, loss, append, score.

Shapes: B users, S new events, M held slots, T = M + S slots a query may see, H heads, D width.

The newest event of a state is held raw, in `tail.item` and `tail.time`. With the request's own
time as an input of the query, an event's output (and so its keys and values in the layers above)
is final only when the next event's time is known; and scoring needs its output anyway. So an
append absorbs the tail and all new events but the last, and a score runs the tail's step without
keeping it. The append law then holds exactly, whatever the bias is a function of.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gistrec.backbones import Backbone
from gistrec.backbones._batch import batched, joined, next_position, pad
from gistrec.backbones._blocks import ItemHead, position_bucket, time_bucket
from gistrec.backbones._layer import Layer, Step
from gistrec.dataset import Batch, History
from gistrec.memories import Held, slot_axis
from gistrec.state import UserState, positions

_CHUNK = 256
"""Events absorbed at once by an append: bounds the S x T attention matrix."""
_CELLS = 24_000_000
"""Attention cells (B * H * S * T) computed at once by an append or score."""
_FORGET = 2 ** (-1 / 16)
"""Share of `hint.recent` that an event leaves."""


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
        if suffix := max(layer.suffix for layer in layers):
            self.registers = nn.Parameter(torch.randn(suffix, width) * 0.16)
        self.suffix = suffix
        self.uses_time, self.request_time = uses_time, request_time
        self._with_slots = [layer for layer in layers if _has_slots(layer)]
        reads_items = repeats or any(layer.reads_items for layer in layers)
        reads_times = repeats or (uses_time and bool(self._with_slots))
        # some slots may get out of every layer's reach; the others then need their positions
        self.drops = not bool(self._reach(torch.arange(1 << 16), 1 << 16).all())
        named = {"item": reads_items, "time": reads_times, "pos": self.drops}
        self.keeps = tuple(name for name, kept in named.items() if kept)

    def set_popularity(self, count_V: Tensor) -> None:
        """Give the event counts by which users without a history are served."""
        self.head.prior.copy_((count_V + 1).log())

    def loss(self, batch: Batch, *, rng: torch.Generator | None = None) -> Tensor:
        """Cross-entropy of the batch's pairs plus the memories' own penalties."""
        span = torch.arange(batch.item_BS.shape[1], device=batch.item_BS.device)
        at_BS = batch.next_time_BS if self.request_time else batch.time_BS
        mask_BS = batch.item_BS < self.num_items
        whole = torch.ones(1, 1, dtype=torch.bool, device=span.device)
        step = self._step(
            span[None], span[None], at_BS, batch.time_BS, batch.item_BS, whole, mask_BS
        )
        x_BSD = self.dropout(self.head.embed(batch.item_BS))
        x_BSD, after = self._run(x_BSD, None, step)
        penalty = x_BSD.new_zeros(())
        for layer, held in zip(self._layers(), after, strict=True):
            penalty = penalty + layer.penalty(held, mask_BS)
        total: Tensor = penalty + self.head.loss(x_BSD, batch, at_BS, rng)
        return total

    @torch.no_grad()
    def empty(self, *, hints: bool = False) -> UserState:
        """No slots and an empty tail."""
        if self.training:
            self.eval()
        nothing = torch.zeros(0, dtype=torch.int64)
        tensors: dict[str, Tensor] = dict.fromkeys(self.keeps, nothing)
        for number, layer in enumerate(self._layers()):
            tensors |= {f"{n}.{number}": t[0].cpu() for n, t in layer.empty().items()}
        if any(name.startswith("fixed.") for name in tensors):
            tensors["fixed.count"] = torch.zeros(1, dtype=torch.int64)
        if hints and self._with_slots:
            paid = dict.fromkeys(_PAID, torch.zeros(0))
            tensors |= ({} if "item" in tensors else {"hint.item": nothing}) | paid
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
        empty = self.empty()
        if not num_events:
            return empty.nbytes
        kept = {n: t for n, t in empty.slots() if not n.startswith("hint.")}
        # a row's numbers: all but the slot axis, which is empty here
        per_slot = sum(
            t.element_size()
            * (t.shape[0] * t.shape[-1] if t.ndim == 3 else t.ndim == 1 or t.shape[-1])
            for t in kept.values()
        )
        absorbed = num_events - 1
        slots = int(self._reach(torch.arange(absorbed), absorbed).sum()) if self.drops else absorbed
        return empty.nbytes + slots * per_slot + 16

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
            cells = (slots[n] + 1) * min(slots[n] + 1, _CHUNK) * self.num_heads * (1 + self.suffix)
            if groups and (len(groups[-1]) + 1) * cells <= _CELLS and len(groups[-1]) < 512:
                groups[-1].append(n)
            else:
                groups.append([n])
        return groups

    def _reach(self, position_M: Tensor, following: int) -> Tensor:
        """Which slots some layer may still read; all of them where no layer holds any."""
        found = [layer.reach(position_M, following) for layer in self._with_slots]
        return torch.stack(found).any(0) if found else torch.ones(len(position_M)) > 0

    def _step(
        self,
        query_BS: Tensor,
        slot_BT: Tensor,
        at_BS: Tensor,
        time_BT: Tensor,
        item_BT: Tensor,
        slot_real_BT: Tensor,
        real_BS: Tensor,
    ) -> Step:
        each = (1, 1 + self.suffix)
        query_BQ, at_BQ = query_BS.repeat(each), at_BS.repeat(each)
        distance_BQT = query_BQ[:, :, None] - slot_BT[:, None, :]
        elapsed = time_bucket(at_BQ[:, :, None] - time_BT[:, None, :]) if self.uses_time else None
        return Step(
            query_BQ,
            slot_BT,
            (distance_BQT >= 0) & slot_real_BT[:, None, :],
            real_BS,
            item_BT,
            position_BQT=position_bucket(distance_BQT),
            time_BQT=elapsed,
        )

    def _run(
        self, x_BSD: Tensor, held: Sequence[Held] | None, step: Step
    ) -> tuple[Tensor, list[Held]]:
        """All layers: the events' outputs, and what each layer then holds."""
        x_BQD, after = x_BSD, []
        if self.suffix:
            one = (len(x_BSD), -1, x_BSD.shape[1], -1)
            x_BQD = torch.cat([x_BSD, self.registers[None, :, None].expand(one).flatten(1, 2)], 1)
        for number, layer in enumerate(self._layers()):
            x_BQD, rows = layer(x_BQD, held[number] if held else None, step)
            after.append(rows)
        return x_BQD[:, : x_BSD.shape[1]], after

    def _continue(
        self,
        states: Sequence[UserState],
        item_BS: Tensor,
        time_BS: Tensor,
        at_BS: Tensor,
        new_B: Tensor,
        *,
        note: bool = False,
    ) -> tuple[Tensor, list[Held], Tensor, Tensor, Tensor | None]:
        """Run `new_B` events of each user behind its slots.

        Returns the outputs (B, S, D), what each layer then holds, the slots' times and which of
        them are real (B, T), and if asked for the attention that slots received (B, S, T). States
        live on the CPU; the outputs are where the weights are.
        """
        size = item_BS.shape[1]
        held_B = torch.tensor([s.num_slots for s in states])
        slots = int(held_B.max())
        query_BS = torch.tensor([next_position(s) for s in states])[:, None] + torch.arange(size)
        pos_BT = torch.cat([pad([positions(s) for s in states], slots), query_BS], dim=1)
        held_real, new_real = (
            torch.arange(n) < count_B[:, None] for n, count_B in ((slots, held_B), (size, new_B))
        )
        real_BT = torch.cat([held_real, new_real], dim=1)
        time_BT, item_BT = time_BS, item_BS
        if "time" in self.keeps:
            time_BT = torch.cat([pad([s.tensors["time"] for s in states], slots), time_BS], dim=1)
        if "item" in self.keeps:
            item_BT = torch.cat([pad([s.tensors["item"] for s in states], slots), item_BS], dim=1)
        alike = bool((pos_BT == pos_BT[:1]).all())  # then one user's distances are everybody's
        some = slice(0, 1 if alike else None)
        where = (query_BS[some], pos_BT[some], at_BS, time_BT, item_BT, real_BT, new_real)
        step = self._step(*(t.to(self.device) for t in where))
        if note:
            step.received_BST = torch.zeros(len(states), size, slots + size, device=self.device)
        held = []
        for number in range(len(self.layers)):
            names = [n for n in states[0].tensors if n.endswith(f".{number}")]
            rows = {n: batched(n, [s.tensors[n] for s in states], slots) for n in names}
            held.append({n.rpartition(".")[0]: r.to(self.device) for n, r in rows.items()})
        x_BSD, after = self._run(self.head.embed(item_BS.to(self.device)), held, step)
        after = [{n: rows.cpu() for n, rows in layer.items()} for layer in after]
        received = None if step.received_BST is None else step.received_BST.cpu()
        return x_BSD, after, time_BT, real_BT, received

    def _absorb(self, states: Sequence[UserState], events: Sequence[History]) -> list[UserState]:
        """States with at least one new event each, absorbed in one go."""
        pairs = list(zip(states, events, strict=True))
        items = [joined(s.tensors["tail.item"], e.item_index) for s, e in pairs]
        times = [joined(s.tensors["tail.time"], e.timestamp) for s, e in pairs]
        new_B = torch.tensor([len(i) - 1 for i in items])
        size = int(new_B.max())
        slots = max(s.num_slots for s in states)
        after: list[Held] = []
        paid_BKT = None
        if size:
            item_BS = pad([i[:-1] for i in items], size, fill=self.num_items)
            time_BS = pad([t[:-1] for t in times], size)
            at_BS = pad([t[1:] if self.request_time else t[:-1] for t in times], size)
            note = any(name in s.tensors for s in states for name in _PAID)
            _, after, _, _, received = self._continue(
                states, item_BS, time_BS, at_BS, new_B, note=note
            )
            paid_BKT = None if received is None else _paid(received, new_B)
        out = []
        for b, (state, event) in enumerate(pairs):
            new = int(new_B[b])
            item, time = items[b], times[b]
            tensors = dict(state.tensors)
            fresh = {"item": item[:-1], "hint.item": item[:-1], "time": time[:-1]}
            fresh["pos"] = next_position(state) + torch.arange(new)
            for name in fresh.keys() & tensors.keys():
                tensors[name] = torch.cat([tensors[name], fresh[name]])
            for place, (name, left) in enumerate(_PAID.items()):
                if name in tensors and new and paid_BKT is not None:
                    before_M = state.hint(name) * left**new
                    paid_T = paid_BKT[b, place]
                    there, fresh_S = paid_T[: len(before_M)], paid_T[slots : slots + new]
                    tensors[name] = torch.cat([before_M + there, fresh_S])
            for number, held in enumerate(after):
                for name, rows in held.items():
                    whole = f"{name}.{number}"
                    if name.startswith("fixed."):
                        tensors[whole] = rows[b].clone()
                    else:
                        axis = slot_axis(rows)
                        added = rows[b].narrow(axis, slots, new)
                        tensors[whole] = torch.cat([tensors[whole], added], dim=axis)
            if "fixed.count" in tensors:
                tensors["fixed.count"] = tensors["fixed.count"] + new
            tensors["tail.item"], tensors["tail.time"] = item[-1:].clone(), time[-1:].clone()
            out.append(self._within_reach(state.replace(tensors, length=state.length + len(event))))
        return out

    def _within_reach(self, state: UserState) -> UserState:
        if not self.drops:
            return state
        kept_M = self._reach(positions(state), next_position(state))
        return state if bool(kept_M.all()) else state.select(kept_M.nonzero()[:, 0])

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
        x_BSD, _, time_BT, real_BT, _ = self._continue(states, item_B1, time_B1, at_B1, one)
        item_C = None if item_C is None else item_C.to(self.device)
        score_BC = self.head.score(x_BSD[:, -1], item_C)
        if self.head.repeats is None:
            return score_BC.cpu()
        slots = real_BT.shape[1] - 1
        item_BT = torch.cat([pad([s.tensors["item"] for s in states], slots), item_B1], dim=1)
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
        both = self.head.repeats.join(wide_BC, weight_BT, column_V[column_BT], wide_C, prior)
        return both[:, :-1].cpu()


_PAID = {"hint.total": 1.0, "hint.recent": _FORGET, "hint.last": 0.0}
"""Attention that a slot received, by the share of it that every further event leaves."""


def _paid(received_BST: Tensor, new_B: Tensor) -> Tensor:
    """What the new events' queries add to each of `_PAID`: (B, 3, T)."""
    age_BS = new_B[:, None] - 1 - torch.arange(received_BST.shape[1])
    weight_KBS = torch.stack([left ** age_BS.clamp(min=0).float() for left in _PAID.values()])
    return torch.einsum("kbs,bst->bkt", weight_KBS * (age_BS >= 0), received_BST)


def _has_slots(layer: Layer) -> bool:
    return any(not name.startswith("fixed.") for name in layer.empty())
